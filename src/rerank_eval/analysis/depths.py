"""What a reranker would score at other rerank depths, from scores that are there.

At depth d the first d candidates of the first stage are in the reranker's order, and the others follow in the first
stage's: what a run with `top_k: d` ranks, as far as nDCG@10 sees it and no two candidates tie at place d. Deeper is not
always better: a reranker that is shown more documents finds more that it overrates (https://arxiv.org/abs/2411.11767).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rerank_eval.analysis.statistics import LEVEL, Floats, Stratum, draw, estimate
from rerank_eval.errors import ConfigError
from rerank_eval.metrics.compute import PAIRS, QRELS
from rerank_eval.metrics.per_query import per_query
from rerank_eval.metrics.registry import percent
from rerank_eval.names import digest
from rerank_eval.results.frames import read_frame
from rerank_eval.results.manifest import Manifest
from rerank_eval.results.runs import UNIT, Stored, stored_rows
from rerank_eval.tables import simple
from rerank_eval.typed import command

DEPTHS = (10, 20, 50, 100, 200, 500, 1000)
MEASURE = "ndcg_at_10"
_SEED = 20_250_605


@dataclass(frozen=True)
class Depth:
    """A reranker on a task at one depth.

    Attributes:
        depth: Candidates that are reranked; 0 for the first stage's own order.
        ndcg: nDCG@10, 0 to 1, mean over queries.
        recall: Share of relevant documents among the first `depth` candidates, 0 to 1, mean over queries.
        gain: nDCG@10 less that of the next smaller depth, with the ends of its 95% interval.
        pairs: Pairs that are scored.
    """

    depth: int
    ndcg: float
    recall: float
    gain: tuple[float, float, float]
    pairs: int


@dataclass(frozen=True)
class DepthCurve:
    """A reranker on a task at several depths.

    Attributes:
        title: Task, model, settings and retriever in words.
        depths: Ascending, from 0 on.
        drowns: Depths at which nDCG@10 is lower than at the next smaller one, with an interval that leaves out 0.
    """

    title: str
    depths: tuple[Depth, ...]
    drowns: tuple[int, ...]

    @property
    def best(self) -> Depth:
        """The depth of the highest nDCG@10; of equal ones the smallest."""
        return max(self.depths, key=lambda one: (one.ndcg, -one.depth))


def depth_curves(results_dir: Path, depths: Sequence[int] = DEPTHS) -> list[DepthCurve]:
    """Compute every reranker's curve on every task whose candidates a retriever found.

    Args:
        results_dir: A results folder.
        depths: Those of interest; a task's own depth is always there.

    Raises:
        ConfigError: There is no reranker with its retriever's result.
    """
    rows = stored_rows(results_dir)
    retrievers = {row.identity: row for row in rows if row.identity == row.candidates}
    found = [
        curve
        for row in rows
        if row.identity != row.candidates and row.candidates in retrievers
        for curve in _curves(row, retrievers[row.candidates], depths)
    ]
    if not found:
        raise ConfigError(f"{results_dir}: no reranker with its retriever's candidates; run `{command('eval')}` first")
    return found


def _curves(row: Stored, retriever: Stored, depths: Sequence[int]) -> Iterator[DepthCurve]:
    for task, folder in row.tasks.items():
        manifest = Manifest.find(folder)
        # A task's own candidates have no depth: all of them are reranked.
        if manifest is None or manifest.native or task not in retriever.tasks:
            continue
        first, second = read_frame(retriever.tasks[task] / PAIRS), read_frame(folder / PAIRS)
        yield _curve(f"{task}: {row.title}", (first, second, read_frame(folder / QRELS)), depths)


def _curve(title: str, frames: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame], depths: Sequence[int]) -> DepthCurve:
    """Compute a curve from the first stage's candidates, the reranker's, and the judgements."""
    first, second, qrels = frames
    pairs = second.merge(first[[*UNIT, "doc_id", "rank"]], on=[*UNIT, "doc_id"], suffixes=("", "_first"))
    deepest = int(pairs["rank_first"].max())
    wanted = [0, *sorted({one for one in depths if one < deepest} | {deepest})]
    judged = qrels.merge(first[[*UNIT, "doc_id", "rank"]], on=[*UNIT, "doc_id"], how="left")
    values = [_values(pairs, qrels, depth) for depth in wanted]
    units = values[0].index
    table: Floats = np.stack([one.reindex(units).to_numpy(np.float64) for one in values], axis=1).astype(np.float64)
    gains = _gains(table, units, title)
    points = [
        Depth(
            depth,
            float(table[:, place].mean()),
            _recall(judged, depth),
            tuple(gains[place - 1]) if place else (0.0, 0.0, 0.0),
            int((pairs["rank_first"] <= depth).sum()),
        )
        for place, depth in enumerate(wanted)
    ]
    return DepthCurve(title, tuple(points), tuple(one.depth for one in points if one.gain[2] < 0))


def _values(pairs: pd.DataFrame, qrels: pd.DataFrame, depth: int) -> pd.Series[float]:
    """Return nDCG@10 of each query with the first `depth` candidates in the reranker's order."""
    shown = pairs["rank_first"] <= depth
    place = pairs["rank"].where(shown, pairs["rank"].max() + pairs["rank_first"])
    ranked = pairs.assign(score=-place.astype("float64"))
    parts = []
    for (subset, split), group in ranked.groupby(["subset", "split"]):
        judged = qrels[(qrels["subset"] == subset) & (qrels["split"] == split)]
        grades: dict[str, dict[str, int]] = {}
        for query, document, grade in zip(judged["query_id"], judged["doc_id"], judged["relevance"], strict=True):
            grades.setdefault(query, {})[document] = int(grade)
        frame = per_query(group[["query_id", "doc_id", "score"]], grades)
        parts.append(frame.assign(subset=str(subset), split=str(split)).set_index(UNIT)[MEASURE])
    values: pd.Series[float] = pd.concat(parts).sort_index()
    return values


