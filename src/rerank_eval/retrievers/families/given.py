"""Candidates that somebody else found: `retriever.run`, or `retriever.candidates: FOLDER`; see `given_runs`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank_eval.errors import DataError, ModelError
from rerank_eval.models.ref import ModelRef
from rerank_eval.names import some
from rerank_eval.results.manifest import file_digest
from rerank_eval.retrievers.family import Chosen
from rerank_eval.retrievers.given_runs import Exported, GivenRun, by_query, given_of, read_candidates
from rerank_eval.retrievers.retriever import SearchRequest

logger = logging.getLogger(__name__)

_READ = {"model", "run", "candidates", "top_k", "own_document", "revision"}


class GivenBackend:
    """Candidates from files, as a backend.

    Args:
        given: The files.
    """

    def __init__(self, given: GivenRun | Exported) -> None:
        self._given = given
        self._cells: dict[str, str] = {}
        self._work = {"queries_without_candidates": 0}

    def search(self, request: SearchRequest) -> dict[str, dict[str, float]]:
        """See `Backend.search`.

        Raises:
            DataError: The file is not there or was altered, or does not fit the data.
        """
        task, subset, split = (request.context[name] for name in ("task_metadata", "hf_subset", "hf_split"))
        path, written = self._given.file(task.name, subset, split)
        where = f"{task.name}, {subset}/{split}: {path}"
        try:
            if written is not None and file_digest(path) != written:
                raise DataError(f"{where}: altered since it was exported; fetch the folder again")
        except OSError as error:
            raise DataError(f"{where}: cannot be read ({error.strerror})") from None
        queries, corpus = list(request.queries["id"]), list(request.corpus["id"])
        found, others = by_query(read_candidates(path, subset, split), queries, corpus, where)
        if not self._given.by_cell:
            self._refuse_twice(found, f"{subset}/{split}", where)
        if request.within is not None:
            found = {query: _among(one, request.within.get(query, ())) for query, one in found.items()}
        missing = [query for query in queries if not found.get(query)]
        if missing:
            logger.warning(
                "%s: %d of %d queries are missing, such as %s", where, len(missing), len(queries), some(missing)
            )
        if others and self._given.by_cell:
            logger.warning("%s: %d of its queries are not in the data", where, others)
        self._work["queries_without_candidates"] += len(missing)
        request.advance(len(corpus) + len(queries))
        return found

    def _refuse_twice(self, found: Mapping[str, Any], cell: str, where: str) -> None:
        """Refuse a query of two cells: a run without subsets does not say whose candidates these are."""
        for query in found:
            before = self._cells.setdefault(query, cell)
            if before != cell:
                raise DataError(
                    f"{where}: query {query!r} is in {before} and in {cell}; give each its own file, with "
                    "{subset} and {split} in its name"
                )

    @property
    def work(self) -> dict[str, float]:
        """See `Backend.work`."""
        return dict(self._work)

    def prompts(self, task_metadata: Any) -> None:
        """See `Backend.prompts`; nobody knows."""


def _among(scores: Mapping[str, float], documents: Sequence[str]) -> dict[str, float]:
    kept = set(documents)
    return {document: score for document, score in scores.items() if document in kept}


class Given:
    """See the module; `Family` says what each method does."""

    def serves(self, ref: ModelRef) -> bool:
        """See `Family.serves`."""
        return ref.origin == "given"

    def identity(self, chosen: Chosen) -> dict[str, Any]:
        """See `Family.identity`."""
        config = chosen.config
        for key in config.set_beside(_READ):
            raise ModelError(f"retriever.{key}: candidates from files do not read it; take it out")
        given = given_of(config, "retriever")
        if isinstance(given, Exported) and config.top_k > given.depth:
            raise ModelError(
                f"retriever.top_k: {given.folder} has {given.depth} candidates of a query at the most; lower it to that"
            )
        return {}

    def load(self, chosen: Chosen, device: str, results_dir: Path | None) -> GivenBackend:
        """See `Family.load`."""
        return GivenBackend(given_of(chosen.config, "retriever"))


PART = Given()
