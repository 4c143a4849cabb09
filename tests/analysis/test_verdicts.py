from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rerank_eval.models.instruction_sets import find_instruction_set
from rerank_eval.reproduce import table as reproduction
from rerank_eval.reproduce.choice import Filter
from rerank_eval.reproduce.mteb_results import read_results
from rerank_eval.reproduce.run import filters_of
from rerank_eval.reproduce.verdicts import Verdict, Verdicts
from tests.analysis.published_files import cells_around, edit, make_rules, task_names, write_published, write_task

RULES = make_rules()
SUITES = RULES.published.suites
NAMES = [model.name for model in RULES.published.models]
RERANKER = "Qwen/Qwen3-Reranker-0.6B"
NEAR = {"MTEB-R": 61.83, "CMTEB-R": 71.03, "MMTEB-R": 64.65, "MTEB-Code": 75.42, "FollowIR": 5.09}


@pytest.fixture(autouse=True)
def _anywhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))  # the model card's config is found all the same


def check(root: Path, filters: dict[str, Sequence[Filter]] | None = None) -> Verdicts:
    folder = read_results(root, [model.hub for model in RULES.published.models], task_names())
    return RULES.check(folder, filters_of(RULES.published, None) if filters is None else filters, NAMES, SUITES)


def cell(checked: Verdicts, suite: str, model: str = NAMES[0]) -> Verdict:
    [found] = [one for one in checked.cells if (one.model, one.name) == (model, suite)]
    return found


def task(checked: Verdicts, name: str) -> Verdict:
    [found] = [one for one in checked.tasks if one.name == name]
    return found


@pytest.mark.parametrize("folder", ["results", ".", "mteb/results", "remote/results"])
def test_the_published_files_are_told_from_a_rerun(tmp_path: Path, folder: str) -> None:
    write_published(tmp_path, folder)
    checked = check(tmp_path)
    assert checked.problems == ()
    for suite, score in NEAR.items():
        found = cell(checked, suite)
        assert (found.verdict, f"{found.ours:.2f}") == ("published file", f"{score:.2f}")
        assert found.tolerance.points == 0.05
    mldr = cell(checked, "MLDR")
    assert (mldr.verdict, mldr.ours) == ("incomplete", None)
    assert mldr.missing == ("MultiLongDocRetrieval: test lacks 11 of 13 subset(s): ar, de, en and 8 more",)
    assert len(checked.tasks) == 47
    assert {one.verdict for one in checked.tasks} == {"published file"}
    assert "held against themselves, nothing was run" in reproduction.summary(checked)
    partly = task(checked, "MultiLongDocRetrieval")
    assert partly.ours == pytest.approx((32.482 + 73.824) / 2)
    assert partly.notes == ("published for 2 of 13 cells, judged on these",)


def test_nothing_is_said_of_what_was_not_run(tmp_path: Path) -> None:
    write_published(tmp_path)
    checked = check(tmp_path)
    others = [one for one in checked.cells if one.model != NAMES[0]]
    assert len(checked.cells) == 42
    assert len(others) == 36
    assert {(one.verdict, one.ours, one.difference, one.notes) for one in others} == {("not run", None, None, ())}
    for row in csv.DictReader(io.StringIO(reproduction.to_csv(checked))):
        assert (row["ours"] == "") == (row["verdict"] not in {"published file"})
    data = reproduction.as_data(checked)
    assert [one["ours"] for one in data["cells"]].count(None) == 37
    assert data["counts"] == {
        "reproduced": 0,
        "published file": 5,
        "close": 0,
        "off": 0,
        "incomplete": 1,
        "ambiguous": 0,
        "not run": 36,
    }


def no_task(folder: Path) -> None:
    (folder / "FiQA2018.json").unlink()


def no_split(folder: Path) -> None:
    edit(folder / "LEMBPasskeyRetrieval.json", lambda content: content["scores"].pop("test_512"))


def no_subset(folder: Path) -> None:
    edit(folder / "BelebeleRetrieval.json", lambda content: content["scores"]["test"].pop(7))


def not_a_number(folder: Path) -> None:
    def change(content: Any) -> None:
        content["scores"]["dev"][3]["main_score"] = float("nan")

    edit(folder / "MIRACLRetrievalHardNegatives.json", change)


def other_scale(folder: Path) -> None:
    def change(content: Any) -> None:
        content["scores"]["test"][0]["main_score"] *= 100

    edit(folder / "ArguAna.json", change)


def other_metric(folder: Path) -> None:
    edit(folder / "ArguAna.json", lambda content: content["scores"]["test"][0].update(ndcg_at_10=0.5))


