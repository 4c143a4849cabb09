"""A reranker behind mteb's `SearchProtocol`: what mteb's own wrapper of cross-encoders does, a query at a time.

mteb's wrapper lists the texts of all pairs before the first is scored: 10 GB for a subset of ten million pairs. Here
texts are read from the memory-mapped corpus when their query's turn comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mteb._create_dataloaders import _convert_conv_history_to_query, _corpus_to_dict

from rerank_eval.errors import DataError
from rerank_eval.rerankers.cross_encoder import Candidates, CrossEncoder

_ROWS = 65_536


class RerankSearch:
    """Reranks the candidates that mteb hands over.

    Args:
        model: The reranker; it is told of each query, and records what it scored.
    """

    def __init__(self, model: CrossEncoder) -> None:
        self.model = model
        self.mteb_model_meta = model.mteb_model_meta
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
        """Score every query's candidates.

        Args:
            queries: `datasets.Dataset` with columns `id`, `text` and perhaps `instruction`.
            task_metadata: mteb's metadata of the task.
            hf_split: Name of the split.
            hf_subset: Name of the subset.
            top_ranked: For each query, its candidates.
            **_: What else mteb says.

        Returns:
            query id -> document id -> score.

        Raises:
            DataError: A candidate is not in the corpus, or there are no candidates.
            ModelError: A score is not finite.
        """
        if top_ranked is None:
            raise DataError(f"{task_metadata.name}: a reranker needs candidates, and the task has none")
        results: dict[str, dict[str, float]] = {query_id: {} for query_id in queries["id"]}
        candidates = candidates_of(self._corpus, queries, top_ranked, f"{task_metadata.name} ({hf_subset}, {hf_split})")
        for reranked in self.model.answer(candidates, task_metadata, hf_subset, hf_split):
            scored = zip(reranked.document_ids, reranked.scores.scores.tolist(), strict=True)
            results[reranked.query_id] = dict(scored)
        return results


def candidates_of(
    corpus: Any, queries: Any, top_ranked: Mapping[str, Sequence[str]], where: str
) -> Iterator[Candidates]:
    """Yield each query with the texts of its candidates, as mteb gives them to a model.

    Args:
        corpus: `datasets.Dataset` with columns `id`, `text` and perhaps `title`.
        queries: `datasets.Dataset` with columns `id`, `text` and perhaps `instruction`.
        top_ranked: For each query, its candidates; queries that it lacks are passed over.
        where: Task, subset and split, for error messages.

    Raises:
        DataError: A candidate is not in the corpus.
    """
    rows = _rows(corpus, {document for ids in top_ranked.values() for document in ids})
    instructed = "instruction" in queries.column_names
    for row in queries:
        query_id = row["id"]
        if query_id not in top_ranked:
            continue
        ids = list(top_ranked[query_id])
        try:
            numbers = [rows[one] for one in ids]
        except KeyError as error:
            raise DataError(
                f"{where}: candidate {str(error.args[0])!r} of query {query_id!r} is not in the corpus; run again "
                "after deleting the retriever's results on this task"
            ) from None
        instruction = row["instruction"] if instructed else None
        text = row["text"]
        query = text if isinstance(text, str) else str(_convert_conv_history_to_query(dict(row))["query"])
        yield Candidates(query_id, query, instruction, ids, _texts(corpus, numbers))


def _rows(corpus: Any, wanted: set[str]) -> dict[str, int]:
    """Find the rows of those documents that are wanted, without a table of all."""
    ids = corpus.select_columns(["id"])
    return {
        document: start + place
        for start in range(0, len(ids), _ROWS)
        for place, document in enumerate(ids[start : start + _ROWS]["id"])
        if document in wanted
    }


def _texts(corpus: Any, numbers: Sequence[int]) -> list[str]:
    """Return documents as mteb gives them to a model: title and text joined."""
    if not numbers:
        return []
    columns = corpus[list(numbers)]
    rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    return [_corpus_to_dict(row)["text"] for row in rows]
