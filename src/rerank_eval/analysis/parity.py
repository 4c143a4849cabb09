"""Two ways of scoring the same pairs, in figures: how far apart their scores, orders and metrics are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from rerank_eval.analysis import statistics
from rerank_eval.analysis.statistics import Stratum

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

DEPTH = 10
"""Of the top whose changes are counted."""
SEED = 20_250_605


@dataclass(frozen=True)
class Side:
    """What one side says of n pairs; every array is (n,).

    Attributes:
        scores: What ranks.
        margins: Log-odds where the side knows them, else the scores.
        tokens: Length of each prompt; 0 where the side does not tell.
        truncated: Whether the prompt was cut.
    """

    scores: Floats
    margins: Floats
    tokens: Integers
    truncated: Bools

    @property
    def ranks_by_margin(self) -> bool:
        """Whether its scores are its margins."""
        return bool(np.array_equal(self.scores, self.margins))


@dataclass(frozen=True)
class Pairs:
    """The same pairs by both sides; those of a query stand together, in the order in which they were scored.

    Attributes:
        a: One side.
        b: The other.
        query: (n,), number of each pair's query, from 0 upwards.
        query_ids: One a pair.
        doc_ids: One a pair.
    """

    a: Side
    b: Side
    query: Integers
    query_ids: Sequence[str]
    doc_ids: Sequence[str]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.query)

    @cached_property
    def groups(self) -> list[Integers]:
        """Each query's rows."""
        borders = np.flatnonzero(np.diff(self.query)) + 1
        return [np.asarray(one, dtype=np.int64) for one in np.split(np.arange(len(self)), borders)]

    @cached_property
    def difference(self) -> Floats:
        """(n,), B's margins less A's."""
        return self.b.margins - self.a.margins

    @property
    def largest(self) -> float:
        """The largest difference of margins."""
        return float(np.abs(self.difference).max())


def spread(pairs: Pairs, differences: Floats) -> dict[str, Any]:
    """Describe (n,) differences: largest with its pair, median, 99th percentile."""
    size = np.abs(differences)
    row = int(size.argmax())
    return {
        "largest": float(size[row]),
        "median": float(np.median(size)),
        "percentile_99": float(np.quantile(size, 0.99)),
        "query_id": pairs.query_ids[row],
        "doc_id": pairs.doc_ids[row],
    }


def order(pairs: Pairs, rows: Integers, scores: Floats) -> list[str]:
    """Return a query's documents, best first; ties go to the larger document id, as in trec_eval."""
    return [pairs.doc_ids[i] for i in sorted(rows.tolist(), key=lambda i: (scores[i], pairs.doc_ids[i]), reverse=True)]


def taus(pairs: Pairs) -> Floats:
    """Return Kendall's tau-b of each query's scores, (queries,): NaN where a side gives one score to all documents."""
    found = np.full(len(pairs.groups), np.nan)
    for number, rows in enumerate(pairs.groups):
        one, other = pairs.a.scores[rows], pairs.b.scores[rows]
        if np.ptp(one) > 0 and np.ptp(other) > 0:
            found[number] = stats.kendalltau(one, other, variant="b").statistic
    return found


def orders(pairs: Pairs) -> dict[str, Any]:
    """Describe how far the two orders agree: tau-b over queries, and the top 10 as sets and as orders."""
    tau = taus(pairs)
    known = np.flatnonzero(~np.isnan(tau))
    changed_set = changed_order = 0
    for rows in pairs.groups:
        one, other = (order(pairs, rows, scores)[:DEPTH] for scores in (pairs.a.scores, pairs.b.scores))
        changed_set += set(one) != set(other)
        changed_order += one != other
    lowest = int(known[tau[known].argmin()]) if len(known) else None
    return {
        "tau_mean": float(tau[known].mean()) if len(known) else None,
        "tau_lowest": None if lowest is None else float(tau[lowest]),
        "tau_lowest_query": None if lowest is None else pairs.query_ids[pairs.groups[lowest][0]],
        "queries_without_tau": len(tau) - len(known),
        "top_10_sets_changed": changed_set,
        "top_10_orders_changed": changed_order,
    }


def distinct(side: Side) -> int:
    """Count the distinct scores of a side."""
    return len(np.unique(side.scores))


def metric_difference(cells: Sequence[tuple[Floats, Floats]], seed: int = SEED) -> dict[str, float] | None:
    """Compare a metric of the two sides on the same queries.

    Args:
        cells: For each cell A's and B's values, (queries,) each; the task's score is the mean of the cells' means.
        seed: Of the draws.

    Returns:
        Means of A and B, B's less A's, and the 95% interval's ends, on the metric's scale; None without a query.
    """
    filled = [(one, other) for one, other in cells if len(one)]
    if not filled:
        return None
    strata = [Stratum((other - one)[:, None], 1 / len(filled)) for one, other in filled]
    found = statistics.estimate(strata, statistics.draw(strata, [seed]))
    return {
        "a": float(np.mean([one.mean() for one, _ in filled])),
        "b": float(np.mean([other.mean() for _, other in filled])),
        "difference": float(found.value[0]),
        "low": float(found.low[0]),
        "high": float(found.high[0]),
    }


def probes(pairs: Pairs, count: int) -> Integers:
    """Choose the pairs that tell most: half of them spread over the prompts' lengths, half over the differences.

    Args:
        pairs: All pairs.
        count: How many.

    Returns:
        Their rows, ascending; the shortest and the longest prompt and the largest difference are among them.
    """
    if len(pairs) <= count:
        return np.arange(len(pairs))
    tokens = pairs.a.tokens if pairs.a.tokens.any() else pairs.b.tokens
    chosen: dict[int, None] = {}
    by_length = np.lexsort((np.arange(len(pairs)), tokens))
    by_difference = np.lexsort((np.arange(len(pairs)), np.abs(pairs.difference)))
    for ordered, share in ((by_length, count // 2), (by_difference, count)):
        for row in _spread_over(ordered, len(pairs)):
            if len(chosen) >= share:
                break
            chosen.setdefault(int(row))
    return np.array(sorted(chosen), dtype=np.int64)


def _spread_over(ordered: Integers, size: int) -> Iterator[int]:
    """Yield all rows, the ends first, then ever finer steps between them."""
    yield int(ordered[-1])
    yield int(ordered[0])
    steps = 2
    while steps < 2 * size:
        for number in range(1, steps, 2):
            yield int(ordered[min(size - 1, number * size // steps)])
        steps *= 2