def _recall(judged: pd.DataFrame, depth: int) -> float:
    relevant = judged[judged["relevance"] > 0]
    return float((relevant["rank"] <= depth).groupby([relevant[column] for column in UNIT]).mean().mean())


def _gains(table: Floats, units: pd.Index[Any], title: str) -> Floats:
    """Return (depths - 1, 3): each depth's gain over the one before, and the ends of its interval."""
    differences = np.diff(table, axis=1)
    cells = pd.factorize(pd.Index(list(zip(*(units.get_level_values(name) for name in UNIT[:2]), strict=True))))[0]
    strata = [Stratum(differences[cells == cell], float((cells == cell).mean())) for cell in np.unique(cells)]
    found = estimate(strata, draw(strata, [_SEED, int(digest(title, 8), 16)]), LEVEL)
    return np.stack([found.value, found.low, found.high], axis=1)


def render_depths(curves: Sequence[DepthCurve]) -> str:
    """Write curves as plain tables, with a line for each that says which depth is best and where it drowns."""
    parts = []
    for curve in curves:
        rows = [
            [
                "retriever" if one.depth == 0 else f"{one.depth}",
                percent(one.ndcg),
                percent(one.recall) if one.depth else "-",
                "-" if one.depth == 0 else _interval(one.gain),
                f"{one.pairs:,}" if one.depth else "-",
            ]
            for one in curve.depths
        ]
        heads = ["rerank depth", "nDCG@10", "recall@depth", "gain on the row above", "pairs"]
        parts.append(f"{curve.title}\n{simple(heads, rows, 'rrrrr')}\n{_words(curve)}")
    return "\n\n".join(parts)


def _interval(gain: tuple[float, float, float]) -> str:
    value, low, high = (percent(one, "+") for one in gain)
    return f"{value} [{low}, {high}]"


def _words(curve: DepthCurve) -> str:
    best, deepest = curve.best, curve.depths[-1]
    shown = f"depth {best.depth}" if best.depth else "the retriever's own order"
    text = f"best: {shown}, nDCG@10 {percent(best.ndcg)}"
    if 0 < best.depth < deepest.depth:
        text += f", for {best.pairs / deepest.pairs:.0%} of the pairs"
    if curve.drowns:
        text += f"; deeper is worse at {', '.join(map(str, curve.drowns))}: what is added there is overrated"
    return text
