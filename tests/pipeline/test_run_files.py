"""`compare` with files of other people: TREC runs, parquet files, and stored runs beside them."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pandas as pd
import pytest

from rerank_eval.cli import _run
from rerank_eval.results.trec import write_qrels, write_run
from tests.pipeline.stored_results import identity, ranking, write_result

CELL = ("default", "test")
QUERIES = 40
Compare = Callable[..., dict[str, Any]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two stored runs, and the same as TREC runs with judgements beside them."""
    monkeypatch.chdir(tmp_path)
    for seed, (label, better) in enumerate((("First", 0.3), ("Second", 1.0))):
        frame, qrels = ranking(seed, QUERIES, better=better)
        write_result(tmp_path / "results", label, {CELL: frame}, {CELL: qrels})
        write_run(tmp_path / f"{label.lower()}.trec", frame, label)
    write_qrels(tmp_path / "test.qrels", qrels)
    return tmp_path


@pytest.fixture
def compare(project: Path, capsys: pytest.CaptureFixture[str]) -> Compare:
    def call(*arguments: str) -> dict[str, Any]:
        code = _run(["compare", *arguments, "--name", "told"])
        printed = capsys.readouterr()
        if code:
            assert len(printed.err.strip().splitlines()) == 1, printed.err
            return {"code": code, "error": printed.err}
        told: dict[str, Any] = json.loads((project / "results" / "comparisons" / "told.json").read_text())
        return {"code": 0, "printed": " ".join(printed.out.split()), **told, "one": told["differences"][0]}

    return call


def lines(project: Path, name: str, keep: Callable[[int], bool]) -> None:
    text = (project / "second.trec").read_text().splitlines(keepends=True)
    (project / name).write_text("".join(one for one in text if keep(int(one.split()[0][1:]))))


def numbers(told: dict[str, Any]) -> list[float]:
    return [told["one"][key] for key in ("baseline", "mean", "difference", "low", "high", "p")]


def test_trec_files_compare_like_the_stored_runs_they_come_from(compare: Compare) -> None:
    stored = compare("First", "Second")
    files = compare("first.trec", "second.trec", "--qrels", "test.qrels")
    assert numbers(files) == numbers(stored)
    assert files["one"]["churn"] == stored["one"]["churn"]
    assert files["one"]["churn"]["changed"] > 0.5
    assert files["one"]["tied"] == stored["one"]["tied"]
    for arguments in (
        ("First", "second.trec"),
        ("first.trec", "Second"),
        ("First", "second.trec", "--qrels", "test.qrels"),
    ):
        mixed = compare(*arguments)
        assert numbers(mixed) == numbers(stored), arguments
        assert mixed["one"]["scope"] == "Task"
        assert mixed["one"]["churn"] == stored["one"]["churn"]


def test_judgements_may_be_a_result_s_own_file(project: Path, compare: Compare) -> None:
    qrels = next(project.glob("results/runs/First/*/Task/qrels.parquet"))
    stored = compare("First", "Second")
    assert numbers(compare("first.trec", "second.trec", "--qrels", str(qrels))) == numbers(stored)
    assert numbers(compare("First", "second.trec", "--qrels", str(qrels))) == numbers(stored)
    pd.read_parquet(qrels).assign(subset="english", split="dev").to_parquet(project / "named.parquet")
    assert numbers(compare("First", "second.trec", "--qrels", "named.parquet")) == numbers(stored)


def test_other_judgements_judge_stored_runs_too(project: Path, compare: Compare) -> None:
    """One run judged by the one file and one by the other would be a difference of judgements."""
    write_qrels(project / "half.qrels", {f"q{number}": {f"d{number}": 1} for number in range(QUERIES)})
    told = compare("First", "first.trec", "--qrels", "half.qrels")
    assert told["one"]["difference"] == 0
    assert told["one"]["baseline"] != compare("First", "first.trec")["one"]["baseline"]


