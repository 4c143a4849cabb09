"""Plots as SVG text: readable by colour-blind readers and in grey print, the same bytes each time."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rerank_eval.analysis.compare import Comparison, Difference
from rerank_eval.analysis.compare_render import scope
from rerank_eval.errors import ConfigError
from rerank_eval.metrics.per_query import DEPTH
from rerank_eval.metrics.registry import DEFAULT, shown
from rerank_eval.results.runs import UNIT
from rerank_eval.visible import visible

# Okabe and Ito's palette; hatches and markers tell the same things apart in print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#F0E442")
HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--", "++")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_BINS = 40
_MOST_MARKS = 1_500  # of a scatter: those with most queries behind them
_NAME = 34
_UPRIGHT = 3  # names of tasks that fit side by side


def _figure(
    draw: Callable[[Any], None], size: tuple[float, float], x: str = "", y: str = "", legend: int | None = None
) -> str:
    """Draw one figure and return its SVG, with text as paths so that it needs no font; `size` is in inches."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        raise ConfigError(
            "plots need matplotlib; install the extra `report`: pip install 'rerank-eval[report]'"
        ) from None
    mpl.use("svg")
    from matplotlib import pyplot as plt

    settings = {"svg.hashsalt": "rerank-eval", "svg.fonttype": "path", "font.size": 9, "axes.spines.top": False}
    settings |= {"axes.spines.right": False, "figure.facecolor": "none", "axes.facecolor": "none"}
    with mpl.rc_context(settings):
        figure, axis = plt.subplots(figsize=size, layout="constrained")
        draw(axis)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        if legend is not None:
            axis.legend(frameon=False, fontsize=legend)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _short(name: str) -> str:
    name = visible(" ".join(name.split()))
    half = (_NAME - 3) // 2  # what tells two names apart mostly stands at their ends
    shown = name if len(name) <= _NAME else f"{name[:half]}...{name[-half:]}"
    return shown.replace("$", r"\$")  # matplotlib reads formulas between them


def bars(values: pd.DataFrame) -> str:
    """Draw each task's scores with their intervals: columns task, system, value, low, high, in points."""
    tasks = list(dict.fromkeys(values["task"]))
    systems = list(dict.fromkeys(values["system"]))
    width = 0.8 / max(len(systems), 1)

    def draw(axis: Any) -> None:
        for number, system in enumerate(systems):
            part = values[values["system"] == system].set_index("task").reindex(tasks)
            places = np.arange(len(tasks)) + (number - (len(systems) - 1) / 2) * width
            errors = np.abs(np.vstack([part["value"] - part["low"], part["high"] - part["value"]]))
            look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "hatch": HATCHES[number % len(HATCHES)]}
            look |= {"edgecolor": "white", "error_kw": {"elinewidth": 1, "capsize": 2}, "label": _short(system)}
            axis.bar(places, part["value"], width, yerr=errors, **look)
        axis.set_xticks(range(len(tasks)), map(_short, tasks), rotation=20 if len(tasks) > _UPRIGHT else 0)
        axis.axhline(0, color="black", linewidth=0.5)

    size = (max(5.0, 0.45 * len(tasks) * len(systems) + 2), 3.2)
    return _figure(draw, size, y="score x 100, 95% interval", legend=8)


def forest(comparison: Comparison) -> str:
    """Draw all differences with their intervals, one a line."""
    rows: Sequence[Difference] = comparison.differences
    first = _short(comparison.baselines[0]) if len(comparison.baselines) == 1 else "each row's own baseline"

    def draw(axis: Any) -> None:
        places = np.arange(len(rows))[::-1]
        for place, one in zip(places, rows, strict=True):
            sure = one.p_holm < 0.05  # noqa: PLR2004 - as in the tables
            axis.plot([100 * one.low, 100 * one.high], [place, place], color=COLOURS[0], linewidth=1.5)
            face = COLOURS[0] if sure else "white"
            axis.plot(100 * one.difference, place, "o", color=COLOURS[0], markerfacecolor=face)
        axis.axvline(0, color="black", linewidth=0.7)
        axis.set_yticks(places, [f"{_short(scope(one))}: {_short(one.system)}" for one in rows])

    return _figure(draw, (7.5, 0.8 + 0.28 * len(rows)), f"difference from {first}, points")


def scatter(values: pd.DataFrame, names: tuple[str, str]) -> str:
    """Draw a system's per-query values against the baseline's: columns before, after; names of baseline and system."""

    def draw(axis: Any) -> None:
        grouped = values.round(2).groupby(["before", "after"]).size().nlargest(_MOST_MARKS, keep="first")
        places = np.array(grouped.index.tolist(), dtype=np.float64).reshape(-1, 2)
        better = places[:, 1] > places[:, 0]
        for chosen, marker, colour in ((better, "^", COLOURS[2]), (~better, "v", COLOURS[3])):
            sizes = 12 * np.sqrt(grouped.to_numpy()[chosen])
            axis.scatter(places[chosen, 0], places[chosen, 1], s=sizes, marker=marker, color=colour, alpha=0.7)
        axis.plot([0, 1], [0, 1], color="black", linewidth=0.6)

    return _figure(draw, (3.6, 3.4), _short(names[0]), _short(names[1]))


