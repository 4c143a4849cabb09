"""The instruction lab on a small BEIR folder: what it scores is what a run scores."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rerank_eval.cli import _run
from rerank_eval.store import LOCK
from rerank_eval.store.locks import locked
from tests.pipeline.folders import configs_with_random_weights, write_beir_folder

BM25 = ("--set", "retriever.model=bm25", "--set", "retriever.top_k=10")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    configs_with_random_weights(tmp_path)
    write_beir_folder(tmp_path / "tools")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lab(*arguments: str) -> int:
    return _run(["lab", "--task", "./tools", *BM25, *arguments])


def written(project: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((project / "results" / "labs").glob("*.json"))]


def test_what_it_scores_is_what_a_run_scores(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab("-i", "none", "-i", "default", "--first", "4") == 0
    printed = capsys.readouterr().out
    assert "guarantee: at most 5%" in printed
    (found,) = written(project)
    assert found["queries"] == found["of"]
    grid = "grid.reranker.instruction=[none, default]"
    assert _run(["eval", "--config", "configs/base.yaml", "--task", "./tools", *BM25, "--set", grid]) == 0
    for verdict in found["verdicts"]:
        identity = found["identities"][verdict["name"]]
        (path,) = (project / "results" / "runs").glob(f"*/{identity}/tools/per_query.parquet")
        assert verdict["mean"] == pytest.approx(pd.read_parquet(path)["ndcg_at_10"].mean(), abs=1e-12)


def test_the_order_is_the_seed_s_and_the_sample_may_be_cut(project: Path) -> None:
    for seed in ("1", "1", "2"):
        assert lab("-i", "none", "-i", "default", "--most", "5", "--seed", seed) == 0
    first, second = written(project)
    assert {first["queries"], second["queries"]} == {5}
    assert [one["mean"] for one in first["verdicts"]] != [one["mean"] for one in second["verdicts"]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-i", "none"), "give at least two"),
        (("-i", "none", "-i", "nne"), "unknown instruction 'nne'; did you mean 'none'?"),
        (("-i", "none", "-i", "task", "--set", "reranker=null"), "there is nothing to instruct"),
        (("-i", "none", "-i", "task", "--task", "Embedded"), "No such task"),
    ],
)
def test_mistakes_are_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: str
) -> None:
    code = lab(*arguments)
    error = capsys.readouterr().err
    if "Embedded" in arguments:
        expected = "3 tasks; the lab works on one at a time"
    assert code == 2
    assert expected in error
    assert len(error.strip().splitlines()) == 1


def test_a_task_that_is_scored_by_p_mrr_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["lab", "--task", "PyInstructionRetrieval", "-i", "none", "-i", "task", *BM25]
    assert _run(arguments) == 2
    assert "its main score is p-MRR; use `compare` for it" in capsys.readouterr().err


def test_it_waits_for_a_run_at_the_same_scores(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cell of the score cache has one writer: whoever opens it removes half-written files of those before."""
    both = ("-i", "none", "-i", "default", "--most", "5")
    assert lab(*both) == 0
    (task,) = (project / "results" / "scores").glob("*/*/tools")
    shutil.rmtree(task)
    let_go, held = threading.Event(), threading.Event()

    def run() -> None:
        with locked(task / LOCK):
            held.set()
            let_go.wait(30)
            assert not list(task.glob("*/*.parquet"))

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(run)
        assert held.wait(10)
        threading.Timer(3.0, let_go.set).start()
        assert lab(*both) == 0
        other.result()
    assert "another process is at work on tools; waiting for it" in capsys.readouterr().out