def torn(folder: Path) -> None:
    path = folder / "FiQA2018.json"
    path.write_text(path.read_text()[:-40])


@pytest.mark.parametrize(
    ("damage", "suite", "words", "problems"),
    [
        (no_task, "MTEB-R", "no result of FiQA2018 (1 of 10 tasks)", 0),
        (no_split, "MMTEB-R", "LEMBPasskeyRetrieval: no split test_512", 0),
        (no_subset, "MMTEB-R", "BelebeleRetrieval: test lacks 1 of 376 subset(s): ", 0),
        (not_a_number, "MMTEB-R", "first dev/en: main_score is not a finite number", 0),
        (other_scale, "MTEB-R", "main_score 70.965 is not on mteb's scale", 0),
        (other_metric, "MTEB-R", "main_score is not its ndcg_at_10", 0),
        (torn, "MTEB-R", "no result of FiQA2018", 1),
    ],
)
def test_a_suite_that_lacks_anything_is_incomplete_and_has_no_score(
    tmp_path: Path, damage: Callable[[Path], None], suite: str, words: str, problems: int
) -> None:
    damage(write_published(tmp_path))
    checked = check(tmp_path)
    found = cell(checked, suite)
    assert (found.verdict, found.ours, found.difference) == ("incomplete", None, None)
    assert words in "; ".join(found.missing)
    assert len(checked.problems) == problems
    assert cell(checked, "CMTEB-R").verdict == "published file"


def shift(folder: Path, suite: str, points: float, **changes: Any) -> None:
    """Add points to every cell of every task of a suite."""

    def change(content: Any) -> None:
        content.update(changes)
        for entries in content["scores"].values():
            for entry in entries:
                entry["main_score"] += points / 100

    for one in RULES.suites[suite].tasks:
        edit(folder / f"{one.name}.json", change)


@pytest.mark.parametrize(
    ("points", "version", "verdict"),
    [
        (0.03, "1.38.9", "reproduced"),
        (0.1, "1.38.9", "close"),
        (-0.3, "1.38.9", "off"),
        (0.1, "2.26.24", "reproduced"),
        (-0.9, "2.26.24", "close"),
        (-1.6, "2.26.24", "off"),
    ],
)
def test_verdicts_follow_the_tolerance(tmp_path: Path, points: float, version: str, verdict: str) -> None:
    folder = write_published(tmp_path)
    shift(folder, "CMTEB-R", points, mteb_version=version)
    found = cell(check(tmp_path), "CMTEB-R")
    assert found.verdict == verdict
    assert found.difference == pytest.approx(0.00525 + points)
    assert (f"mteb: {version}, published with 1.38.9" in found.notes) == (version != "1.38.9")


@pytest.mark.parametrize("points", [0.0, 0.00001, -0.00001])
def test_numbers_that_are_not_the_published_ones_to_the_last_digit_are_a_rerun(tmp_path: Path, points: float) -> None:
    folder = write_published(tmp_path)
    shift(folder, "CMTEB-R", points)
    verdict = "published file" if points == 0 else "reproduced"
    checked = check(tmp_path)
    assert cell(checked, "CMTEB-R").verdict == task(checked, "T2Retrieval").verdict == verdict
    assert task(checked, "FiQA2018").verdict == "published file"


def test_a_wrong_retriever_shows_task_by_task(tmp_path: Path) -> None:
    folder = write_published(tmp_path)
    change = {"mteb_version": "2.26.24", "dataset_revision": "another"}
    write_task(folder, "FiQA2018", {"test": {"default": 0.42}}, **change)
    found = task(check(tmp_path), "FiQA2018")
    assert (found.verdict, found.tolerance.points) == ("off", 0.5)
    assert found.notes == ("data revision another, published 27a168819829",)
    write_task(folder, "TRECCOVID", {"test": {"default": 0.895}}, mteb_version="2.26.24")  # 50 queries
    assert task(check(tmp_path), "TRECCOVID").verdict == "reproduced"


def write_experiment(root: Path, model: str, settings: dict[str, Any], suite: str, score: float) -> Path:
    """Write a whole suite as this project files it: every task at the same score."""
    name = "__".join(f"{key}_{value}" for key, value in sorted(settings.items()))
    folder = root / "mteb" / "results" / model.replace("/", "__") / "rev1" / "experiments" / name
    for one in RULES.suites[suite].tasks:
        write_task(
            folder,
            one.name,
            cells_around(score / 100, one.splits, one.subset_names),
            mteb_version="2.26.24",
        )
    (folder / "model_meta.json").write_text(json.dumps({"name": model, "experiment_kwargs": settings}))
    return folder


