from __future__ import annotations

from typing import Any

import mteb
import numpy as np
import pytest
import torch
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.model_meta import ModelMeta

from rerank_eval.config import RetrieverConfig
from rerank_eval.errors import ModelError
from rerank_eval.models.resolve import resolve_model
from rerank_eval.retrievers import dense as module
from rerank_eval.retrievers.dense import DenseBackend
from rerank_eval.retrievers.family import load_backend
from rerank_eval.retrievers.retriever import CandidateSearch

DOCUMENTS = {
    "d1": "Parse a JSON document and return a dictionary.",
    "d2": "Open a network socket and listen for connections.",
    "d3": "Sort a list of numbers in place.",
    "d4": "Serialise an object to a JSON string.",
    "q1": "Decode JSON text.",
}
QUERIES = {"q1": "decode json text", "q2": "listen on a socket"}
QRELS = {"q1": {"d1": 1}, "q2": {"d2": 1}}


class SmallTask(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="SmallTask",
        description="five documents",
        type="Retrieval",
        category="t2t",
        dataset={"path": "local/small", "revision": "1"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )
    native: dict[str, list[str]] | None = None

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        if self.data_loaded:
            return
        data = RetrievalSplitData(
            corpus=Dataset.from_list([{"id": k, "title": "", "text": v} for k, v in DOCUMENTS.items()]),
            queries=Dataset.from_list([{"id": k, "text": v} for k, v in QUERIES.items()]),
            relevant_docs={k: dict(v) for k, v in QRELS.items()},
            top_ranked=self.native,
        )
        self.dataset = {"default": {"test": data}}
        self.data_loaded = True


def meta() -> ModelMeta:
    return ModelMeta.create_empty(overwrites={"name": "test/model", "revision": "1", "model_type": ["dense"]})


def search(backend: Any, task: AbsTaskRetrieval, **options: Any) -> CandidateSearch:
    found = CandidateSearch(backend, meta(), **options)
    mteb.evaluate(found, task, cache=None, co2_tracker=False, show_progress_bar=False, encode_kwargs={"batch_size": 8})
    return found


@pytest.fixture(scope="module")
def minilm() -> DenseBackend:
    config = RetrieverConfig()
    backend = load_backend(config, resolve_model(config.model, None, "retriever.model"), "cpu")
    assert isinstance(backend, DenseBackend)
    return backend


def test_dense_search_equals_a_plain_matrix_product(minilm: DenseBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr(module, "CORPUS_CHUNK", 2)  # several merges
    cell = search(minilm, SmallTask(), top_k=3).recorder.cells["default", "test"]
    plain = SentenceTransformer(resolve_model(RetrieverConfig().model, None, "").source, device="cpu")
    similarity = plain.encode(list(QUERIES.values())) @ plain.encode(list(DOCUMENTS.values())).T
    for row, (documents, scores) in enumerate(zip(cell.document_ids, cell.scores, strict=True)):
        order = np.argsort(-similarity[row])[:3]
        assert documents == [list(DOCUMENTS)[index] for index in order]
        np.testing.assert_allclose(scores, similarity[row][order], atol=1e-5)


def test_a_query_s_own_document_is_dropped_before_the_cut(minilm: DenseBackend) -> None:
    kept = search(minilm, SmallTask(), top_k=3).recorder.cells["default", "test"]
    own = {("default", "test"): {"q1": {"q1"}}}
    dropped = search(minilm, SmallTask(), top_k=3, excluded=own).recorder.cells["default", "test"]
    assert kept.document_ids[0][0] == "q1"
    assert "q1" not in dropped.document_ids[0]
    assert [len(ids) for ids in dropped.document_ids] == [3, 3]


@pytest.mark.parametrize("kind", ["dense", "bm25"])
def test_a_task_s_own_candidates_are_ranked_and_nothing_else(minilm: DenseBackend, kind: str) -> None:
    config = RetrieverConfig(model="bm25")
    backend = minilm if kind == "dense" else load_backend(config, resolve_model("bm25", None, ""), "cpu")
    task = SmallTask()
    task.native = {"q1": ["d3", "d1"], "q2": ["d2", "d4", "d3"]}
    cell = search(backend, task, top_k=1, own_lists=True).recorder.cells["default", "test"]
    assert [sorted(ids) for ids in cell.document_ids] == [["d1", "d3"], ["d2", "d3", "d4"]]
    assert [ids[0] for ids in cell.document_ids] == ["d1", "d2"]


def test_bm25_finds_by_words() -> None:
    backend = load_backend(RetrieverConfig(model="bm25"), resolve_model("bm25", None, ""), "cpu")
    cell = search(backend, SmallTask(), top_k=2).recorder.cells["default", "test"]
    assert cell.document_ids[1][0] == "d2"
    assert [len(ids) for ids in cell.document_ids] == [2, 2]


def test_scores_that_are_not_finite_are_refused(minilm: DenseBackend) -> None:
    class Broken:
        def encode(self, inputs: Any, **_: Any) -> torch.Tensor:
            return torch.full((sum(len(batch["text"]) for batch in inputs), 4), torch.nan)

        def similarity(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a @ b.T

    with pytest.raises(ModelError, match="test/model: score nan for query 'q1', document"):
        search(DenseBackend(Broken(), {"batch_size": 8}), SmallTask(), top_k=2)


def test_the_settings_reach_the_model() -> None:
    config = RetrieverConfig(max_length=16, dtype="bfloat16")
    backend = load_backend(config, resolve_model(config.model, None, ""), "cpu")
    assert isinstance(backend, DenseBackend)
    assert backend.encoder.model.max_seq_length == 16
    assert next(backend.encoder.model.parameters()).dtype == torch.bfloat16


def test_an_instruction_that_a_model_cannot_take_is_an_error() -> None:
    config = RetrieverConfig(instruction="find the function that does this")
    with pytest.raises(ModelError, match="takes no instruction"):
        load_backend(config, resolve_model(config.model, None, ""), "cpu")