@pytest.mark.parametrize(
    ("written", "theirs", "shown"),
    [
        ("map_at_100", "AP@100", "map_at_100"),
        ("mrr_at_10", "RR@10", "mrr_at_10"),
        ("recall_at_100", "R@100", "recall_at_100"),
        ("nDCG@5", "nDCG@5", "ndcg_at_5"),
        ("hit_rate_at_1", "Success@1", "hit_rate_at_1"),
        ("map_at_1000", "AP@1000", "map_at_1000"),
    ],
)
def test_a_measure_is_computed_and_named(
    project: Path, compare: Compare, written: str, theirs: str, shown: str
) -> None:
    told = compare("First", "Second", "--measure", written)
    files = compare("first.trec", "second.trec", "--qrels", "test.qrels", "--measure", written)
    assert numbers(files) == numbers(told)
    assert files["one"]["churn"] == told["one"]["churn"]
    qrels = list(ir_measures.read_trec_qrels(str(project / "test.qrels")))
    run = list(ir_measures.read_trec_run(str(project / "second.trec")))
    measure = ir_measures.parse_measure(theirs)
    assert told["one"]["mean"] == pytest.approx(ir_measures.calc_aggregate([measure], qrels, run)[measure])
    assert told["one"]["measure"] == shown
    assert f"({shown})" in told["printed"]


def test_an_unknown_measure_is_refused_before_anything_else(compare: Compare) -> None:
    told = compare("not-there.trec", "nor-this", "--measure", "nonsense")
    assert told["code"] == 2
    assert "--measure 'nonsense': there is no such measure" in told["error"]
    assert "ndcg_at_K, map_at_K" in told["error"]


def test_a_file_of_values_has_its_own_columns(project: Path, compare: Compare) -> None:
    for label in ("First", "Second"):
        path = next(project.glob(f"results/runs/{label}/*/Task/per_query.parquet"))
        pd.read_parquet(path).assign(mine=0.5).to_parquet(project / f"{label}.parquet", index=False)
    stored = compare("First", "Second", "--measure", "mrr_at_10")
    assert numbers(compare("First.parquet", "Second.parquet", "--measure", "mrr_at_10")) == numbers(stored)
    assert compare("First.parquet", "Second.parquet", "--measure", "mine")["one"]["mean"] == 0.5
    assert numbers(compare("First", "Second.parquet")) == numbers(compare("First", "Second"))
    told = compare("First.parquet", "Second.parquet", "--measure", "recall_at_1000")
    assert told["code"] == 2
    assert "has no column recall_at_1000" in told["error"]
    assert "recall_at_100" in told["error"]


def test_values_of_another_scale_are_refused(project: Path, compare: Compare) -> None:
    frame = pd.read_parquet(next(project.glob("results/runs/First/*/Task/per_query.parquet")))
    frame.to_parquet(project / "plain.parquet", index=False)
    frame.assign(ndcg_at_10=100 * frame["ndcg_at_10"]).to_parquet(project / "percent.parquet", index=False)
    told = compare("plain.parquet", "percent.parquet")
    assert told["code"] == 3
    assert "which is not on the scale 0..1; divide it by 100" in told["error"]


def test_a_parquet_file_of_scores_is_a_run(project: Path, compare: Compare) -> None:
    path = next(project.glob("results/runs/Second/*/Task/scores.parquet"))
    pd.read_parquet(path)[["query_id", "doc_id", "score"]].to_parquet(project / "plain.parquet")
    (project / "whole.parquet").write_bytes(path.read_bytes())
    for name in ("plain.parquet", "whole.parquet"):
        assert numbers(compare("First", name)) == numbers(compare("First", "Second"))
        assert numbers(compare("first.trec", name, "--qrels", "test.qrels")) == numbers(compare("First", "Second"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"score": "high"}, "a score is not a number"),
        ({"score": np.inf}, "a score is not finite"),
        ({"score": np.nan}, "an id or a score is missing"),
        ({"query_id": None}, "an id or a score is missing"),
        ({"doc_id": "one"}, "document 'one' stands twice for"),
    ],
)
def test_a_parquet_file_that_cannot_be_judged_is_one_line(
    project: Path, compare: Compare, change: dict[str, Any], expected: str
) -> None:
    path = next(project.glob("results/runs/Second/*/Task/scores.parquet"))
    pd.read_parquet(path).assign(**change).to_parquet(project / "bad.parquet")
    told = compare("First", "bad.parquet")
    assert told["code"] == 3
    assert expected in told["error"]


def test_an_empty_run_is_refused(project: Path, compare: Compare) -> None:
    (project / "empty.trec").write_text("")
    (project / "comments.trec").write_text("# nothing\n\n")
    pd.DataFrame({"query_id": [], "doc_id": [], "score": []}).to_parquet(project / "empty.parquet")
    for name in ("empty.trec", "comments.trec", "empty.parquet"):
        for beside in (("first.trec", name, "--qrels", "test.qrels"), ("First", name), (name, "First")):
            for choice in ((), ("--missing", "zero")):
                told = compare(*beside, *choice)
                assert told["code"] == 3
                assert f"{name}: an empty run" in told["error"]


