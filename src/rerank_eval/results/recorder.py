"""What a model scored, cell by cell: the hand-over from mteb's evaluator to result files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from rerank_eval.errors import ModelError

Floats = npt.NDArray[np.float64]

BLOCK = 2000
"""Queries judged at a time: as one frame, the pairs of a large cell would take gigabytes."""


def check_finite(model: str, query_id: str, document_ids: Sequence[str], scores: Floats) -> None:
    """Refuse NaN and infinities among a query's scores.

    Args:
        model: Named in the error.
        query_id: The query.
        document_ids: Its documents.
        scores: Shape (documents,).

    Raises:
        ModelError: A score is not finite; names the query and the document.
    """
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise ModelError(
            f"{model}: score {scores[bad[0]]} for query {query_id!r}, document {document_ids[bad[0]]!r}; "
            "try dtype float32 or bfloat16"
        )


@dataclass
class CellScores:
    """The scores of one cell (one subset and split), query by query.

    Attributes:
        query_ids: One a query.
        document_ids: For each query, its candidates in the order in which they were given.
        scores: For each query, float64 array of shape (candidates,).
    """

    query_ids: list[str] = field(default_factory=list)
    document_ids: list[list[str]] = field(default_factory=list)
    scores: list[Floats] = field(default_factory=list)

    def add(self, query_id: str, document_ids: Sequence[str], scores: Floats) -> None:
        """Append one query.

        Args:
            query_id: The query.
            document_ids: Its candidates.
            scores: Shape (candidates,).
        """
        self.query_ids.append(query_id)
        self.document_ids.append(list(document_ids))
        self.scores.append(np.asarray(scores, dtype=np.float64))

    def check_finite(self, model: str) -> None:
        """Refuse NaN and infinities, which mteb would accept in silence.

        Raises:
            ModelError: A score is not finite; names the first query and document.
        """
        for query_id, document_ids, scores in zip(self.query_ids, self.document_ids, self.scores, strict=True):
            check_finite(model, query_id, document_ids, scores)

    def frame(self, start: int = 0, stop: int | None = None) -> pd.DataFrame:
        """Return the pairs of some queries as a frame with columns query_id, doc_id, rank (from 1), score (float64).

        Within a query the best stands first; ties go to the larger document id, as in trec_eval.

        Args:
            start: The first query's number.
            stop: The number behind the last one's; None for all that follow.
        """
        rows, scores = slice(start, stop), self.scores[start:stop]
        lengths = [len(one) for one in scores]
        frame = pd.DataFrame(
            {
                "query_id": np.repeat(np.array(self.query_ids[rows], dtype=object), lengths),
                "doc_id": [document_id for ids in self.document_ids[rows] for document_id in ids],
                "score": np.concatenate(scores) if scores else np.zeros(0),
                "_query": np.repeat(np.arange(len(lengths)), lengths),
            }
        )
        frame = frame.sort_values(["_query", "score", "doc_id"], ascending=[True, False, False], kind="stable")
        frame["rank"] = frame.groupby("_query", sort=False).cumcount() + 1
        return frame[["query_id", "doc_id", "rank", "score"]].reset_index(drop=True)


@dataclass(frozen=True)
class FrameBatches:
    """A cell's pairs in frames of some queries each; see `CellScores.frame`. May be read more than once.

    Attributes:
        cell: The cell.
        queries: Queries in a frame.
    """

    cell: CellScores
    queries: int = BLOCK

    def __iter__(self) -> Iterator[pd.DataFrame]:
        """Yield the frames; one without rows where there is no query."""
        for start in range(0, max(len(self.cell.query_ids), 1), self.queries):
            yield self.cell.frame(start, start + self.queries)


@dataclass
class Recorder:
    """All cells of one task.

    Attributes:
        cells: (subset, split) -> scores.
    """

    cells: dict[tuple[str, str], CellScores] = field(default_factory=dict)