QWEN_SCRIPT = find_instruction_set("qwen-script", "")
OURS = {
    "dtype": "bfloat16",
    "engine": "packed",
    "head": "float32",
    "id": "a1",
    "instruction": QWEN_SCRIPT.identity if QWEN_SCRIPT else "",
    "max_length": 8192,
    "recipe": "qwen_eval",
    "retriever": "Qwen3-Embedding-0.6B",
    "top_k": 100,
}


def test_experiments_that_differ_in_top_k_are_not_mixed(tmp_path: Path) -> None:
    first = write_experiment(tmp_path, RERANKER, OURS, "MTEB-R", 65.8)
    second = write_experiment(tmp_path, RERANKER, {**OURS, "top_k": 10, "id": "a2"}, "MTEB-R", 60.0)
    checked = check(tmp_path)
    found = cell(checked, "MTEB-R", "Qwen3-Reranker-0.6B")
    assert (found.verdict, found.source) == ("reproduced", str(first))
    assert found.ours == pytest.approx(65.8)
    assert len(checked.set_aside) == 1
    assert "top_k=10" in checked.set_aside[0]
    (first / "FiQA2018.json").unlink()  # must not be filled up from the other experiment
    found = cell(check(tmp_path), "MTEB-R", "Qwen3-Reranker-0.6B")
    assert (found.verdict, found.missing) == ("incomplete", ("no result of FiQA2018 (1 of 10 tasks)",))
    asked = {RERANKER: [Filter(({"top_k": 10},), decisive=True)]}
    found = cell(check(tmp_path, asked), "MTEB-R", "Qwen3-Reranker-0.6B")
    assert (found.verdict, found.source) == ("off", str(second))
    assert "candidates: top 10, published on the top 100" in found.notes


def test_results_that_nothing_tells_apart_are_ambiguous_and_listed(tmp_path: Path) -> None:
    write_experiment(tmp_path, RERANKER, OURS, "MTEB-R", 65.8)
    write_experiment(tmp_path, RERANKER, {**OURS, "dtype": "float16", "id": "a2"}, "MTEB-R", 65.7)
    found = cell(check(tmp_path, {}), "MTEB-R", "Qwen3-Reranker-0.6B")
    assert (found.verdict, found.ours) == ("ambiguous", None)
    assert "2 results with different settings" in found.missing[0]
    assert "dtype=bfloat16" in found.missing[0]
    assert "dtype=float16" in found.missing[0]
    exactly = {RERANKER: [Filter(identities=frozenset({"a2"}), decisive=True)]}
    found = cell(check(tmp_path, exactly), "MTEB-R", "Qwen3-Reranker-0.6B")
    assert (found.verdict, found.ours) == ("reproduced", pytest.approx(65.7))
    assert "dtype: float16, published with bfloat16" in found.notes
    # the model card's config names bfloat16, and is what is preferred when nothing else is said
    assert cell(check(tmp_path), "MTEB-R", "Qwen3-Reranker-0.6B").ours == pytest.approx(65.8)


def test_another_recipe_is_not_judged_unless_asked_for(tmp_path: Path) -> None:
    write_experiment(tmp_path, RERANKER, {**OURS, "recipe": "card", "instruction": "task"}, "MTEB-R", 65.8)
    checked = check(tmp_path)
    found = cell(checked, "MTEB-R", "Qwen3-Reranker-0.6B")
    assert (found.verdict, found.ours) == ("not run", None)
    assert found.missing == ("1 result(s) with other settings, which are not judged",)
    found = cell(check(tmp_path, {}), "MTEB-R", "Qwen3-Reranker-0.6B")
    assert "recipe: card, published with qwen_eval" in found.notes
    assert "instruction: task, published with the set qwen-script" in found.notes


def test_p_mrr_over_native_and_over_cut_candidates_are_two_results(tmp_path: Path) -> None:
    write_experiment(tmp_path, RERANKER, OURS, "FollowIR", 5.4)
    cut = write_experiment(tmp_path, RERANKER, {**OURS, "candidates": "retrieved", "id": "a2"}, "FollowIR", 4.1)
    found = cell(check(tmp_path), "FollowIR", "Qwen3-Reranker-0.6B")
    assert found.ours == pytest.approx(5.4)
    assert any("over the task's own 1000 candidates" in note for note in found.notes)
    asked = {RERANKER: [Filter(({"candidates": "retrieved"},), decisive=True)]}
    found = cell(check(tmp_path, asked), "FollowIR", "Qwen3-Reranker-0.6B")
    assert found.source == str(cut)
    assert any("over the top 100 of the retriever" in note for note in found.notes)


