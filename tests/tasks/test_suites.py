from __future__ import annotations

from pathlib import Path

import mteb
import pytest

from rerank_eval.errors import ConfigError
from rerank_eval.tasks import suites as module
from rerank_eval.tasks.embedded import EMBEDDED
from rerank_eval.tasks.suites import load_suites

PAIRS = {
    "MTEB-R": (10, 8_820, 0.88e6),
    "CMTEB-R": (8, 39_740, 3.97e6),
    "MMTEB-R": (18, 411_783, 41.2e6),
    "MLDR": (1, 3_800, 0.38e6),
    "MTEB-Code": (12, 181_216, 18.1e6),
    "FollowIR": (3, 208, 0.21e6),
}


@pytest.mark.parametrize("name", PAIRS)
def test_totals(name: str) -> None:
    suite = load_suites()[name]
    tasks, queries, pairs = PAIRS[name]
    assert (len(suite.tasks), suite.queries) == (tasks, queries)
    assert suite.pairs == pytest.approx(pairs, rel=0.01)


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "MLDR"])
def test_the_installed_mteb_defines_the_same_benchmark(name: str) -> None:
    suite = load_suites()[name]
    benchmark = mteb.get_benchmark(suite.benchmark)
    kind = "InstructionReranking" if name == "FollowIR" else "Retrieval"
    theirs = {task.metadata.name: task for task in benchmark.tasks if task.metadata.type == kind}
    assert sorted(theirs) == sorted(task.name for task in suite.tasks)
    for task in suite.tasks:
        other = theirs[task.name]
        assert sorted(other.eval_splits) == sorted(task.splits)
        assert len(other.hf_subsets) == task.subsets
        assert other.metadata.main_score == task.main_score


def test_mldr_is_its_test_split_in_thirteen_languages() -> None:
    [task] = load_suites()["MLDR"].tasks
    theirs = mteb.get_task(task.name, eval_splits=list(task.splits))
    assert (theirs.eval_splits, len(theirs.hf_subsets)) == (["test"], task.subsets)


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
        module.load_suites.__wrapped__()
    monkeypatch.setenv("RERANK_EVAL_EVALS", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match="RERANK_EVAL_EVALS"):
        module.load_suites.__wrapped__()
