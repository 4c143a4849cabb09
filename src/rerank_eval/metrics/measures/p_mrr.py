"""p-MRR pair by pair, with what ties leave open.

Weller et al. 2024 (FollowIR, https://arxiv.org/abs/2403.15246, eq. 1), as mteb computes it: a document that the changed
instruction makes irrelevant should fall. With rank r under the first instruction and r' under the changed one it counts
r'/r - 1 where it does not fall, else 1 - r/r'; a document that is not among the candidates stands behind them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

COLUMNS = ("pair", "n_changed", "p_mrr", "p_mrr_worst", "p_mrr_best")
"""Columns of what `p_mrr` returns."""

Ranks = tuple[int, int, int]
"""A document's rank as mteb breaks ties (the larger id wins), and its first and last possible rank among ties."""


def p_mrr(scores: pd.DataFrame, changed: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Judge every pair of queries that differ in their instruction.

    Args:
        scores: Columns query_id, doc_id, score (float64); the two queries of a pair have its name with `-og` and
            `-changed`.
        changed: Pair -> documents that the changed instruction makes irrelevant.

    Returns:
        One row a pair that is among the scores, sorted, with the columns `COLUMNS`: float64, -1..1. Worst and best are
        bounds: each document by itself takes the place among its ties that is worst or best for it, so that no order
        of tied candidates can lie outside, while several tied documents may not reach a bound together.
    """
    lists = {str(query_id): candidates for query_id, candidates in scores.groupby("query_id", sort=False)}
    rows: list[tuple[str, int, float, float, float]] = []
    for pair in sorted(changed):
        before, after = lists.get(f"{pair}-og"), lists.get(f"{pair}-changed")
        if before is None or after is None or not changed[pair]:
            continue  # as mteb, which leaves such a pair out of the mean
        first, second = _ranks(before, changed[pair]), _ranks(after, changed[pair])
        moves = [
            (_rank_score(r, n), _rank_score(r_last, n_first), _rank_score(r_first, n_last))
            for (r, r_first, r_last), (n, n_first, n_last) in zip(first, second, strict=True)
        ]
        actual, worst, best = np.array(moves, dtype=np.float64).mean(axis=0).tolist()
        rows.append((pair, len(moves), actual, worst, best))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"n_changed": "int64"} | dict.fromkeys(COLUMNS[2:], "float64"))


@dataclass(frozen=True)
class _PMRR:
    name: str = "p-MRR"
    title: str = "p-MRR"
    column: str = "p_mrr"
    unit: str = "pair"
    lowest: float = -1.0

    def compute(self, scores: pd.DataFrame, qrels: Mapping[str, Mapping[str, int] | Sequence[str]]) -> dict[str, float]:
        """See `registry.Metric`; in place of qrels, pair -> documents that its instruction makes irrelevant."""
        found = p_mrr(scores, {pair: list(documents) for pair, documents in qrels.items()})
        return dict(zip(found["pair"], found["p_mrr"].tolist(), strict=True))


PART = _PMRR()


def summarise(frame: pd.DataFrame) -> dict[str, float]:
    """Average one cell's pairs: p_mrr, p_mrr_worst and p_mrr_best, -1..1."""
    return {name: float(frame[name].mean()) for name in COLUMNS[2:]}


def _ranks(candidates: pd.DataFrame, documents: Sequence[str]) -> list[Ranks]:
    ids = candidates["doc_id"].to_numpy(dtype=object)
    values: npt.NDArray[np.float64] = candidates["score"].to_numpy(dtype=np.float64)
    place = {document: row for row, document in enumerate(ids)}
    found: list[Ranks] = []
    for document in documents:
        row = place.get(document)
        if row is None:
            last = len(ids) + 1
            found.append((last, last, last))
            continue
        above, tied = int((values > values[row]).sum()), ids[values == values[row]]
        found.append((above + sum(other >= document for other in tied), above + 1, above + len(tied)))
    return found


def _rank_score(before: int, after: int) -> float:
    """Equation 1; divided as mteb divides, so that the last bit is the same."""
    if before >= after:
        return ((1 / before) / (1 / after)) - 1
    return 1 - ((1 / after) / (1 / before))
