"""One self-contained HTML page of a results folder: tables, plots, a per-query explorer, manifests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rerank_eval.analysis import compare_render, plots, statistics
from rerank_eval.analysis.compare import Comparison, compare
from rerank_eval.analysis.loading import load_run
from rerank_eval.analysis.render import page
from rerank_eval.analysis.statistics import Stratum
from rerank_eval.analysis.tables import Leaderboard
from rerank_eval.errors import ConfigError
from rerank_eval.metrics.per_query import DEPTH
from rerank_eval.metrics.registry import DEFAULT, of_pairs, percent, shown, signed, two_digits
from rerank_eval.results.frames import read_frame
from rerank_eval.results.runs import UNIT, Run, Stored, TaskRun, named
from rerank_eval.typed import command
from rerank_eval.visible import one_line

# Characters: together the page stays below 5 MB, whatever the number of runs, tasks and queries.
_LARGEST = 2_500_000
_LARGEST_FIGURES = 1_500_000
_LARGEST_MANIFESTS = 500_000
_QUERIES = 2_000  # of a task
_LISTS = 400  # queries of a run on a task whose candidates are embedded
_PLOTTED = 20_000  # points of a scatter, margins of a histogram


@dataclass(frozen=True)
class Figure:
    """A plot, made here and nowhere else, with what it is of and how to read it."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Terms:
    """On which terms runs are compared; `measure` replaces main scores. For the others see `compare`."""

    seed: int
    baselines: Sequence[int | None] | None = None
    measure: str | None = None
    missing: str = ""


def build_report(board: Leaderboard, rows: Sequence[Stored], suites: Mapping[str, Sequence[str]], terms: Terms) -> str:
    """Build the page: HTML that needs no network and no other file.

    Raises:
        ConfigError: There is nothing to report, or matplotlib is missing.
        DataError: A result file cannot be read, or the runs are not of the same queries.
    """
    if not rows:
        raise ConfigError(f"no results to report; run `{command('eval')}` first")
    shared = [task for task in rows[0].tasks if all(task in row.tasks for row in rows)]
    runs = [load_run(row, name, shared, terms.measure) for name, row in named(rows) if isinstance(row, Stored)]
    several = len(runs) > 1 and shared
    comparison = (
        compare(runs, suites, seed=terms.seed, baselines=terms.baselines, missing=terms.missing) if several else None
    )
    return page(
        "report.html.j2",
        board=_board(board),
        tables=() if comparison is None else compare_render.tables(comparison),
        figures=_figures(runs, comparison, terms),
        data=_script(_explorer(runs)),
        manifests=_manifests(runs),
    )


def _board(board: Leaderboard) -> dict[str, Any]:
    rows = []
    for number, name in enumerate(board.names):
        one = board.frame.iloc[number]
        cells = [float(one[column]) for column in board.scores]
        shown = [
            {"text": "–" if np.isnan(v) else two_digits(v), "value": "" if np.isnan(v) else repr(v)} for v in cells
        ]
        rows.append({"kind": one["kind"], "model": name, "detail": one["Details"], "cells": shown})
    return {"heads": board.scores, "rows": rows, "caption": board.caption, "notes": board.footnotes}


def _figures(runs: Sequence[Run], comparison: Comparison | None, terms: Terms) -> list[Figure]:
    words = "Bars are means over queries, whiskers 95% BCa intervals."
    found = [Figure("Scores", words, plots.bars(_bars(runs, terms.seed)))]
    if comparison is not None:
        words = "Right of the line: better than its baseline. Filled: p by Holm's correction below 0.05."
        found.append(Figure("Differences", words, plots.forest(comparison)))
    measured = _speeds(runs)
    if len(measured) > 1:
        words = "Each run's own speed on its own machine: compare runs of one machine only."
        found.append(Figure("Quality against speed", words, plots.speed(measured)))
    firsts = [None, *[0] * (len(runs) - 1)] if terms.baselines is None else terms.baselines
    for task in runs[0].tasks:
        # The best run first: where there are too many plots, the others' are left out.
        pairs = [(run, runs[first]) for run, first in zip(runs, firsts, strict=True) if first is not None]
        for run, first in sorted(pairs, key=lambda pair: -float(pair[0].tasks[task].values["value"].mean())):
            plotted = _of_task(first, run, run.tasks[task])
            if sum(len(one.svg) for one in (*found, *plotted)) > _LARGEST_FIGURES:
                break
            found += plotted
    return found


def _bars(runs: Sequence[Run], seed: int) -> pd.DataFrame:
    rows = []
    for number, run in enumerate(runs):
        for name, task in run.tasks.items():
            cells = [part["value"].to_numpy()[:, None] for _, part in task.values.groupby(["subset", "split"])]
            strata = [Stratum(cell, 1 / len(cells)) for cell in cells]
            found = statistics.estimate(strata, statistics.draw(strata, [seed, number], 2_000))
            title = name if task.measure == DEFAULT else f"{name} ({shown(task.measure)})"
            points = {key: 100 * float(getattr(found, key)[0]) for key in ("value", "low", "high")}
            rows.append({"task": title, "system": run.name, **points})
    return pd.DataFrame(rows)


def _speeds(runs: Sequence[Run]) -> pd.DataFrame:
    rows = []
    for run in runs:
        rates = [(task.manifest and task.manifest.timings.pairs_per_second) or 0.0 for task in run.tasks.values()]
        means = [100 * task.values["value"].mean() for task in run.tasks.values() if not signed(task.measure)]
        if means and all(rates):  # 0: all from the score cache
            rows.append({"system": run.name, "pairs_per_second": float(np.mean(rates)), "value": float(np.mean(means))})
    return pd.DataFrame(rows)