def margins(scores: pd.DataFrame) -> str:
    """Draw how margins are spread over relevant and other candidates: columns score and relevance."""

    def draw(axis: Any) -> None:
        edges = np.histogram_bin_edges(scores["score"], bins=_BINS)
        for relevant, label, number in ((False, "not judged relevant", 1), (True, "relevant", 0)):
            part = scores.loc[(scores["relevance"] > 0) == relevant, "score"]
            if len(part):
                look: dict[str, Any] = {
                    "color": COLOURS[number],
                    "hatch": HATCHES[number],
                    "label": f"{label} ({len(part):,})",
                }
                look |= {"histtype": "stepfilled", "alpha": 0.55, "edgecolor": "black", "linewidth": 0.4}
                axis.hist(part, bins=edges, density=True, **look)

    return _figure(draw, (4.4, 3.2), "margin, log-odds", "density", legend=8)


def reliability(scores: pd.DataFrame) -> str:
    """Draw how often a candidate with a given P(yes) is relevant: columns score (margins) and relevance."""
    with np.errstate(over="ignore"):
        probability = 1.0 / (1.0 + np.exp(-scores["score"].to_numpy(dtype=np.float64)))
    bins = np.clip((probability * 10).astype(int), 0, 9)

    def draw(axis: Any) -> None:
        axis.plot([0, 1], [0, 1], color="black", linewidth=0.6)
        for number in range(10):
            chosen = bins == number
            if chosen.any():
                share = float((scores["relevance"].to_numpy()[chosen] > 0).mean())
                mean, count = float(probability[chosen].mean()), int(chosen.sum())
                axis.plot(mean, share, "o", color=COLOURS[0])
                axis.annotate(f"{count:,}", (mean, share), textcoords="offset points", xytext=(4, 4), fontsize=7)
        axis.set_xlim(-0.02, 1.02)
        axis.set_ylim(-0.02, 1.02)

    return _figure(draw, (3.6, 3.4), "P(yes), ten bins; number of candidates beside", "share relevant")


def dcg_by(candidates: pd.DataFrame, column: str) -> pd.Series[float]:
    """Return each query's DCG@10 of its candidates by `score`, or by `relevance` for the best order."""
    ordered = candidates.sort_values([*UNIT, column], ascending=[True, True, True, False], kind="stable")
    place = ordered.groupby(UNIT, sort=False).cumcount()
    gains: Any = (ordered["relevance"].clip(lower=0) / np.log2(place + 2)).where(place < DEPTH, 0.0)
    summed: pd.Series[float] = gains.groupby([ordered[key] for key in UNIT]).sum()
    return summed


def depth_curve(before: pd.DataFrame, after: pd.DataFrame, ideal: Mapping[tuple[str, str, str], float]) -> str:
    """Draw nDCG@10 of reranking only the first k candidates, with the ceiling that a perfect order would reach.

    Args:
        before: The retriever's candidates: subset, split, query_id, doc_id, rank, relevance.
        after: The reranker's scores of them: subset, split, query_id, doc_id, score.
        ideal: Query -> DCG@10 of the best order of all judged documents; queries with 0 are left out.
    """
    joined = before.merge(after[[*UNIT, "doc_id", "score"]], on=[*UNIT, "doc_id"], suffixes=("_first", ""))
    deepest = int(joined["rank"].max())
    depths = sorted({k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k < deepest} | {deepest})
    curves: dict[str, list[float]] = {"reranked": [], "best order": []}
    for depth in depths:
        head = joined[joined["rank"] <= depth]
        for name, column in (("reranked", "score"), ("best order", "relevance")):
            summed = dcg_by(head, column)
            values = [summed.get(key, 0.0) / best for key, best in ideal.items() if best > 0]
            curves[name].append(100 * float(np.mean(values)) if values else math.nan)

    def draw(axis: Any) -> None:
        for number, (name, values) in enumerate(curves.items()):
            style = "-" if name == "reranked" else "--"
            axis.plot(depths, values, style, marker=MARKERS[number], color=COLOURS[number], label=name)
        axis.set_xscale("log")
        axis.set_xticks(depths, [str(depth) for depth in depths])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)

    return _figure(draw, (4.4, 3.2), "candidates reranked", f"{shown(DEFAULT)} x 100", legend=8)


def speed(values: pd.DataFrame) -> str:
    """Draw quality against speed: columns system, pairs_per_second, value (points)."""

    def draw(axis: Any) -> None:
        for number, one in enumerate(values.to_dict("records")):
            marker, colour = MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)]
            axis.plot(one["pairs_per_second"], one["value"], marker, color=colour, label=_short(one["system"]))
        axis.set_xscale("log")

    return _figure(draw, (4.8, 3.2), "pairs a second, as measured in the run", "mean score x 100", legend=7)
