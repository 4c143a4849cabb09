from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rerank_eval.errors import ConfigError
from rerank_eval.tasks.registry import build, catalogue, resolve
from rerank_eval.tasks.suites import load_suites
from tests.pipeline.folders import write_beir_folder


def test_a_suite_expands_and_each_task_comes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_beir_folder(tmp_path / "mine")
    refs = resolve(["mteb-r", "ArguAna", "embedded", "PyFunctionRetrieval", "mine", "SciFact"])
    names = [ref.name for ref in refs]
    assert len(names) == len(set(names)) == 10 + 3 + 1 + 1
    assert refs[0].suite == "MTEB-R"
    assert [ref.kind for ref in refs[-5:]] == ["embedded", "embedded", "embedded", "beir", "mteb"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SciFcat", "did you mean 'SciFact'"),
        ("MTEB-Q", "did you mean 'MTEB-R'"),
        ("PyFuncRetrieval", "did you mean 'PyFunctionRetrieval'"),
        ("./nowhere", "no such folder"),
        ("some/where", "no such folder"),
        ("a" * 300, "unknown task"),
        ("./" + "a" * 300, "no such folder"),
        ("Banking77Classification", "unknown task"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve([name], where="own.yaml: tasks")


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    one, two = write_beir_folder(tmp_path / "a" / "data"), write_beir_folder(tmp_path / "b" / "data")
    with pytest.raises(ConfigError, match="two tasks of the name 'data'"):
        resolve([str(one), str(two)])


def test_a_suite_s_splits_reach_mteb() -> None:
    [ref] = resolve(["MLDR"])
    task = build(ref)
    assert task.eval_splits == ["test"]
    assert len(task.hf_subsets) == 13
    [ref] = resolve(["MultiLongDocRetrieval"])  # named directly, the suite's choice of splits holds all the same
    assert build(ref).eval_splits == ["test"]


def test_every_task_of_every_suite_builds() -> None:
    for row in catalogue():
        ref, *others = resolve([row.name])
        assert bool(others) == (row.name == "CQADupstackRetrieval")  # a mean over forums, which are run in its place
        task = build(ref)
        assert sorted(task.eval_splits) == sorted(row.splits)
        assert len(task.hf_subsets) == row.subsets


def test_suites_folders_and_embedded_names_need_no_mteb() -> None:
    code = (
        "import sys; from rerank_eval.tasks.registry import resolve\n"
        "resolve(['MTEB-R', 'Embedded']); print('mteb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_folder_named_like_a_known_task_is_refused(tmp_path: Path) -> None:
    names = [load_suites()[suite].tasks[0].name for suite in ("MTEB-R", "Embedded")]
    for name in (*names, "SciFact", "NFCorpus"):  # mteb's other tasks too
        folder = write_beir_folder(tmp_path / name)
        with pytest.raises(ConfigError, match="the folder has the name of a task that is known"):
            resolve([str(folder)])


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="an empty name"):
        resolve([" "])
