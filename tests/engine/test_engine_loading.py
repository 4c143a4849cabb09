"""What loads, and what is refused with one clear line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.loading import load_engine, resolve_device

GROUP = QueryGroup("rain", None, ["rivers flow", "silver coins"])


def test_settings_say_what_is_in_effect(demo):
    engine = load_engine(demo, recipe="mteb", revision="abc", device="cpu", max_length=512)
    assert engine.settings == {
        "model": str(demo),
        "revision": "abc",
        "dtype": "float32",
        "device": "cpu",
        "engine": "packed",
        "head": "float32",
        "recipe": "mteb",
        "max_length": 512,
        "token_budget": 16384,
        "attention": "segments",
    }


def test_the_dtype_is_the_one_asked_for(demo):
    margins = {
        dtype: load_engine(demo, recipe="card", device="cpu", dtype=dtype).score(GROUP).margins
        for dtype in ("float32", "bfloat16")
    }
    difference = np.abs(margins["float32"] - margins["bfloat16"]).max()
    assert 0 < difference < 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float64"}, "unknown dtype 'float64'; valid: float32, bfloat16, float16, float8, int8"),
        ({"engine": "vllm"}, "unknown engine 'vllm'; valid: packed, reference"),
        ({"head": "logits"}, "unknown head 'logits'"),
        ({"recipe": "none"}, "unknown recipe 'none'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"device": "meta"}, "unknown device 'meta'"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not available"),
        ({"max_length": 50_000}, "max_length 50000 exceeds the 40960 positions"),
        ({"max_length": 10}, "max_length 10 leaves no room"),
        ({"token_budget": -1}, "token_budget must be at least 1"),
        ({"dtype": "float8"}, "dtype float8 needs a CUDA device"),
        ({"attention": "torch_varlen"}, "attention torch_varlen does not run here"),
        ({"attention": "paged"}, "unknown attention 'paged'; valid: auto, segments"),
        ({"engine": "reference", "batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_settings_that_do_not_fit(demo, settings, message):
    with pytest.raises(EngineError, match=message):
        load_engine(demo, **{"recipe": "card", "device": "cpu", **settings})


def test_auto_finds_a_device():
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}
    assert resolve_device("cpu") == torch.device("cpu")


def test_an_absent_folder(tmp_path):
    with pytest.raises(EngineError, match="cannot be loaded") as caught:
        load_engine(tmp_path / "nowhere", recipe="card")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gpt2"}, "is of type 'gpt2'; the packed engine runs gemma, llama, mistral, qwen2, qwen3"),
        ({"architectures": ["Qwen3ForTokenClassification"]}, "not a causal language model"),
        (
            {"layer_types": ["full_attention", "sliding_attention"]},
            "sliding-window attention by its config.json, and no",
        ),
        (
            {
                "layer_types": ["full_attention", "sliding_attention"],
                "use_sliding_window": True,
                "sliding_window": 8,
            },
            "sliding window of 8 tokens, fewer than max_length",
        ),
        ({"hidden_size": 32}, "weights that would be left random|cannot be loaded"),
        ({"num_hidden_layers": 10**6}, "has 1,000,000 layers by its config.json"),
        ({"num_hidden_layers": 3}, "lacks 11 weights that would be left random: model.layers.2"),
    ],
)
def test_checkpoints_that_do_not_fit(variant, config, message):
    with pytest.raises(EngineError, match=message):
        load_engine(variant(config), recipe="card", device="cpu")


def test_an_untied_head_that_is_missing_is_not_left_random(variant):
    folder = variant({"tie_word_embeddings": False})
    with pytest.raises(EngineError, match=r"lacks 1 weights that would be left random: lm_head\.weight"):
        load_engine(folder, recipe="card", device="cpu")


@pytest.mark.parametrize("kind", ["packed", "reference"])
def test_a_head_of_its_own_is_read_and_not_taken_to_be_tied(variant, kind):
    """vllm#27857: every document of Qwen3-Reranker-8B scored 0.5, because the head that is not tied was not loaded."""

    def untied(weights):
        rows = weights["model.embed_tokens.weight"]
        generator = torch.Generator().manual_seed(3)
        return weights | {"lm_head.weight": torch.randn(rows.shape, generator=generator).to(rows.dtype)}

    folder = variant({"tie_word_embeddings": False}, untied)
    engine = load_engine(folder, recipe="card", device="cpu", engine=kind)
    ids = torch.tensor([engine.render(GROUP.query, GROUP.documents[0], GROUP.instruction).token_ids])
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits[0, -1]
    assert engine.score(GROUP).margins[0] == pytest.approx(float(logits[9693] - logits[2152]), abs=1e-3)


def test_pickled_weights_are_not_read(variant):
    folder = variant()
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(EngineError, match=r"cannot be loaded.*model\.safetensors"):
        load_engine(folder, recipe="card", device="cpu")


def test_padding_needs_no_pad_token_and_changes_no_score(demo, variant):
    folder = variant()
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "pad_token": None}
    path.unlink()
    path.write_text(json.dumps(settings))
    group = QueryGroup("rain", None, ["rivers flow through ancient valleys", "coins"])
    margins = [
        load_engine(model, recipe="card", device="cpu", engine="reference").score(group).margins
        for model in (demo, folder)
    ]
    np.testing.assert_array_equal(*margins)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_cut_short(variant, name):
    folder = variant()
    content = (folder / name).read_bytes()[:100]
    (folder / name).unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(EngineError, match="cannot be loaded"):
        load_engine(folder, recipe="card", device="cpu")


@pytest.mark.parametrize(("bad", "kind"), [("nan", "packed"), ("inf", "reference")])
def test_damaged_weights_do_not_rank(variant, bad: str, kind: str):
    def spoil(weights):
        weights["model.norm.weight"] = weights["model.norm.weight"] * float(bad)
        return weights

    engine = load_engine(variant(weights=spoil), recipe="card", device="cpu", engine=kind)
    with pytest.raises(EngineError, match="2 of 2 margins are NaN or infinite"):
        engine.score(GROUP)


def test_a_tokenizer_that_outgrows_the_model(variant):
    def cut(weights):
        name = "model.embed_tokens.weight"
        weights[name] = weights[name][:151_000].clone()
        return weights

    with pytest.raises(EngineError, match="the tokenizer has 151669 tokens"):
        load_engine(variant({"vocab_size": 151_000}, cut), recipe="card", device="cpu")


def test_the_answer_must_be_a_single_token(variant):
    folder = variant()
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text())
    description["model"]["merges"] = []
    path.unlink()
    path.write_text(json.dumps(description))
    with pytest.raises(EngineError, match="splits 'yes' into 3 tokens"):
        load_engine(folder, recipe="card", device="cpu")


def test_an_id_beyond_the_embedding(variant):
    """As many tokens as before, one of them with an id that has no row: it would end in an IndexError in mid-run."""
    folder = variant()
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"]["\u0120rain"] = 10_000_000
    path.unlink()  # a link to the checkpoint of all tests
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(EngineError, match="the tokenizer has 10000001 tokens"):
        load_engine(folder, recipe="card", device="cpu")
