"""Trackers: what they are told, and that one that fails harms nothing."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from rerank_eval.cli import _run
from tests.pipeline.folders import write_beir_folder

ROOT = Path(__file__).parents[2]
FAILING = """
def init(**_):
    pass

def log(values):
    raise RuntimeError("the server\\nis gone")

Table = finish = None
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_beir_folder(tmp_path / "tools")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(*settings: str) -> int:
    arguments = ["eval", "--config", "configs/base.yaml", "--task", "./tools"]
    for setting in ("retriever.model=bm25", "retriever.top_k=10", *settings):
        arguments += ["--set", setting]
    return _run(arguments)


def test_it_is_told_config_scores_and_leaderboard(project: Path) -> None:
    assert evaluate("tracking.tool=jsonl") == 0
    lines = [json.loads(line) for line in (project / "results" / "tracking.jsonl").read_text().splitlines()]
    assert [next(iter(line)) for line in lines] == ["config", "metrics", "metrics", "leaderboard"]
    assert lines[0]["config"]["retriever"]["model"] == "bm25"
    scores = [value for line in lines[1:3] for name, value in line["metrics"].items() if name.endswith("ndcg_at_10")]
    found = [json.loads(path.read_text()) for path in (project / "results").glob("runs/*/*/tools/manifest.json")]
    assert sorted(scores) == sorted(manifest["scores"]["main"] for manifest in found)
    assert "BM25" in lines[3]["leaderboard"]


def test_a_tracker_that_fails_harms_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "packages").mkdir()
    (project / "packages" / "wandb.py").write_text(FAILING)
    monkeypatch.syspath_prepend(project / "packages")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert evaluate("tracking.tool=wandb", "results_dir=tracked") == 0
    printed = capsys.readouterr().out
    assert printed.count("tracking stopped, the run goes on: RuntimeError: the server is gone") == 1
    assert evaluate() == 0
    for path in sorted((project / "results").glob("runs/*/*/tools/scores.parquet")):
        other = project / "tracked" / path.relative_to(project / "results")
        assert other.read_bytes() == path.read_bytes()
        pd.testing.assert_frame_equal(pd.read_parquet(other), pd.read_parquet(path))


def test_a_package_that_is_missing_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("tracking.tool=trackio") == 2
    assert "tracking.tool: trackio is not installed; pip install trackio" in capsys.readouterr().err
    assert not (project / "results" / "runs").exists()
