"""First stage: a retriever behind mteb's `SearchProtocol`, whatever finds its documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from mteb.models.model_meta import ModelMeta

from rerank_eval.results.recorder import CellScores, Recorder

Excluded = Mapping[tuple[str, str], Mapping[str, Set[str]]]
"""(subset, split) -> query id -> ids of documents."""

Advance = Callable[[int], None]
"""Told how many texts (first stage) or pairs (second stage) are done since the last call."""


@dataclass(frozen=True)
class SearchRequest:
    """One cell to search.

    Attributes:
        corpus: `datasets.Dataset` with columns `id`, `title`, `text`.
        queries: `datasets.Dataset` with columns `id`, `text` and perhaps `instruction`.
        depth: Documents kept for each query.
        within: For each query, the documents among which to search; None searches the corpus.
        context: mteb's task_metadata, hf_split and hf_subset.
        advance: Told of each text embedded or query answered.
    """

    corpus: Any
    queries: Any
    depth: int
    within: Mapping[str, Sequence[str]] | None
    context: dict[str, Any]
    advance: Advance


class Backend(Protocol):
    """What finds documents: embeddings or BM25."""

    def search(self, request: SearchRequest) -> dict[str, dict[str, float]]:
        """Find the best documents of each query.

        Args:
            request: The cell and how deep to search.

        Returns:
            query id -> document id -> score; higher is better, at most `depth` documents.
        """
        ...

    @property
    def work(self) -> dict[str, float]:
        """What was computed since the retriever was loaded, for a manifest; empty where nothing counts."""
        ...

    def prompts(self, task_metadata: Any) -> dict[str, str] | None:
        """Return what stands before a task's queries and documents, for a manifest; None where nothing ever does.

        Args:
            task_metadata: mteb's `TaskMetadata` of the task.
        """
        ...


class CandidateSearch:
    """A retriever as mteb's evaluator wants it: keeps the top k of what may be a candidate.

    mteb drops identical ids only when it scores, so that the query's own document would take one of the k places.

    Args:
        backend: What finds documents.
        meta: Identity under which mteb files the result.
        top_k: Documents kept for each query.
        own_lists: The candidates that mteb hands over are all kept, rather than the top k of them.
        excluded: For each cell (subset, split) and query, documents that are no candidates.
        advance: Told of progress.

    Attributes:
        recorder: What was found, cell by cell.
    """

    def __init__(
        self,
        backend: Backend,
        meta: ModelMeta,
        *,
        top_k: int,
        own_lists: bool = False,
        excluded: Excluded | None = None,
        advance: Advance | None = None,
    ) -> None:
        self.backend = backend
        self.mteb_model_meta = meta
        self.top_k = top_k
        self.own_lists = own_lists
        self.excluded = excluded or {}
        self.recorder = Recorder()
        self._advance: Advance = advance or (lambda _: None)
        self._corpus: Any = None

    def index(self, corpus: Any, **_: Any) -> None:
        """Keep the corpus for `search`."""
        self._corpus = corpus

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Search the indexed corpus; see `Backend.search`.

        Raises:
            ModelError: A score is not finite.
        """
        native = dict(top_ranked) if top_ranked else None
        depth = max(map(len, native.values())) if native and self.own_lists else self.top_k
        excluded = self.excluded.get((hf_subset, hf_split), {})
        spare = max(map(len, excluded.values()), default=0)  # what is taken out leaves depth documents
        context = {"task_metadata": task_metadata, "hf_split": hf_split, "hf_subset": hf_subset}
        found = self.backend.search(SearchRequest(self._corpus, queries, depth + spare, native, context, self._advance))
        cell = CellScores()
        results: dict[str, dict[str, float]] = {}
        for query_id in queries["id"]:
            ranked = rank(found.pop(query_id, {}))  # let go: ten million pairs do not fit twice
            out = excluded.get(query_id, ())
            ranked = [(document_id, score) for document_id, score in ranked if document_id not in out][:depth]
            cell.add(query_id, [d for d, _ in ranked], np.array([s for _, s in ranked], dtype=np.float64))
            results[query_id] = dict(ranked)
        cell.check_finite(self.mteb_model_meta.name or "retriever")
        self.recorder.cells[hf_subset, hf_split] = cell
        return results


def rank(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Order documents by score, ties by the larger document id, as trec_eval and mteb do.

    Args:
        scores: document id -> score.

    Returns:
        (document id, score) pairs, best first.
    """
    return sorted(scores.items(), key=lambda item: (item[1], item[0]), reverse=True)
