from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb
import pytest

from rerank_eval.errors import ConfigError
from rerank_eval.tasks import suites as module
from rerank_eval.tasks.embedded import EMBEDDED
from rerank_eval.tasks.registry import build, resolve
from rerank_eval.tasks.suites import load_suites
from tests.tasks.benchmarks import benchmark_tasks, count, differences

PAIRS = {
    "MTEB-R": (10, 8_820, 0.88e6),
    "CMTEB-R": (8, 39_740, 3.97e6),
    "MMTEB-R": (18, 564_180, 56.4e6),
    "MLDR": (1, 3_800, 0.38e6),
    "MTEB-Code": (12, 181_216, 18.1e6),
    "FollowIR": (3, 208, 0.21e6),
    "BEIR": (15, 53_359, 5.34e6),
    "MIRACL": (1, 13_495, 1.35e6),
    "CoIR": (10, 162_216, 16.2e6),
}


@pytest.mark.parametrize("name", PAIRS)
def test_totals(name: str) -> None:
    suite = load_suites()[name]
    tasks, queries, pairs = PAIRS[name]
    assert (len(suite.tasks), suite.queries) == (tasks, queries)
    assert suite.pairs == pytest.approx(pairs, rel=0.01)


@pytest.mark.parametrize("name", PAIRS)
def test_the_installed_mteb_defines_the_same_benchmark(name: str) -> None:
    """Tasks, splits, subsets by name, main scores, and by mteb's statistics queries and pairs."""
    suite = load_suites()[name]
    theirs = benchmark_tasks(suite)
    found = differences(suite, theirs)
    assert not found, "\n".join(found)
    assert all(count(theirs[task.name], task.splits) is not None for task in suite.tasks)


def _renamed(theirs: dict[str, Any]) -> str:
    theirs["SciFact"] = theirs.pop("ArguAna")
    return r"MTEB-R: ArguAna is no longer in MTEB\(eng, v2\)\nMTEB-R: SciFact is new in MTEB\(eng, v2\)$"


def _another_split(theirs: dict[str, Any]) -> str:
    theirs["FiQA2018"] = mteb.get_task("FiQA2018", eval_splits=["dev"])
    return r"MTEB-R: FiQA2018: splits: the suite has not \['dev'\], but \['test'\]$"


def _another_score(theirs: dict[str, Any]) -> str:
    task = mteb.get_task("SCIDOCS")
    task.metadata = task.metadata.model_copy(update={"main_score": "map"})
    theirs["SCIDOCS"] = task
    return r"MTEB-R: SCIDOCS: main_score: the suite has ndcg_at_10, mteb map$"


def _other_subsets(theirs: dict[str, Any]) -> str:
    task = mteb.get_task("TRECCOVID")
    task.hf_subsets = ["default", "new"]
    theirs["TRECCOVID"] = task
    return r"TRECCOVID: subset_names: the suite has not \['new'\], but \[\]\n.*: the suite has 1, mteb 2$"


def _without_a_forum(theirs: dict[str, Any]) -> str:
    task = mteb.get_task("CQADupstackRetrieval")
    task.metadata = task.metadata.model_copy(update={"tasks": task.metadata.tasks[1:]})
    theirs["CQADupstackRetrieval"] = task
    return r"BEIR: CQADupstackRetrieval: members: the suite has not \[\], but \['CQADupstackAndroidRetrieval'\]\n"


def test_a_mean_of_mteb_s_over_other_tasks_is_told() -> None:
    suite = load_suites()["BEIR"]
    theirs = benchmark_tasks(suite)
    words = _without_a_forum(theirs)
    assert re.search(words, "\n".join(differences(suite, theirs)))


def test_a_mean_over_tasks_is_run_as_its_members() -> None:
    [whole] = [task for task in load_suites()["BEIR"].tasks if task.members]
    refs = resolve(["BEIR"])
    assert len(refs) == 14 + len(whole.members) == 26
    assert whole.name not in {ref.name for ref in refs}
    assert [ref.name for ref in resolve([whole.name])] == list(whole.members)
    assert all(build(ref).metadata.name == ref.name for ref in refs)


@pytest.mark.parametrize("change", [_renamed, _another_split, _another_score, _other_subsets])
def test_a_change_of_mteb_s_is_told_with_suite_task_and_values(change: Callable[[dict[str, Any]], str]) -> None:
    suite = load_suites()["MTEB-R"]
    theirs = benchmark_tasks(suite)
    words = change(theirs)
    assert re.search(words, "\n".join(differences(suite, theirs)))


def test_other_counts_than_mteb_s_are_told() -> None:
    suite = load_suites()["MTEB-R"]
    first = suite.tasks[0].model_copy(update={"queries": 1, "pairs": 100})
    changed = suite.model_copy(update={"tasks": (first, *suite.tasks[1:])})
    assert differences(changed, benchmark_tasks(suite)) == [
        "MTEB-R: ArguAna: pairs: the suite has 100, mteb 140600",
        "MTEB-R: ArguAna: queries: the suite has 1, mteb 1406",
    ]


def test_the_embedded_suite_names_the_embedded_tasks() -> None:
    suite = load_suites()["Embedded"]
    assert [task.name for task in suite.tasks] == list(EMBEDDED)
    assert [task.main_score for task in suite.tasks] == [task.metadata.main_score for task in EMBEDDED.values()]


def test_a_malformed_suite_names_file_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "mine.yaml").write_text(
        "name: Mine\nbenchmark: null\nsource: me\naverage: mean\ntasks: []\n"
    )
    monkeypatch.setenv("RERANK_EVAL_EVALS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"mine\.yaml: tasks: "):
        load_suites()
    two = "name: T, splits: [test], subsets: 2, subset_names: [a], main_score: map, queries: 1, pairs: 1"
    (tmp_path / "suites" / "mine.yaml").write_text(
        f"name: Mine\nbenchmark: null\nsource: me\naverage: mean\ntasks: [{{{two}}}]\n"
    )
    with pytest.raises(ConfigError, match=r"mine\.yaml: tasks\.0: .*subset_names of T: needs the names of 2 subset"):
        load_suites()
    monkeypatch.setenv("RERANK_EVAL_EVALS", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="RERANK_EVAL_EVALS"):
        load_suites()


def test_a_suite_that_a_program_registers_resolves_and_builds_whatever_its_tasks_are() -> None:
    load_suites()  # what was read before does not hide it
    facts = {"splits": ["test"], "subsets": 1, "main_score": "ndcg_at_10", "queries": None, "pairs": None}
    tasks = [{"name": name, **facts} for name in ("PyModuleRetrieval", "SciFact", "SciFakt")]
    mine = {"name": "Mine", "benchmark": None, "source": "a test", "average": "mean", "tasks": tasks}
    module.SUITES.register("mine", mine)
    try:
        refs = resolve(["mine"])
        assert [(ref.kind, ref.suite) for ref in refs] == [("embedded", "Mine"), ("mteb", "Mine"), ("mteb", "Mine")]
        assert [build(ref).metadata.name for ref in refs[:2]] == ["PyModuleRetrieval", "SciFact"]
        with pytest.raises(ConfigError, match=r"suite Mine: names the task 'SciFakt', .* did you mean 'SciFact'"):
            build(refs[2])
    finally:
        module.SUITES._objects.clear()
        module.SUITES._registered.clear()
    assert "Mine" not in load_suites()