def test_a_run_of_other_queries_is_refused(project: Path, compare: Compare) -> None:
    (project / "other.trec").write_text((project / "second.trec").read_text().replace("q", "x"))
    for beside in (("first.trec", "--qrels", "test.qrels"), ("First",)):
        told = compare("other.trec", *beside, "--missing", "zero")
        assert told["code"] == 3
        assert f"none of its {QUERIES} queries (x0, x1, x10 and 37 more) is judged by" in told["error"]


def test_missing_queries_want_a_choice(project: Path, compare: Compare) -> None:
    lines(project, "part.trec", lambda query: query >= 10)
    for beside in (
        ("first.trec", "part.trec", "--qrels", "test.qrels"),
        ("First", "part.trec"),
        ("part.trec", "First"),
    ):
        told = compare(*beside)
        assert told["code"] == 3
        assert f"part lacks 10 of {QUERIES} queries ('q0', 'q1', 'q2' and 7 more)" in told["error"]
        assert "--missing zero" in told["error"]
        assert "--missing intersection (only the 30 that all runs have)" in told["error"]
    whole = compare("First", "Second")
    zero = compare("First", "part.trec", "--missing", "zero")
    shared = compare("First", "part.trec", "--missing", "intersection")
    assert (zero["one"]["queries"], shared["one"]["queries"]) == (QUERIES, 30)
    assert zero["one"]["baseline"] == whole["one"]["baseline"]
    qrels = list(ir_measures.read_trec_qrels(str(project / "test.qrels")))
    run = list(ir_measures.read_trec_run(str(project / "part.trec")))
    measure = ir_measures.parse_measure("nDCG@10")  # which counts them 0, as trec_eval -c
    assert zero["one"]["mean"] == pytest.approx(ir_measures.calc_aggregate([measure], qrels, run)[measure])
    kept = [one for one in qrels if int(one.query_id[1:]) >= 10]
    assert shared["one"]["mean"] == pytest.approx(ir_measures.calc_aggregate([measure], kept, run)[measure])
    assert "10 of 40 queries ('q0', 'q1', 'q2' and 7 more): counted 0" in zero["printed"]
    assert "left out, so that 30 are compared (--missing intersection)" in shared["printed"]
    assert "counted 0" in zero["notes"][0]
    told = compare("First", "part.trec", "--missing", "nothing")
    assert (told["code"], "valid: intersection, zero" in told["error"]) == (2, True)


def test_missing_queries_of_any_kind_of_run_want_a_choice(project: Path, compare: Compare) -> None:
    folder = next(project.glob("results/runs/Second/*/Task"))
    for name in ("per_query", "scores"):
        frame = pd.read_parquet(folder / f"{name}.parquet")
        frame[frame["query_id"].str[1:].astype(int) >= 10].to_parquet(project / f"{name}-part.parquet", index=False)
    frame, qrels = ranking(1, QUERIES, better=1.0)
    kept = frame[frame["query_id"].str[1:].astype(int) >= 10]
    fewer = {query: own for query, own in qrels.items() if int(query[1:]) >= 10}
    write_result(project / "results", "Fewer", {CELL: kept}, {CELL: fewer})
    for name in ("per_query-part.parquet", "scores-part.parquet", "Fewer"):
        for names in (("First", name), (name, "First")):
            told = compare(*names)
            assert told["code"] == 3, names
            assert "lacks 10 of 40 queries ('q0', 'q1', 'q2' and 7 more)" in told["error"]
        shared = compare("First", name, "--missing", "intersection")
        zero = compare("First", name, "--missing", "zero")
        assert (shared["one"]["queries"], zero["one"]["queries"]) == (30, QUERIES)
        assert zero["one"]["mean"] == pytest.approx(0.75 * shared["one"]["mean"])


def test_two_runs_that_lack_the_same_queries_are_told_too(project: Path, compare: Compare) -> None:
    lines(project, "part.trec", lambda query: query >= 10)
    lines(project, "rest.trec", lambda query: query < 10)
    assert "part [1] lacks 10 of 40" in compare("part.trec", "part.trec", "--qrels", "test.qrels")["error"]
    told = compare("part.trec", "rest.trec", "--qrels", "test.qrels", "--missing", "intersection")
    assert told["code"] == 3
    assert "the runs have no query in common" in told["error"]


