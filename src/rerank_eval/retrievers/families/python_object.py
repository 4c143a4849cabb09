"""Retrievers that are Python code: a class or object with `search`.

    class MyRetriever:
        revision = "1"  # changed with whatever it reads, such as weights

        def search(self, corpus, queries, top_k):
            return {query_id: {document_id: score}}  # at most top_k documents a query; higher is better

`corpus` maps document ids to texts (title and text joined, as every retriever here reads them), `queries` query ids to
texts, each with its own instruction behind it where the data gives one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mteb._create_dataloaders import _corpus_to_dict, create_dataloader
from mteb.types import PromptType

from rerank_eval.errors import ModelError
from rerank_eval.models.python_objects import find_object, make_object
from rerank_eval.models.ref import ModelRef
from rerank_eval.registry import RETRIEVERS
from rerank_eval.retrievers.family import Chosen
from rerank_eval.retrievers.retriever import SearchRequest

logger = logging.getLogger(__name__)

_BATCH = 1024


class ObjectBackend:
    """A Python retriever as a backend.

    Args:
        part: The object.
        label: Its name, for error messages.
    """

    def __init__(self, part: Any, label: str) -> None:
        self._part = part
        self._label = label

    def search(self, request: SearchRequest) -> dict[str, dict[str, float]]:
        """See `Backend.search`.

        Raises:
            ModelError: The code raised an exception, or returned what is no ranking of these queries and documents.
        """
        corpus = {row["id"]: _corpus_to_dict(row)["text"] for row in request.corpus}
        batches = create_dataloader(
            request.queries,
            task_metadata=request.context["task_metadata"],
            prompt_type=PromptType.query,
            batch_size=_BATCH,
        )
        texts = [text for batch in batches for text in batch["text"]]
        queries = dict(zip(request.queries["id"], texts, strict=True))
        request.advance(len(corpus))
        if request.within is None:
            found = self._ask(corpus, queries, request.depth)
        else:
            found = {}
            for query_id, text in queries.items():
                among = {one: corpus[one] for one in request.within.get(query_id, ())}
                found |= self._ask(among, {query_id: text}, request.depth) if among else {}
        request.advance(len(queries))
        return found

    def _ask(self, corpus: Mapping[str, str], queries: Mapping[str, str], top_k: int) -> dict[str, dict[str, float]]:
        try:
            answer = self._part.search(corpus, queries, top_k)
        except Exception as error:  # whatever somebody's code does
            logger.debug("%s failed", self._label, exc_info=True)
            raise ModelError(f"retriever.model: {self._label} raised {type(error).__name__}: {error}") from error
        if not isinstance(answer, Mapping) or not all(isinstance(one, Mapping) for one in answer.values()):
            raise ModelError(
                f"retriever.model: {self._label} returned no mapping of query ids to mappings of document ids to scores"
            )
        unknown = [one for one in answer if one not in queries]
        unknown += [one for documents in answer.values() for one in documents if one not in corpus]
        if unknown:
            raise ModelError(f"retriever.model: {self._label} returned {unknown[0]!r}, which is none of the ids given")
        try:
            return {
                query: {document: float(score) for document, score in documents.items()}
                for query, documents in answer.items()
            }
        except (TypeError, ValueError) as error:
            raise ModelError(f"retriever.model: {self._label} returned a score that is no number ({error})") from None

    @property
    def work(self) -> dict[str, float]:
        """See `Backend.work`."""
        return {}

    def prompts(self, task_metadata: Any) -> None:
        """See `Backend.prompts`."""


class PythonObject:
    """See the module; `Family` says what each method does."""

    def serves(self, ref: ModelRef) -> bool:
        """See `Family.serves`."""
        return ref.origin == "python"

    def identity(self, chosen: Chosen) -> dict[str, Any]:
        """See `Family.identity`."""
        config, label = chosen.config, chosen.ref.label
        part = find_object(config, chosen.ref, "retriever", RETRIEVERS)
        if not hasattr(part, "search"):
            raise ModelError(f"retriever.model: {label} has no search(corpus, queries, top_k), so that it is none")
        if config.instruction != "task":
            raise ModelError(f"retriever.instruction: {label} is Python code, which is given none; set it to task")
        return {"options": config.options} if config.options else {}

    def load(self, chosen: Chosen, device: str, results_dir: Path | None) -> ObjectBackend:
        """See `Family.load`."""
        part = make_object(chosen.config, chosen.ref, "retriever", RETRIEVERS, device)
        return ObjectBackend(part, chosen.ref.label)


PART = PythonObject()
