"""Comparisons of runs as they stand in result files: figures against scipy's, refusals, what the tables say."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from rerank_eval.analysis import changes, compare_render
from rerank_eval.analysis.compare import Comparison, compare
from rerank_eval.analysis.loading import load_runs
from rerank_eval.errors import ConfigError, DataError
from rerank_eval.results.manifest import Manifest
from rerank_eval.results.runs import UNIT, Run, TaskRun, find_run, named, stored_rows
from tests.results.test_manifest import RELEASED

SUITES = {"Two": ["A", "B"], "Mixed": ["A", "F"]}


def task_run(task: str, values: np.ndarray, measure: str = "ndcg_at_10", **options: Any) -> TaskRun:
    subsets = options.pop("subsets", ["default"] * len(values))
    frame = pd.DataFrame({"subset": subsets, "split": "test", "query_id": [f"q{n}" for n in range(len(values))]})
    frame = frame.assign(value=values, worst=np.nan, best=np.nan, tied=np.nan, candidates=np.nan)
    return TaskRun(task, measure, frame.sort_values(UNIT, kind="stable").reset_index(drop=True), **options)


def run(name: str, *tasks: TaskRun) -> Run:
    return Run(name, name, "", "", {one.task: one for one in tasks})


def two(seed: int = 0, size: int = 60) -> tuple[Run, Run]:
    generator = np.random.default_rng(seed)
    base = generator.random(size)
    return run("one", task_run("A", base)), run(
        "two", task_run("A", np.clip(base + generator.normal(0.1, 0.2, size), 0, 1))
    )


def printed(comparison: Comparison, width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(compare_render.to_rich(comparison))
    return console.export_text()


def test_figures_are_those_of_scipy_on_the_same_queries() -> None:
    one, other = two()
    (found,) = compare([one, other], {}, resamples=40_000).differences
    gains = (other.tasks["A"].values["value"] - one.tasks["A"].values["value"]).to_numpy()
    theirs = stats.bootstrap((gains,), np.mean, n_resamples=40_000, method="BCa", rng=1).confidence_interval
    assert found.difference == pytest.approx(gains.mean())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.002)
    assert (found.wins, found.ties, found.losses) == ((gains > 0).sum(), (gains == 0).sum(), (gains < 0).sum())
    assert found.p == found.p_holm == found.p_bh  # one test alone needs no correction
    best = max(range(60), key=lambda row: gains[row])
    assert found.up[0].query_id == one.tasks["A"].values["query_id"].iloc[best]
    assert found.up[0].after - found.up[0].before == pytest.approx(gains.max())


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        compare_render.write_all(compare(two(), {}), tmp_path / folder)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
    again = compare(two(), {}, seed=3).differences[0]
    assert again.low != compare(two(), {}).differences[0].low


def test_a_task_s_score_is_the_mean_of_its_cells() -> None:
    subsets = ["de"] * 10 + ["en"] * 40
    base = np.linspace(0, 1, 50)
    shifted = base + np.where(np.array(subsets) == "de", 0.2, 0.0)
    (found,) = compare(
        [run("a", task_run("A", base, subsets=subsets)), run("b", task_run("A", shifted, subsets=subsets))], {}
    ).differences
    assert found.difference == pytest.approx(0.1)  # 0.2 in one of two cells, whatever their sizes
    assert found.mean - found.baseline == pytest.approx(0.1)


def test_suites_are_averaged_where_every_run_has_all_of_their_tasks() -> None:
    generator = np.random.default_rng(2)
    values = {task: generator.random(30) for task in "ABF"}
    runs = [
        run(name, *(task_run(task, values[task] + gain, "p-MRR" if task == "F" else "ndcg_at_10") for task in "ABF"))
        for name, gain in (("one", 0.0), ("two", 0.1), ("three", -0.1))
    ]
    comparison = compare(runs, SUITES)
    suites = [one for one in comparison.differences if one.suite]
    assert [(one.system, one.scope) for one in suites] == [("two", "Two"), ("three", "Two")]  # p-MRR is not mixed in
    assert suites[0].difference == pytest.approx(0.1)
    assert suites[0].queries == 60
    assert len([one for one in comparison.differences if not one.suite]) == 6
    assert all(one.p_holm >= one.p for one in comparison.differences)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda frame: frame[frame["query_id"] != "q3"], "A: two lacks 1 of 60 queries ('q3'); choose --missing zero"),
        (
            lambda frame: frame.assign(query_id="x" + frame["query_id"]),
            "no query is in all runs; compare runs of the same data",
        ),
        (lambda frame: frame.assign(subset="de"), "one lacks 60 of 120 queries ('q0' (de/test),"),
        (
            lambda frame: pd.concat([frame, frame.head(1).assign(query_id="new")]),
            "A: one lacks 1 of 61 queries ('new');",
        ),
        (lambda frame: frame.assign(value=np.nan), "A: query 'q0' has a value that is not a number"),
    ],
)
def test_other_queries_are_an_error_that_names_them(change: Any, expected: str) -> None:
    one, other = two()
    task = other.tasks["A"]
    with pytest.raises(DataError) as caught:
        compare([one, run("two", TaskRun("A", task.measure, change(task.values)))], {})
    assert expected in str(caught.value)


def test_other_data_other_measures_and_missing_tasks_are_errors() -> None:
    one, other = two()
    values = one.tasks["A"].values
    with pytest.raises(DataError, match="one was judged by ndcg_at_10, x by mrr"):
        compare([one, run("x", TaskRun("A", "mrr", values))], {})
    with pytest.raises(DataError, match="one has no result of B, which x has"):
        compare([one, run("x", one.tasks["A"], task_run("B", np.zeros(3)))], {})
    released = Manifest.model_validate_json(RELEASED.read_text())
    manifests = [
        released.model_copy(update={"task": released.task.model_copy(update={"revision": revision})})
        for revision in ("1", "2")
    ]
    parts = [run(name, TaskRun("A", "mrr", values, manifest=own)) for name, own in zip("ab", manifests, strict=True)]
    with pytest.raises(DataError, match="a is of data revision 1, b of 2"):
        compare(parts, {})
    with pytest.raises(ConfigError, match="at least two runs"):
        compare([other], {})


def candidates(path: Path, scores: Mapping[str, Mapping[str, float]]) -> Path:
    rows = []
    for query, own in scores.items():
        ordered = sorted(own.items(), key=lambda item: -item[1])
        rows += [("default", "test", query, doc, rank, score) for rank, (doc, score) in enumerate(ordered, start=1)]
    frame = pd.DataFrame(rows, columns=["subset", "split", "query_id", "doc_id", "rank", "score"])
    frame.to_parquet(path, index=False)
    return path


def test_churn_against_scipy_s_tau(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    before = {f"q{n}": {f"d{d}": float(generator.integers(0, 8)) for d in range(20 + n % 2)} for n in range(7)}
    after = {q: {d: s + float(generator.integers(0, 3)) for d, s in own.items()} for q, own in before.items()}
    after["q0"] = dict(before["q0"])
    frames = [pd.read_parquet(candidates(tmp_path / name, own)) for name, own in (("b", before), ("a", after))]
    found = changes.churn(*frames)
    taus = [stats.kendalltau(list(before[q].values()), [after[q][d] for d in before[q]]).statistic for q in before]
    assert found.tau == pytest.approx(np.mean(taus))
    assert found.queries == 7
    tops = [{q: tuple(own["doc_id"]) for q, own in frame[frame["rank"] <= 10].groupby("query_id")} for frame in frames]
    assert found.changed == np.mean([tops[0][q] != tops[1][q] for q in before])
    assert found.overlap == pytest.approx(np.mean([len(set(tops[0][q]) & set(tops[1][q])) / 10 for q in before]))
    assert found.shared == 1


def test_margins_and_saturation(tmp_path: Path) -> None:
    before = {"q": {"a": 0.0, "b": 40.0, "c": -200.0, "d": 2.0}}
    after = {"q": {"a": 0.5, "b": 40.0, "c": -1.0, "d": 1.0}}
    frames = [pd.read_parquet(candidates(tmp_path / name, own)) for name, own in (("b", before), ("a", after))]
    found = changes.shift(*frames)
    assert found is not None
    assert (found.pairs, found.largest) == (4, 199.0)
    assert found.quantiles["0"] == -1.0
    assert (found.saturated_before, found.saturated) == (0.5, 0.25)  # 40 and -200; 40
    assert changes.shift(frames[0], frames[1].assign(doc_id="x")) is None


def test_hostile_names_are_escaped() -> None:
    one, other = two()
    evil = "<script>|**x**_{\\n}$"
    comparison = compare([one, Run(evil, evil, "", "", other.tasks)], {})
    markdown = compare_render.to_markdown(comparison)
    assert "<script>" not in markdown.replace("\\<script", "")
    assert "|**" not in markdown.replace("\\|", "")
    assert "\\textbackslash{}" in compare_render.to_latex(comparison)
    assert "script" in printed(comparison)
    assert json.loads(json.dumps(compare_render.as_data(comparison), allow_nan=False))


def test_names_tell_apart_what_differs() -> None:
    rows = [Run("", "M", f"card, float32, instruction={one}", one * 8, {}) for one in ("none", "task")]
    assert [name for name, _ in named(rows)] == ["M, instruction=none", "M, instruction=task"]
    same = [Run("x", "M", "card", "a1b2c3d4", {}), Run("x", "M", "card", "ffffff00", {})]
    assert len({name for name, _ in named(same)}) == 2


def test_what_a_name_stands_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no results there"):
        find_run("Qwen", tmp_path)
    assert stored_rows(tmp_path) == []
    (tmp_path / "own.trec").write_text("q1 Q0 d1 1 2.0 x\nq1 Q0 d2 2 1.0 x\n")
    (tmp_path / "qrels").write_text("q1 0 d1 1\n")
    rows = [("own", row) for row in find_run(str(tmp_path / "own.trec"), tmp_path)]
    with pytest.raises(ConfigError, match="name them with --qrels"):
        load_runs(rows)
    (found,) = load_runs(rows, qrels=tmp_path / "qrels")
    assert found.tasks["qrels"].values["value"].tolist() == [1.0]
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"bad\.parquet: not a readable parquet file"):
        load_runs([("bad", row) for row in find_run(str(tmp_path / "bad.parquet"), tmp_path)])
    with pytest.raises(ConfigError, match=r"gone\.trec: no such file"):
        find_run(str(tmp_path / "gone.trec"), tmp_path)


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_number_is_cut_on_a_narrow_terminal(width: int) -> None:
    one, other = two()
    long = Run("Qwen3-Reranker-0.6B, instruction=default", "M", "", "", other.tasks)
    comparison = compare([one, long], {})
    text = printed(comparison, width)
    for cell in compare_render.tables(comparison)[0].rows[0].cells[2:]:
        assert cell in text
    assert all(len(line) <= width for line in text.splitlines())