def test_queries_without_judgements_are_told(project: Path, compare: Compare) -> None:
    text = (project / "second.trec").read_text()
    (project / "more.trec").write_text("# by hand\n\n" + text + "q99 Q0 d1 1 0.5 x\n")
    told = compare("First", "more.trec")
    assert numbers(told) == numbers(compare("First", "Second"))
    assert told["notes"] == ["more: 1 of 41 queries have no judgement and are left out (q99)."]


def test_a_gzipped_run_is_read(project: Path, compare: Compare) -> None:
    (project / "packed.trec.gz").write_bytes(gzip.compress((project / "second.trec").read_bytes()))
    told = compare("First", "packed.trec.gz")
    assert numbers(told) == numbers(compare("First", "Second"))
    assert told["one"]["system"] == "packed"
    (project / "torn.trec.gz").write_bytes((project / "packed.trec.gz").read_bytes()[:200])
    told = compare("First", "torn.trec.gz")
    assert (told["code"], "not a whole gzip file" in told["error"]) == (3, True)


def test_a_run_file_alone_says_what_it_needs(compare: Compare) -> None:
    told = compare("first.trec", "second.trec")
    assert told["code"] == 2
    assert "needs its judgements; name them with --qrels FILE, or a stored run" in told["error"]
    assert "no such file" in compare("first.trec", "second.trec", "--qrels", "none.qrels")["error"]


def test_ids_with_white_space_are_found_again(project: Path, compare: Compare) -> None:
    frame, qrels = ranking(3, 10)
    spaced = {f"a {query}%": {f"b {one}": value for one, value in own.items()} for query, own in qrels.items()}
    frame = frame.assign(query_id="a " + frame["query_id"] + "%", doc_id="b " + frame["doc_id"])
    folder = write_result(project / "results", "Spaced", {CELL: frame}, {CELL: spaced}, task="Other")
    (project / "spaced.trec").write_bytes((folder / "default.test.trec").read_bytes())
    told = compare("Spaced", "spaced.trec")
    assert told["one"]["difference"] == 0
    assert told["one"]["baseline"] > 0


@pytest.fixture
def subsets(project: Path) -> Path:
    for number, label in enumerate(("Many", "More")):
        cells, qrels = {}, {}
        for seed, subset in enumerate(("de", "en")):
            cells[subset, "dev"], qrels[subset, "dev"] = ranking(10 * number + seed, 20, better=float(number))
        write_result(project / "results", label, cells, qrels, task="Subsets")
    return project


def test_a_run_file_of_a_task_with_subsets_is_told_by_its_name(subsets: Path, compare: Compare) -> None:
    folder = next(subsets.glob("results/runs/More/*/Subsets"))
    (subsets / "theirs").mkdir()
    for name in ("de.dev.trec", "en.dev.trec"):
        (subsets / "theirs" / name).write_bytes((folder / name).read_bytes())
    stored = compare("Many", "More")
    assert numbers(compare("Many", "theirs")) == numbers(stored)  # a folder of runs is one run
    one = compare("Many", "theirs/de.dev.trec")
    assert one["one"]["queries"] == 20
    assert one["one"]["mean"] != stored["one"]["mean"]
    assert one["notes"] == ["Subsets: of its 2 subsets and splits only de/dev."]
    (subsets / "ours.trec").write_bytes((folder / "de.dev.trec").read_bytes())
    told = compare("Many", "ours.trec")
    assert told["code"] == 2
    assert "name the file SUBSET.SPLIT.trec (de.dev.trec, en.dev.trec)" in told["error"]
    assert "choose one with --task" not in told["error"]


def test_a_run_file_beside_several_tasks_wants_one_named(subsets: Path, compare: Compare) -> None:
    frame, qrels = ranking(0, QUERIES)
    write_result(subsets / "results", "First", {CELL: frame}, {CELL: qrels}, task="Other")
    told = compare("First", "second.trec")
    assert told["code"] == 2
    assert (
        "a run file does not name its task, and the results have 2 (Other, Task); choose one with --task"
        in told["error"]
    )