def _of_task(baseline: Run, run: Run, task: TaskRun) -> list[Figure]:
    """Draw what is about one run on one task."""
    where = f"{task.task}, {run.name}"
    found = []
    first = baseline.tasks[task.task]
    if not of_pairs(task.measure):
        both = first.values.merge(task.values, on=UNIT, suffixes=("_before", "_after")).head(_PLOTTED)
        values = both.rename(columns={"value_before": "before", "value_after": "after"})[["before", "after"]]
        words = "Each mark is one query, or several of the same values (larger). Above the line: better."
        found.append(Figure(f"Query by query: {where}", words, plots.scatter(values, (baseline.name, run.name))))
    scores = task.candidates()
    if scores is None or "relevance" not in scores or not (scores["relevance"] > 0).any():
        return found
    if task.manifest is not None and task.manifest.settings.get("head") == "float32":
        sample = scores if len(scores) <= _PLOTTED else scores.sample(_PLOTTED, random_state=0)
        words = "How far margins of relevant candidates stand from the others'."
        found.append(Figure(f"Margins: {where}", words, plots.margins(sample)))
        words = "On the line, P(yes) is the chance that a candidate is relevant."
        found.append(Figure(f"Is P(yes) a probability? {where}", words, plots.reliability(scores)))
    before = first.candidates()
    if task.manifest is not None and "listwise" in task.manifest.settings:
        return found  # of fewer candidates it would have made another order
    if before is not None and task.measure == DEFAULT and _same_pairs(before, scores):
        words = "Reranking only the retriever's first k, and the best that any order of them could reach."
        svg = plots.depth_curve(before, scores, _ideal(scores, task))
        found.append(Figure(f"How many to rerank: {where}", words, svg))
    return found


def _same_pairs(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    keys = [*UNIT, "doc_id"]
    return len(one) == len(other) and len(one[keys].merge(other[keys], on=keys)) == len(one) and "relevance" in one


def _ideal(scores: pd.DataFrame, task: TaskRun) -> dict[tuple[str, str, str], float]:
    """Return each query's ideal DCG@10: that of its candidates' best order over what share of the ideal it reaches."""
    best = plots.dcg_by(scores, "relevance")
    judged = read_frame(task.scores.with_name("per_query.parquet")) if task.scores is not None else None
    if judged is None:
        return {}
    found = {}
    for one in judged.to_dict("records"):
        key = (one["subset"], one["split"], one["query_id"])
        reached = float(one["oracle_ndcg_at_10"])
        # A query without a relevant candidate counts 0 whatever its ideal is.
        found[key] = float(best.get(key, 0.0)) / reached if reached > 0 else float(one["n_relevant"] > 0)
    return found


def _explorer(runs: Sequence[Run]) -> dict[str, Any]:
    """Collect per-query values, and candidates of the queries that differ most, as much as the page may hold."""
    keep = _LISTS
    while True:
        data = {"runs": [run.name for run in runs], "tasks": [_task_data(runs, task, keep) for task in runs[0].tasks]}
        if keep == 0 or len(json.dumps(data)) <= _LARGEST:
            return data
        keep //= 2


def _task_data(runs: Sequence[Run], task: str, keep: int) -> dict[str, Any]:
    table = runs[0].tasks[task].values[UNIT].copy()
    for number, run in enumerate(runs):
        values = run.tasks[task].values[[*UNIT, "value"]].rename(columns={"value": f"v{number}"})
        table = table.merge(values, on=UNIT, how="left")
    columns = [f"v{number}" for number in range(len(runs))]
    spread = table[columns].max(axis=1) - table[columns].min(axis=1)
    order = (-spread + table[columns].mean(axis=1)).sort_values(kind="stable").index
    listed = table.loc[order].head(_QUERIES)
    queries = [
        [one["query_id"], f"{one['subset']}/{one['split']}", [float(percent(one[name])) for name in columns]]
        for one in listed.to_dict("records")
    ]
    lists = [_lists(run.tasks[task], listed.head(keep)) for run in runs]
    return {
        "name": task,
        "measure": shown(runs[0].tasks[task].measure),
        "queries": queries,
        "left_out": len(table) - len(listed),
        "lists": lists,
    }


def _lists(task: TaskRun, queries: pd.DataFrame) -> dict[str, list[list[Any]]]:
    """Return the first ten candidates of some queries: document, relevance, score."""
    scores = task.candidates()
    if scores is None or queries.empty or of_pairs(task.measure):
        return {}
    top = scores[scores["rank"] <= DEPTH].merge(queries[UNIT], on=UNIT).sort_values([*UNIT, "rank"], kind="stable")
    relevance = top["relevance"] if "relevance" in top else pd.Series(0, index=top.index)
    found: dict[str, list[list[Any]]] = {}
    for one, grade in zip(top.to_dict("records"), relevance.tolist(), strict=True):
        key = f"{one['query_id']}|{one['subset']}/{one['split']}"
        found.setdefault(key, []).append([one["doc_id"], int(grade), float(f"{one['score']:.5g}")])
    return found


def _manifests(runs: Sequence[Run]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    size = 0
    every = [(run, task) for run in runs for task in run.tasks.values()]
    for run, task in every:
        whole = dict(task.manifest.raw) if task.manifest else {}
        text = json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True)
        size += len(text)
        if size > _LARGEST_MANIFESTS:
            words = f"{len(every) - len(found)} more stand as manifest.json beside their results"
            return [*found, {"title": words, "text": ""}]
        found.append({"title": one_line(f"{run.name} on {task.task}"), "text": text})
    return found


def _script(data: Any) -> str:
    """Write JSON that may stand inside a script element: nothing in it can close the element or open a comment."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