def test_a_plain_result_on_another_retrievers_candidates_does_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "results" / RERANKER.replace("/", "__") / "rev1"

    def first_stage(name: str) -> None:
        for one in RULES.suites["MTEB-R"].tasks:
            path = write_task(folder, one.name, {"test": {"default": 0.658}})
            before = {"model_name": name, "revision": "1"}
            edit(
                path,
                lambda content, before=before: content["scores"]["test"][0].update(previous_results_model_meta=before),
            )

    first_stage("Qwen/Qwen3-Embedding-0.6B")
    found = cell(check(tmp_path), "MTEB-R", "Qwen3-Reranker-0.6B")
    assert found.verdict == "reproduced"
    assert "candidates: how many were reranked is not recorded, published on the top 100" in found.notes
    assert "recipe: not recorded with the result, published with qwen_eval" in found.notes
    first_stage("mteb/baseline-bm25s")
    found = cell(check(tmp_path), "MTEB-R", "Qwen3-Reranker-0.6B")
    assert (found.verdict, found.ours) == ("incomplete", None)
    assert "ArguAna: made on candidates of mteb/baseline-bm25s" in found.missing


def test_of_two_revisions_the_published_one_counts(tmp_path: Path) -> None:
    folder = write_published(tmp_path)
    other = folder.parent / "1"
    write_task(other, "FiQA2018", {"test": {"default": 0.1}})
    assert cell(check(tmp_path), "MTEB-R").verdict == "published file"
    assert "2 results" in cell(check(tmp_path, {}), "MTEB-R").missing[0]


def test_multi_split_suites_tell_what_first_splits_would_give(tmp_path: Path) -> None:
    folder = write_published(tmp_path)

    def first(mean: float) -> Callable[[Any], None]:
        def change(content: Any) -> None:
            splits = list(content["scores"])
            old = [entry["main_score"] for split in splits for entry in content["scores"][split]]
            head = content["scores"][splits[0]]
            rest = [entry for split in splits[1:] for entry in content["scores"][split]]
            for entry in head:
                entry["main_score"] = mean
            for entry in rest:
                entry["main_score"] = (sum(old) - mean * len(head)) / len(rest)

        return change

    # The first-split means of the published files: by that rule the suite would have 65.85.
    edit(folder / "LEMBPasskeyRetrieval.json", first(1.0))
    edit(folder / "MLQARetrieval.json", first(0.80644))
    edit(folder / "StatcanDialogueDatasetRetrieval.json", first(0.32225))
    found = cell(check(tmp_path), "MMTEB-R")
    assert found.ours == pytest.approx(64.65, abs=0.005)
    assert "averaging: first splits alone would give 65.85 here" in found.notes


def test_every_rendering_escapes_and_fits(tmp_path: Path) -> None:
    hostile = "<b>x</b> [red]y[/] a|b\n\x1b[31m"
    folder = write_published(tmp_path)
    edit(folder / "FiQA2018.json", lambda content: content.update(mteb_version=hostile))
    checked = check(tmp_path)
    text = io.StringIO()
    Console(file=text, width=100).print(reproduction.to_rich(checked))
    assert "\x1b" not in text.getvalue()
    assert "[red]y[/]" in text.getvalue()
    assert max(map(len, text.getvalue().splitlines())) <= 100
    markdown = reproduction.to_markdown(checked)
    assert "<b>" not in markdown
    assert "| Qwen3-Embedding-0.6B" in markdown
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 42 + 2 + 47
    written = reproduction.write_all(checked, tmp_path / "out")
    assert [path.name for path in written] == ["reproduction.md", "reproduction.csv", "reproduction.json"]
    assert len(list(csv.DictReader(written[1].open()))) == 42 + 47
    assert len(json.loads(written[2].read_text())["cells"]) == 42


def test_judging_needs_neither_torch_nor_mteb(tmp_path: Path) -> None:
    write_published(tmp_path, "mteb/results")
    code = (
        "import sys\nfrom rerank_eval.cli import _run\n"
        f"code = _run(['reproduce', '--only-judge', '--results', {str(tmp_path)!r}])\n"
        "assert not {'torch', 'mteb', 'transformers'} & set(sys.modules), 'heavy import'\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "42 cells: 5 published file, 1 incomplete, 36 not run" in done.stdout
