"""Decoders of other families: packed where that is exact, else by the reference engine, never a wrong number."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.loading import load_engine, why_not_packed
from rerank_eval.errors import ModelError
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker

SIZES = {
    "vocab_size": 151_680,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
GROUPS = [
    QueryGroup("what holds work still", "Find the tool that is meant", ["A vise holds work still. " * n, "A saw.", "x"])
    for n in (1, 9)
]


@pytest.fixture(scope="module")
def checkpoint(demo, tmp_path_factory):
    """Write a tiny decoder of a family, once for each config, with Qwen's tokenizer."""
    made = {}

    def make(config_class, **changes):
        key = config_class.__name__ + json.dumps(changes, sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp(config_class.model_type)
            for path in demo.iterdir():
                if path.name.startswith("token"):
                    shutil.copy(path, folder / path.name)
            torch.manual_seed(0)
            network = AutoModelForCausalLM.from_config(config_class(**SIZES | changes))
            for name, weights in network.named_parameters():  # large enough for attention to matter
                if weights.dim() > 1 and "embed" not in name:
                    torch.nn.init.normal_(weights, std=0.3)
            network.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


def logits_of(folder, engine):
    """Score pair by pair with transformers' own code: no padding, no packing, the whole vocabulary's logits."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    found = []
    for group in GROUPS:
        for document in group.documents:
            ids = torch.tensor([engine.render(group.query, document, group.instruction).token_ids])
            with torch.inference_mode():
                last = network(ids).logits[0, -1]
            found.append(float(last[9693] - last[2152]))
    return np.array(found)


def margins_of(engine):
    return np.concatenate([scores.margins for scores in engine.score_groups(GROUPS)])


PACKED = [
    (Qwen2Config, {}),
    (Qwen3Config, {}),
    (LlamaConfig, {}),
    (LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    (LlamaConfig, {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}}),
    (MistralConfig, {"sliding_window": None}),
    (MistralConfig, {"sliding_window": 512}),
    (Qwen2Config, {"use_sliding_window": True, "sliding_window": 600, "max_window_layers": 1}),
    (GemmaConfig, {"hidden_activation": "gelu_pytorch_tanh"}),
]
REFERENCE = [
    (MistralConfig, {"sliding_window": 40}, "sliding window of 40 tokens, fewer than max_length 512"),
    (
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1},
        "sliding window of 40 tokens",
    ),
    (Gemma2Config, {"sliding_window": 64, "query_pre_attn_scalar": 8}, "is of type 'gemma2'"),
    (
        Gemma2Config,
        {"query_pre_attn_scalar": 32, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0},
        "is of type 'gemma2'",
    ),
    (
        Gemma3TextConfig,
        {"num_hidden_layers": 4, "sliding_window": 24, "sliding_window_pattern": 2, "query_pre_attn_scalar": 24},
        "is of type 'gemma3_text'",
    ),
    (GraniteConfig, {"logits_scaling": 8.0}, "is of type 'granite'"),
    (
        LlamaConfig,
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}},
        "has dynamic rotary positions",
    ),
]


@pytest.mark.parametrize(("config", "changes"), PACKED)
def test_the_packed_engine_gives_the_model_s_own_logits(checkpoint, config, changes):
    folder = checkpoint(config, **changes)
    packed = load_engine(folder, recipe="card", device="cpu")
    expected = logits_of(folder, packed)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(margins_of(packed), expected, atol=1e-4)
    reference = load_engine(folder, recipe="card", device="cpu", engine="reference")
    np.testing.assert_allclose(margins_of(reference), expected, atol=1e-4)


@pytest.mark.parametrize(("config", "changes", "why"), REFERENCE)
def test_what_packing_would_change_goes_to_the_reference_engine_and_says_so(checkpoint, tmp_path, config, changes, why):
    folder = checkpoint(config, **changes)
    with pytest.raises(EngineError, match=f"{why}.*; set engine to reference"):
        load_engine(folder, recipe="card", device="cpu")
    recipe = tmp_path / "own.yaml"
    recipe.write_text("extends: card\n")
    settings = RerankerConfig(model=str(folder), recipe=str(recipe))
    ref = resolve_model(str(folder), None, "reranker.model")
    prepared = prepare_reranker(settings, ref)
    assert prepared.identity["engine"] == "reference"
    assert why in prepared.ref.notes[-1]
    engine = load_reranking_engine(settings, ref, "cpu")
    expected = logits_of(folder, engine)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(margins_of(engine), expected, atol=1e-4)


def test_no_other_model_is_scored_with_the_card_s_prompt_unless_a_config_says_so(checkpoint):
    folder = str(checkpoint(LlamaConfig))
    with pytest.raises(ModelError, match=r"nor its name say with which prompt .* set reranker\.recipe to a YAML file"):
        prepare_reranker(RerankerConfig(model=folder), resolve_model(folder, None, "reranker.model"))
    prepared = prepare_reranker(
        RerankerConfig(model=folder, recipe="qwen_eval"), resolve_model(folder, None, "reranker.model")
    )
    assert prepared.identity["recipe"] == "qwen_eval"


def test_a_window_that_no_prompt_reaches_changes_nothing(checkpoint):
    config = MistralConfig(**SIZES, sliding_window=300)
    assert why_not_packed(config, 512) is not None
    assert why_not_packed(config, 300) is None
    prepared = prepare_reranker(
        RerankerConfig(model=str(checkpoint(MistralConfig, sliding_window=300)), recipe="mteb", max_length=256),
        resolve_model(str(checkpoint(MistralConfig, sliding_window=300)), None, "reranker.model"),
    )
    assert prepared.identity["engine"] == "packed"


@pytest.mark.parametrize(
    ("config", "plain", "changes"),
    [
        (Gemma2Config, {"attn_logit_softcapping": None}, {"attn_logit_softcapping": 1.0}),
        (Gemma2Config, {"final_logit_softcapping": None}, {"final_logit_softcapping": 2.0}),
        (Gemma3TextConfig, {"sliding_window": 512}, {"sliding_window": 24}),
        (Gemma3TextConfig, {}, {"query_pre_attn_scalar": 24}),
    ],
)
def test_what_sets_a_gemma_apart_moves_its_margins(checkpoint, config, plain, changes):
    """Else the comparison with transformers' own logits would say nothing of it."""
    plain_margins, changed = (
        margins_of(load_engine(checkpoint(config, **one), recipe="card", device="cpu", engine="reference"))
        for one in (plain, changes)
    )
    assert np.abs(plain_margins - changed).max() > 1e-3


def test_a_gemma_that_attends_in_both_directions_is_refused(checkpoint):
    folder = str(checkpoint(Gemma3TextConfig, use_bidirectional_attention=True))
    settings = RerankerConfig(model=folder, recipe="card")
    with pytest.raises(ModelError, match=r"attends in both directions by its config\.json") as found:
        load_reranking_engine(settings, resolve_model(folder, None, "reranker.model"), "cpu")
    assert "\n" not in str(found.value)


def test_other_types_are_known_by_their_type():
    assert "is of type 'gpt2'" in str(why_not_packed(GPT2Config(), 512))