def test_a_stored_main_score_without_a_column_is_computed(project: Path, compare: Compare) -> None:
    """Older releases wrote no column for it; over groups of queries there is none."""
    for seed, label in enumerate(("Old", "New")):
        frame, qrels = ranking(seed, 20, better=float(seed))
        frame = frame.assign(query_id=frame["query_id"].str.replace(r"q(\d+)", _pair, regex=True))
        qrels = {re.sub(r"q(\d+)", _pair, query): own for query, own in qrels.items()}
        own = {CELL: frame}, {CELL: qrels}
        write_result(project / "results", label, *own, main="paired_accuracy", task="Pairs")
        folder = write_result(project / "results", label, *own, main="map_at_1000", task="Lists")
        pd.read_parquet(folder / "per_query.parquet").drop(columns="map_at_1000").to_parquet(
            folder / "per_query.parquet"
        )
    told = {one["scope"]: one for one in compare("Old", "New")["differences"]}
    assert (told["Pairs"]["queries"], told["Lists"]["queries"]) == (10, 20)
    for scope, name in (("Pairs", "paired_accuracy"), ("Lists", "map_at_1000")):
        path = next(project.glob(f"results/runs/New/*/{scope}/manifest.json"))
        assert told[scope]["mean"] == pytest.approx(json.loads(path.read_text())["scores"]["main"])
        assert told[scope]["measure"] == name


def _pair(found: re.Match[str]) -> str:
    return f"{int(found[1]) // 2}_q{int(found[1]) % 2 + 1}"


def test_files_of_a_result_stand_for_it(project: Path, compare: Compare) -> None:
    folders = [next(project.glob(f"results/runs/{label}/*/Task")) for label in ("First", "Second")]
    for name in ("default.test.trec", "per_query.parquet", "scores.parquet", "manifest.json", ""):
        told = compare(*(str(folder / name) for folder in folders), "--measure", "ndcg_at_20")
        assert [run["identity"] for run in told["runs"]] == [identity("First"), identity("Second")]


def test_two_retrievers_each_with_its_reranker(
    project: Path, compare: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, (label, retriever) in enumerate((("Good", "First"), ("Best", "Second"))):
        frame, qrels = ranking(30 + seed, QUERIES, better=1.0 + seed)
        write_result(project / "results", label, {CELL: frame}, {CELL: qrels}, retriever=retriever)
    told = compare("Best", "Good", "--against", "retriever")
    rows = {one["system"]: one for one in told["differences"]}
    assert {name: one["against"] for name, one in rows.items()} == {"Best": "Second", "Good": "First"}
    assert "Task, against First" in told["printed"]
    for system, against in (("Best", "Second"), ("Good", "First")):
        alone = compare(against, system)
        assert rows[system]["difference"] == alone["one"]["difference"]
        ends = pytest.approx((alone["one"]["low"], alone["one"]["high"]), abs=1e-12)  # of the same draws
        assert (rows[system]["low"], rows[system]["high"]) == ends
        assert rows[system]["p_holm"] <= 2 * alone["one"]["p"] + 0.02
        assert rows[system]["churn"] == alone["one"]["churn"]
    compare("Best", "Good", "--against", "retriever")
    folder = project / "results" / "comparisons"
    heads = (folder / "told.md").read_text().splitlines()[2]
    assert [one.strip() for one in heads.split("|")][1:4] == ["task", "system", "against"]
    assert "{lllrrrrr}" in (folder / "told.tex").read_text()
    assert pd.read_csv(folder / "told.csv")["against"].tolist() == ["Second", "First"]
    assert _run(["report"]) == 0
    page = (project / "results" / "report.html").read_text()
    shown = re.findall(r'<th scope="row">Task</th><td>(\w+)</td><td>(\w+)</td>', page)
    assert sorted(set(shown)) == [("Best", "Second"), ("Good", "First")]
    assert _run(["report", "First", "Good", "Best"]) == 0  # named: all against the first
    page = (project / "results" / "report.html").read_text()
    assert re.findall(r'<th scope="row">Task</th><td>(\w+)</td><td class="n">', page)[:2] == ["Good", "Best"]
    capsys.readouterr()
    assert _run(["report", "second.trec"]) == 2
    assert "second.trec: a report is of stored results" in capsys.readouterr().err


def test_a_reranker_without_its_retriever_is_told(project: Path, compare: Compare) -> None:
    frame, qrels = ranking(40, QUERIES)
    write_result(project / "results", "Lone", {CELL: frame}, {CELL: qrels}, retriever="Gone")
    told = compare("Lone", "--against", "retriever")
    assert told["code"] == 2
    assert "its retriever Gone" in told["error"]
    assert "no run has a baseline" in compare("First", "Second", "--against", "retriever")["error"]
