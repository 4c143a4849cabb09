"""Qwen3-VL-Reranker on texts: a tiny checkpoint of its architecture, against transformers' own logits."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, Qwen3VLConfig

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.loading import load_engine
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.errors import ModelError
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker

POSITIONS = 512
GROUPS = [
    QueryGroup("what holds work still", "Find the tool that is meant", ["A vise holds work still. " * n, "A saw.", "x"])
    for n in (1, 9)
]
GROUPS.append(QueryGroup("what holds work still", None, ["A vise."]))


@pytest.fixture(scope="module")
def checkpoint(demo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3_vl")
    for path in demo.iterdir():
        if path.name.startswith("token"):
            shutil.copy(path, folder / path.name)
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 151_680,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": POSITIONS,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    network = AutoModelForImageTextToText.from_config(config)
    for name, weights in network.named_parameters():  # large enough for attention to matter
        if weights.dim() > 1 and "embed" not in name:
            torch.nn.init.normal_(weights, std=0.3)
    network.save_pretrained(folder)
    return folder


def logits_of(folder, engine):
    """Score prompt by prompt with transformers' own code: no padding, the whole vocabulary's logits."""
    network = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    found = []
    for group in GROUPS:
        for document in group.documents:
            ids = torch.tensor([engine.render(group.query, document, group.instruction).token_ids])
            with torch.inference_mode():
                last = network.eval()(ids).logits[0, -1]
            found.append(float(last[9693] - last[2152]))
    return np.array(found)


def margins_of(engine):
    return np.concatenate([scores.margins for scores in engine.score_groups(GROUPS)])


def prepare(folder, **settings):
    config = RerankerConfig(model=str(folder), **settings)
    return prepare_reranker(config, resolve_model(str(folder), None, "reranker.model"))


@pytest.mark.parametrize("head", ["float32", "recipe_softmax"])
def test_margins_are_transformers_own_logits(checkpoint, head):
    config = RerankerConfig(model=str(checkpoint), recipe="qwen3_vl", head=head)
    engine = load_reranking_engine(config, resolve_model(str(checkpoint), None, "reranker.model"), "cpu")
    expected = logits_of(checkpoint, engine)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(margins_of(engine), expected, atol=1e-4)
    assert engine.settings["engine"] == "reference"


def test_left_padding_changes_nothing(checkpoint):
    alone, together = (
        margins_of(load_engine(checkpoint, recipe="qwen3_vl", device="cpu", engine="reference", batch_size=size))
        for size in (1, 16)
    )
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_it_goes_to_the_reference_engine_and_says_so(checkpoint):
    prepared = prepare(checkpoint, recipe="qwen3_vl")
    assert prepared.identity["engine"] == "reference"
    assert prepared.identity["max_length"] == POSITIONS
    assert prepared.ref.notes[-2] == "it reads images besides texts: scored on texts alone"
    assert "is of type 'qwen3_vl'" in prepared.ref.notes[-1]
    with pytest.raises(EngineError, match=r"is of type 'qwen3_vl'; .*; set engine to reference"):
        load_engine(checkpoint, recipe="qwen3_vl", device="cpu")


def test_a_folder_has_to_name_its_recipe(checkpoint):
    with pytest.raises(ModelError, match="nor its name say with which prompt"):
        prepare(checkpoint)


@pytest.mark.parametrize("name", RECIPES["qwen3_vl"].models)
def test_its_name_on_the_hub_says_the_recipe(checkpoint, name):
    ref = replace(resolve_model(str(checkpoint), None, "reranker.model"), name=name, origin="mirror")
    assert prepare_reranker(RerankerConfig(model=name), ref).recipe is RECIPES["qwen3_vl"]


def test_limits_stand_in_its_text_config(checkpoint):
    with pytest.raises(ModelError, match=rf"max_length: 600 exceeds the {POSITIONS} positions"):
        prepare(checkpoint, recipe="qwen3_vl", max_length=600)
    with pytest.raises(EngineError, match=rf"max_length 600 exceeds the {POSITIONS} positions"):
        load_engine(checkpoint, recipe="qwen3_vl", device="cpu", engine="reference", max_length=600)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 5000}, "5,000 layers by its config.json, which is damaged"),
        ({"num_hidden_layers": 4}, "lacks 11 weights that would be left random"),
    ],
)
def test_a_damaged_text_config_is_refused(checkpoint, tmp_path, changes, message):
    for path in checkpoint.iterdir():
        (tmp_path / path.name).symlink_to(path)
    content = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    content["text_config"] |= changes
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(EngineError, match=message):
        load_engine(tmp_path, recipe="qwen3_vl", device="cpu", engine="reference")


def test_files_of_sentence_transformers_may_say_any_to_any(checkpoint, tmp_path):
    for path in checkpoint.iterdir():
        (tmp_path / path.name).symlink_to(path)
    saved = tmp_path / "sentence_bert_config.json"
    saved.write_text('{"transformer_task": "any-to-any"}')
    assert prepare(tmp_path, recipe="qwen3_vl").identity["recipe"] == "qwen3_vl"
    saved.write_text('{"transformer_task": "feature-extraction"}')
    with pytest.raises(ModelError, match="is saved for feature-extraction"):
        prepare(tmp_path, recipe="qwen3_vl")
