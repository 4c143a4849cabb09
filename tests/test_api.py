"""The functions that a researcher calls from Python, on the embedded tasks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import rerank_eval
from rerank_eval.cli import _run
from rerank_eval.config import RerankerConfig
from rerank_eval.errors import ConfigError
from tests.pipeline.folders import write_beir_folder

ROOT = Path(__file__).parents[1]
TASK = "PyModuleRetrieval"
SMALL = {"retriever": {"model": "bm25", "top_k": 3}, "device": "cpu"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


@pytest.fixture(autouse=True)
def _inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


@pytest.fixture(scope="module")
def results(project: Path) -> rerank_eval.Results:
    before = Path.cwd()
    os.chdir(project)
    try:
        return rerank_eval.evaluate("configs/base.yaml", TASK, results_dir="results", **SMALL)
    finally:
        os.chdir(before)


def test_an_evaluation_is_the_command_s(results: rerank_eval.Results, capsys: pytest.CaptureFixture[str]) -> None:
    table = results.table().query("kind != 'ceiling'").set_index("identity")
    retriever, reranker = results.identities
    assert list(table["kind"]) == ["retriever", "reranker"]
    frame = results.per_query()
    assert set(frame["identity"]) == {retriever, reranker}
    for identity, own in frame.groupby("identity"):
        assert table.loc[identity, TASK] == pytest.approx(100 * own["ndcg_at_10"].mean())
    assert TASK in repr(results)
    given = ["--config", "configs/base.yaml", "--task", TASK, "--set", "retriever={model: bm25, top_k: 3}"]
    assert _run(["eval", *given, "--set", "device=cpu"]) == 0
    assert "computed 0, done before 2" in capsys.readouterr().out


def test_results_compare_and_so_do_identities(results: rerank_eval.Results) -> None:
    retriever, reranker = results.identities
    compared = rerank_eval.compare(retriever, results)
    [row] = compared.table().to_dict("records")
    means = results.per_query().groupby("identity")["ndcg_at_10"].mean()
    assert row["baseline"] == pytest.approx(means[retriever])
    assert row["mean"] == pytest.approx(means[reranker])
    assert row["low"] <= row["difference"] <= row["high"]
    pd.testing.assert_frame_equal(compared.table(), rerank_eval.compare(retriever, reranker).table())
    assert TASK in repr(compared)


def test_a_loaded_reranker_scores_and_is_evaluated(results: rerank_eval.Results) -> None:
    reranker = rerank_eval.load_reranker("configs/base.yaml", device="cpu")
    documents = ["Reads and writes comma separated values.", "Sends mail.", "Parses comma separated files."]
    scores = reranker.score("read a csv file", documents)
    assert (scores.dtype, scores.shape) == (np.dtype("float64"), (3,))
    backwards = reranker.score("read a csv file", documents[::-1])
    np.testing.assert_allclose(scores, backwards[::-1], atol=1e-5)
    assert not np.allclose(scores, reranker.score("read a csv file", documents, instruction="Judge the language"))
    assert reranker.score("nothing to rank", []).shape == (0,)
    again = rerank_eval.evaluate(reranker, TASK, results_dir="results", **SMALL)
    assert again.identities == results.identities
    before = reranker.engine.stats.pairs
    rerank_eval.evaluate(reranker, TASK, results_dir="by-the-loaded", **SMALL)
    assert reranker.engine.stats.pairs == before + 3 * results.per_query()["query_id"].nunique()


class Longest:
    """Long documents first."""

    def score(self, query: str, documents: list[str]) -> list[int]:
        return [len(document) for document in documents]


def test_an_object_of_one_s_own_is_evaluated_and_compared(results: rerank_eval.Results) -> None:
    mine = Longest()
    first = rerank_eval.evaluate(mine, TASK, results_dir="results", **SMALL)
    assert rerank_eval.evaluate(mine, TASK, results_dir="results", **SMALL).identities == first.identities
    assert rerank_eval.evaluate(Longest(), TASK, results_dir="results", **SMALL).identities != first.identities
    assert "Longest" in repr(first)
    [row] = rerank_eval.compare(results, first).table().to_dict("records")
    means = first.per_query().groupby("identity")["ndcg_at_10"].mean()
    assert row["mean"] == pytest.approx(means[first.identities[-1]])


def test_a_mistake_is_an_error_of_ours(results: rerank_eval.Results) -> None:
    with pytest.raises(ConfigError, match="a int cannot be evaluated"):
        rerank_eval.evaluate(3, TASK)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"retriever\.top"):
        rerank_eval.evaluate("configs/base.yaml", TASK, **{"retriever.top": 3})
    with pytest.raises(ConfigError, match="PyModul"):
        rerank_eval.evaluate("configs/base.yaml", "PyModul")
    with pytest.raises(ConfigError, match="is no config, file, identity"):
        rerank_eval.compare("ffffff", results)
    with pytest.raises(ConfigError, match="dtype"):
        rerank_eval.load_reranker("configs/base.yaml", dtype="int3")
    with pytest.raises(ConfigError, match="dtype"):
        rerank_eval.load_reranker(RerankerConfig(), dtype="int3")


def test_in_an_event_loop_nothing_is_written_but_what_is_printed(project: Path) -> None:
    write_beir_folder(project / "tools")
    script = f"""
import asyncio, sys
import rerank_eval
assert not {{"torch", "mteb", "pydantic", "pandas"}} & set(sys.modules), "importing the package is light"
async def cell():
    results = rerank_eval.evaluate("configs/base.yaml", "./tools", results_dir="loop", **{SMALL!r})
    frame = rerank_eval.compare(results.identities[0], results, results_dir="loop").table()
    reranker = rerank_eval.load_reranker("configs/base.yaml", device="cpu")
    return results, frame, reranker.score("a", ["b", "c"])
results, frame, scores = asyncio.run(cell())
print(results)
print(len(str(results).splitlines()), len(frame), scores.shape)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    *shown, last = done.stdout.splitlines()
    assert any("tools" in line for line in shown)
    assert last == f"{len(shown)} 1 (2,)"
