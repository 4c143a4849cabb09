"""Dense retrieval on the packed engine: the same prompts, scores and order as through mteb's own wrappers."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
from mteb.models.model_implementations.qwen3_models import instruction_template
from mteb.types import PromptType

from rerank_eval.config import RetrieverConfig
from rerank_eval.errors import ModelError
from rerank_eval.models.instruction_sets import find_instruction_set
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.resolve import resolve_model
from rerank_eval.retrievers.dense import DenseBackend, PackedBackend, _CorpusTexts
from rerank_eval.retrievers.embedders import embedding_engine, takes_qwen3_instructions
from rerank_eval.retrievers.family import load_backend
from rerank_eval.retrievers.retriever import Backend
from tests.models.test_retriever import SmallTask, search
from tests.tiny_embedding import write_qwen3_embedding


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demo = Path(resolve_model("demo:qwen3-random", None, "").source)
    return write_qwen3_embedding(tmp_path_factory.mktemp("dense") / "tiny", demo)


@pytest.fixture(scope="module")
def packed(checkpoint: Path) -> PackedBackend:
    """The checkpoint as it is, loaded once for tests that only ask it."""
    backend = load(checkpoint)
    assert isinstance(backend, PackedBackend)
    return backend


@pytest.fixture
def variant(checkpoint: Path, tmp_path: Path):
    """Make a copy of the checkpoint with other small files."""

    def make(files: dict[str, Any]) -> ModelRef:
        for path in sorted(checkpoint.rglob("*")):
            name = str(path.relative_to(checkpoint))
            if path.is_file():
                (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "copy" / name).symlink_to(path)
        for name, changes in files.items():
            path = tmp_path / "copy" / name
            content = json.loads(path.read_text()) if path.exists() else {}
            path.unlink(missing_ok=True)
            path.write_text(json.dumps(content | changes if isinstance(changes, dict) else changes))
        return resolve_model(str(tmp_path / "copy"), None, "retriever.model")

    return make


def load(checkpoint: Path | ModelRef, results: Path | None = None, **settings: Any) -> Backend:
    ref = checkpoint if isinstance(checkpoint, ModelRef) else resolve_model(str(checkpoint), None, "")
    config = RetrieverConfig(model="./tiny", **settings)
    return load_backend(config, ref, "cpu", results, find_instruction_set(config.instruction, ""))


def scores(backend: Backend, task: SmallTask | None = None) -> dict[str, dict[str, float]]:
    cell = search(backend, task or SmallTask(), top_k=4).recorder.cells["default", "test"]
    return {
        query: dict(zip(documents, values.tolist(), strict=True))
        for query, documents, values in zip(cell.query_ids, cell.document_ids, cell.scores, strict=True)
    }


def assert_near(found: dict[str, dict[str, float]], expected: dict[str, dict[str, float]]) -> None:
    assert found.keys() == expected.keys()
    for query, own in expected.items():
        assert list(found[query]) == list(own)
        assert list(found[query].values()) == pytest.approx(list(own.values()), abs=1e-5)


@pytest.mark.parametrize("instruction", ["task", "none", "find the function that does this", "own.yaml"])
def test_packed_ranks_as_sentence_transformers_does(
    checkpoint: Path, instruction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("tasks: {SmallTask: {query: find what it does, document: say what it does}}")
    ours, theirs = (
        load(checkpoint, engine=engine, instruction=instruction, max_length=20)
        for engine in ("auto", "sentence-transformers")
    )
    assert isinstance(ours, PackedBackend)
    assert isinstance(theirs, DenseBackend)
    for native in (None, {"q1": ["d3", "d1", "q1"], "q2": ["d2", "d4"]}):
        task = SmallTask()
        task.native = native
        found = scores(ours, task)
        assert_near(found, scores(theirs, task))
        assert native is None or all(set(own) <= set(native[query]) for query, own in found.items())


def test_the_instruction_changes_the_scores(checkpoint: Path) -> None:
    by_task, bare = scores(load(checkpoint)), scores(load(checkpoint, instruction="none"))
    assert max(abs(by_task["q1"][d] - bare["q1"].get(d, 0)) for d in by_task["q1"]) > 0.001


def test_a_set_gives_documents_an_instruction_where_it_has_one(checkpoint: Path) -> None:
    backend = load(checkpoint, instruction="qwen")
    assert isinstance(backend, PackedBackend)
    claim = "Instruct: Given a claim, find documents that refute the claim\nQuery:"
    assert backend.prompts(mteb.get_task("ArguAna").metadata) == {"query": claim, "document": claim}
    cited = (
        "Instruct: Given a scientific paper title, retrieve paper abstracts that are cited by the given paper\nQuery:"
    )
    assert backend.prompts(mteb.get_task("SCIDOCS").metadata) == {"query": cited, "document": ""}
    default = "Instruct: Retrieve text based on user query.\nQuery:"
    assert backend.prompts(mteb.get_task("MultiLongDocRetrieval").metadata) == {"query": default, "document": ""}


@pytest.mark.parametrize("task", ["SciFact", "NFCorpus", "ArguAna", "BrightRetrieval", "MIRACLRetrievalHardNegatives"])
@pytest.mark.parametrize("prompt_type", [PromptType.query, PromptType.document])
def test_prompts_are_those_of_mteb_s_wrapper(packed: PackedBackend, task: str, prompt_type: PromptType) -> None:
    metadata = mteb.get_task(task).metadata
    # Its constructor loads the model; what it says before a text needs none of that.
    theirs = InstructSentenceTransformerModel.__new__(InstructSentenceTransformerModel)
    theirs.instruction_template, theirs.prompts_dict = instruction_template, None
    expected = theirs.get_task_instruction(metadata, prompt_type) if prompt_type == PromptType.query else ""
    prompt = packed.encoder.prompt(metadata, prompt_type)
    assert prompt == expected
    if prompt_type == PromptType.query:
        assert prompt.startswith("Instruct: ")
        assert prompt.endswith("\nQuery:")


def test_saved_prompts_of_another_form_are_used_as_they_are(variant) -> None:
    ref = variant({"config_sentence_transformers.json": {"prompts": {"query": "query: ", "document": "passage: "}}})
    assert_near(scores(load(ref)), scores(load(ref, engine="sentence-transformers")))
    backend = load(ref)
    assert isinstance(backend, PackedBackend)
    assert backend.encoder.prompt(SmallTask.metadata, PromptType.document) == "passage: "
    with pytest.raises(ModelError, match="takes no instruction"):
        load(ref, instruction="find the function that does this")


def test_a_second_run_computes_queries_alone(checkpoint: Path, tmp_path: Path) -> None:
    first = load(checkpoint, tmp_path)
    expected = scores(first)
    again = load(checkpoint, tmp_path, instruction="none", batch_size=1, token_budget=256)
    scores(again)
    assert isinstance(first, PackedBackend)
    assert isinstance(again, PackedBackend)
    assert first.encoder.model.stats.texts == 2 + 5
    assert again.encoder.model.stats.texts == 2  # documents have no instruction, so they are the same
    other = load(checkpoint, tmp_path, max_length=9)
    scores(other)
    assert isinstance(other, PackedBackend)
    assert other.encoder.model.stats.texts == 2 + 5
    assert scores(load(checkpoint, tmp_path)) == expected


def test_texts_are_those_that_mteb_reads() -> None:
    from datasets import Dataset
    from mteb._create_dataloaders import create_dataloader

    corpus = Dataset.from_list(
        [
            {"id": "a", "title": "Title", "text": " text \n"},
            {"id": "b", "title": "", "text": " text "},
            {"id": "c", "title": "Only", "text": ""},
        ]
    )
    loader = create_dataloader(corpus, task_metadata=SmallTask.metadata, prompt_type=PromptType.document, batch_size=2)
    expected = [text for batch in loader for text in batch["text"]]
    assert _CorpusTexts(corpus).block(0, 3) == expected
    assert _CorpusTexts(corpus.remove_columns("title")).block(1, 3) == ["text", ""]


UNUSUAL = {
    "mean pooling": {"1_Pooling/config.json": {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}},
    "two poolings": {"1_Pooling/config.json": {"pooling_mode": ["lasttoken", "mean"]}},
    "prompt left out": {"1_Pooling/config.json": {"include_prompt": False}},
    "no normalisation": {
        "modules.json": [{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]
    },
    "cut vectors": {"config_sentence_transformers.json": {"truncate_dim": 32}},
    "chat template": {"sentence_bert_config.json": {"modality_config": {"text": {}, "message": {}}}},
    "lower case": {"sentence_bert_config.json": {"do_lower_case": True}},
    "sliding window": {"config.json": {"layer_types": ["sliding_attention", "full_attention"]}},
    "both directions": {"config.json": {"is_causal": False}},
    "other family": {"config.json": {"model_type": "qwen2", "architectures": ["Qwen2Model"]}},
    "own code": {"config.json": {"auto_map": {"AutoModel": "modeling.Model"}}},
}


@pytest.mark.parametrize("unusual", UNUSUAL)
def test_auto_leaves_to_sentence_transformers_what_packed_would_change(variant, unusual: str) -> None:
    ref = variant(UNUSUAL[unusual])
    assert embedding_engine(RetrieverConfig(model="./x"), ref) == "sentence-transformers"
    with pytest.raises(ModelError, match=r"retriever\.engine: packed cannot run local/copy"):
        embedding_engine(RetrieverConfig(model="./x", engine="packed"), ref)


def test_auto_takes_packed_for_both_forms_of_the_pooling_file(checkpoint: Path, variant) -> None:
    plain = RetrieverConfig(model="./x")
    assert embedding_engine(plain, resolve_model(str(checkpoint), None, "")) == "packed"
    today = {"pooling_mode_lasttoken": None, "pooling_mode": "lasttoken"}
    assert embedding_engine(plain, variant({"1_Pooling/config.json": today})) == "packed"
    code = RetrieverConfig(model="./x", trust_remote_code=True, revision="1")
    assert embedding_engine(code, resolve_model(str(checkpoint), None, "")) == "sentence-transformers"


def test_a_limit_saved_with_the_checkpoint_holds(variant) -> None:
    backend = load(variant({"sentence_bert_config.json": {"max_seq_length": 11, "do_lower_case": False}}))
    assert isinstance(backend, PackedBackend)
    assert backend.encoder.model.max_length == 11


def test_a_corpus_interrupted_is_continued(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from rerank_eval.retrievers import embedding_store

    expected = scores(load(checkpoint))
    monkeypatch.setattr(embedding_store, "BLOCK", 2)
    stopped = load(checkpoint, tmp_path)
    assert isinstance(stopped, PackedBackend)
    embed, calls = stopped.encoder.model.embed, []

    def until_the_third(texts: list[str]) -> np.ndarray:
        calls.append(len(texts))
        if calls == [2, 2, 2]:  # queries, a block, a block
            raise KeyboardInterrupt
        return embed(texts)

    monkeypatch.setattr(stopped.encoder.model, "embed", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        scores(stopped)
    again = load(checkpoint, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert_near(scores(again), expected)
    assert isinstance(again, PackedBackend)
    assert again.encoder.model.stats.texts == 2 + 3
    assert "set-aside" not in caplog.text


def test_a_hub_name_is_judged_by_its_files_in_the_cache(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    revision = "0" * 40
    for name in ("someone/finetune", "Qwen/Qwen3-Embedding-0.6B", "intfloat/e5-mistral-7b-instruct"):
        snapshot = tmp_path / f"models--{name.replace('/', '--')}" / "snapshots" / revision
        shutil.copytree(checkpoint, snapshot)
        if name.startswith("Qwen"):
            (snapshot / "modules.json").unlink()  # a registered name's pooling is known
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    config = RetrieverConfig(model="someone/finetune")

    def ref(name: str) -> ModelRef:
        return ModelRef(name, name, name, revision, "hub", "Qwen3ForCausalLM")

    assert embedding_engine(config, ref("someone/finetune")) == "packed"
    assert takes_qwen3_instructions(ref("someone/finetune"))
    assert embedding_engine(config, ref("Qwen/Qwen3-Embedding-0.6B")) == "packed"
    assert embedding_engine(config, ref("intfloat/e5-mistral-7b-instruct")) == "sentence-transformers"
    assert embedding_engine(config, ref("someone/nowhere")) == "sentence-transformers"
