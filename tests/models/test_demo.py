"""The demo checkpoint: random, small, deterministic, whole or absent."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rerank_eval.errors import ModelError, StorageError
from rerank_eval.models import demo as demo_module
from rerank_eval.models.demo import WEIGHTS, DemoShape, build_demo_reranker, demo_revision

SMALL = DemoShape(1, 8, 8, 2, 1, 4)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_demo_reranker(tmp_path_factory.mktemp("models") / "demo")


def test_the_files_are_there_and_small(built):
    names = {path.name for path in built.iterdir()}
    assert {"config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in built.iterdir()) < 40e6
    assert "**random weights**" in (built / "README.md").read_text()
    assert [path.name for path in built.parent.iterdir()] == ["demo"]


def test_the_weights_are_always_the_same(built):
    assert demo_revision(built) == "e4a7abfd825e936a"


def test_transformers_loads_it_whole(built):
    model, report = AutoModelForCausalLM.from_pretrained(built, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_building_again_leaves_it_alone(built):
    before = {path.name: path.stat().st_mtime_ns for path in built.iterdir()}
    assert build_demo_reranker(built) == built
    assert {path.name: path.stat().st_mtime_ns for path in built.iterdir()} == before


def test_an_untied_head_is_a_matrix_of_its_own(tmp_path):
    folder = build_demo_reranker(tmp_path / "untied", DemoShape(1, 8, 8, 2, 1, 4, tie_word_embeddings=False))
    weights = load_file(folder / WEIGHTS)
    assert weights["lm_head.weight"].shape == weights["model.embed_tokens.weight"].shape
    assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])


def test_an_interrupted_build_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    def fail():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo_module, "build_qwen_tokenizer", fail)
        with pytest.raises(KeyboardInterrupt):
            build_demo_reranker(tmp_path / "demo", SMALL)
    assert list(tmp_path.iterdir()) == []
    folder = build_demo_reranker(tmp_path / "demo", SMALL)
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 8


def test_foreign_folders_are_not_touched(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ModelError, match="holds something other than this demo model"):
        build_demo_reranker(tmp_path, SMALL)
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_another_shape_in_the_folder_is_not_served(built):
    with pytest.raises(ModelError, match="something other than this demo model"):
        build_demo_reranker(built, SMALL)


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "demo").mkdir()
    assert (build_demo_reranker(tmp_path / "demo", SMALL) / WEIGHTS).is_file()


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        build_demo_reranker(tmp_path / "file" / "demo", SMALL)


def test_no_weights_no_revision(tmp_path):
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        demo_revision(tmp_path)
