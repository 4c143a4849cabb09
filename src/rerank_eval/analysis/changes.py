"""How two rankings of the same queries differ: top-10 lists, order, margins, saturation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from rerank_eval.results.runs import UNIT

DEPTH = 10
_BLOCK = 200  # queries whose pairs of candidates are held at a time: 100 candidates make 16 MB
_QUANTILES = (0.0, 0.01, 0.05, 0.5, 0.95, 0.99, 1.0)
_KEY = [*UNIT, "doc_id"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Churn:
    """How far a system's rankings are from the baseline's, over queries with candidates in both.

    Attributes:
        queries: How many there are.
        changed: Share of them whose first ten differ, in documents or in order.
        overlap: Mean share of the first ten that both have.
        tau: Mean Kendall's tau-b of the scores of the candidates that both have; NaN where none has two.
        shared: Share of the baseline's candidates that the other has too.
    """

    queries: int
    changed: float
    overlap: float
    tau: float
    shared: float


@dataclass(frozen=True)
class Shift:
    """How far scores of the pairs that both systems have are apart.

    Attributes:
        pairs: How many there are.
        quantiles: Share -> difference (other less baseline).
        largest: Largest absolute difference.
        saturated: Share of the other's pairs whose P(yes) is 0 or 1 in 32-bit floats: a margin there no longer ranks.
        saturated_before: The same for the baseline.
    """

    pairs: int
    quantiles: dict[str, float]
    largest: float
    saturated: float
    saturated_before: float


def churn(before: pd.DataFrame, after: pd.DataFrame) -> Churn:
    """Compare two sets of rankings: columns subset, split, query_id, doc_id, rank, score."""
    tops = [frame[frame["rank"] <= DEPTH].sort_values([*UNIT, "rank"], kind="stable") for frame in (before, after)]
    lists = [top.groupby(UNIT, sort=True)["doc_id"].agg(tuple) for top in tops]
    both = lists[0].index.intersection(lists[1].index)
    first, second = lists[0].loc[both], lists[1].loc[both]
    if len(both) == 0:
        return Churn(0, 0.0, 0.0, float("nan"), 0.0)
    both_lists = list(zip(first, second, strict=True))
    changed = [one != other for one, other in both_lists]
    overlaps = [len(set(one) & set(other)) / max(len(one), len(other)) for one, other in both_lists]
    joined = _joined(before, after)
    taus = np.concatenate([*_taus(joined), np.zeros(0)])
    return Churn(
        len(both),
        float(np.mean(changed)),
        float(np.mean(overlaps)),
        float(taus.mean()) if len(taus) else float("nan"),
        len(joined) / max(len(before), 1),
    )


def _joined(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    return before[[*_KEY, "score"]].merge(after[[*_KEY, "score"]], on=_KEY, suffixes=("_before", "_after"))


def _taus(joined: pd.DataFrame) -> Iterator[Floats]:
    """Yield Kendall's tau-b of each query's two score lists, queries with equally many candidates together.

    A query whose scores all tie in one list has no tau and is left out.
    """
    ordered = joined.sort_values(UNIT, kind="stable")
    sizes = ordered.groupby(UNIT, sort=True).size().to_numpy()
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else np.zeros(0, dtype=np.int64)
    columns = [ordered[name].to_numpy(dtype=np.float64) for name in ("score_before", "score_after")]
    for size in np.unique(sizes[sizes > 1]):
        firsts = starts[sizes == size]
        step = max(1, _BLOCK * 10_000 // int(size) ** 2)
        for block in range(0, len(firsts), step):
            rows = firsts[block : block + step, None] + np.arange(size)
            one, other = (np.sign(column[rows][:, :, None] - column[rows][:, None, :]) for column in columns)
            agree = (one * other).sum(axis=(1, 2))
            spread = np.sqrt((one != 0).sum(axis=(1, 2)) * (other != 0).sum(axis=(1, 2), dtype=np.float64))
            yield (agree[spread > 0] / spread[spread > 0]).astype(np.float64)


def shift(before: pd.DataFrame, after: pd.DataFrame) -> Shift | None:
    """Compare two systems' margins, the column score, pair by pair; None where no pair is in both."""
    joined = _joined(before, after)
    if joined.empty:
        return None
    differences = (joined["score_after"] - joined["score_before"]).to_numpy(dtype=np.float64)
    quantiles = {f"{share:g}": float(np.quantile(differences, share)) for share in _QUANTILES}
    return Shift(
        len(joined),
        quantiles,
        float(np.abs(differences).max()),
        saturation(joined["score_after"].to_numpy(dtype=np.float64)),
        saturation(joined["score_before"].to_numpy(dtype=np.float64)),
    )


def saturation(margins: Floats) -> float:
    """Return the share of margins, (n,) log-odds, whose sigmoid is 0 or 1 in 32-bit floats."""
    with np.errstate(over="ignore"):
        probability = (1.0 / (1.0 + np.exp(-margins))).astype(np.float32)
    return float(((probability == 0) | (probability == 1)).mean())
