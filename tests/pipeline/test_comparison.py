"""`compare` and `runs` as a user calls them, on a small BEIR folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from rerank_eval.cli import _run
from tests.pipeline.folders import write_beir_folder

ROOT = Path(__file__).parents[2]
CONFIG = """\
extends: base.yaml
tasks: [data/tools]
retriever: {model: bm25, top_k: 10}
grid:
  reranker.instruction: [default, none]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    shutil.copytree(ROOT / "configs", folder / "configs")
    write_beir_folder(folder / "data" / "tools")
    (folder / "configs" / "mine.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert _run(["compare", "configs/mine.yaml", "--run"]) == 0
    return folder


@pytest.fixture
def project(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


def only(project: Path, pattern: str) -> Path:
    (found,) = (project / "results" / "comparisons").glob(pattern)
    return found


def test_it_runs_what_is_missing_and_compares(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(only(project, "mine-*.json").read_text())
    assert [run["name"] for run in told["runs"]] == [
        f"Qwen3-python (demo), instruction={one}" for one in ("default", "none")
    ]
    (difference,) = told["differences"]
    frames = [
        pd.read_parquet(project / f"results/runs/Qwen3-python_demo_/{run['identity']}/tools/per_query.parquet")
        for run in told["runs"]
    ]
    gains = (frames[1]["ndcg_at_10"] - frames[0]["ndcg_at_10"]).to_numpy()
    assert difference["difference"] == pytest.approx(gains.mean(), abs=1e-12)
    theirs = stats.permutation_test(
        (gains,), lambda sample, axis: sample.mean(axis=axis), permutation_type="samples", n_resamples=20_000, rng=1
    )
    assert difference["p"] == pytest.approx(theirs.pvalue, abs=0.02)
    assert difference["churn"]["shared"] == 1
    before = only(project, "mine-*.md").read_bytes()
    assert _run(["compare", "configs/mine.yaml"]) == 0
    assert "done before" not in capsys.readouterr().out  # nothing is run without --run
    assert only(project, "mine-*.md").read_bytes() == before


def test_runs_lists_what_compare_takes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    identities = [line.split()[0] for line in lines]
    assert _run(["compare", identities[1][:6], identities[2], "--name", "mine"]) == 0
    assert (project / "results" / "comparisons" / "mine.tex").is_file()
    assert _run(["compare", "configs/mine.yaml", "--against", "retriever", "--measure", "mrr_at_10"]) == 0
    printed = capsys.readouterr().out
    assert "Baseline: BM25" in printed
    assert printed.count("tools (mrr_at_10)") == 2  # one line above each table


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["BM52", "BM25"], 2, "did you mean 'BM25'?"),
        (["BM25"], 2, "name at least two runs"),
        (
            ["configs/mine.yaml", "--measure", "ndcg_at_x"],
            2,
            "no such measure; did you mean 'ndcg_at_1'? valid: ndcg_at_K",
        ),
        (["configs/mine.yaml", "--set", "reranker.dtype=bfloat16"], 2, "has no result in results; add --run"),
        (["BM25", "BM25", "--run"], 2, "--run runs what a config lacks; name a config"),
        (["configs/mine.yaml", "--against", "me"], 2, "--against 'me'"),
        (["configs/mine.yaml", "--results", "elsewhere"], 2, "has no result in elsewhere"),
    ],
)
def test_mistakes_are_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, expected: str
) -> None:
    assert _run(["compare", *arguments]) == code
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1


def test_a_torn_result_is_told(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(project / "results", tmp_path / "results")
    for path in (tmp_path / "results").rglob("per_query.parquet"):
        path.write_bytes(path.read_bytes()[:50])
    assert _run(["compare", "configs/mine.yaml", "--results", str(tmp_path / "results")]) == 3
    assert "cannot be read" in capsys.readouterr().err
