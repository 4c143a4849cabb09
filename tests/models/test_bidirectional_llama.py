"""nvidia's bidirectional Llamas: a tiny checkpoint in their layout against their code written out in plain torch."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import silu
from transformers import LlamaConfig, LlamaForSequenceClassification

from rerank_bench.parity_families import gemma_tokenizer
from rerank_eval.cli import main
from rerank_eval.config import RerankerConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.loading import load_engine
from rerank_eval.engine.pairs import PromptPairs
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.errors import ModelError
from rerank_eval.models.checkpoint import load_tokenizer
from rerank_eval.models.recipes import content_digest
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker

HIDDEN, HEADS, KEYS, WIDTH, POSITIONS = 64, 4, 2, 16, 640
GROUPS = [
    QueryGroup("what holds work still", None, ["A vise holds work still. " * n, "A saw.", "", "x y"])
    for n in (1, 4, 60)
]
GROUPS.append(QueryGroup("what holds work still", "no vises", ["A clamp.", "A clamp.", "A vise."]))
GROUPS.append(QueryGroup("a long query " * 60, None, ["A clamp."]))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Write a tiny checkpoint, once for each change of its config.json; None takes a key out."""
    made = {}

    def make(**changes):
        key = json.dumps(changes, sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp("llama_bidirec")
            tokenizer = gemma_tokenizer()
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=max(tokenizer.get_vocab().values()) + 1,
                hidden_size=HIDDEN,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=HEADS,
                num_key_value_heads=KEYS,
                max_position_embeddings=POSITIONS,
                num_labels=changes.get("labels", 1),
                pad_token_id=tokenizer.pad_token_id,
            )
            network = LlamaForSequenceClassification(config)
            for weights in network.parameters():  # large enough for attention to matter
                if weights.dim() > 1:
                    torch.nn.init.normal_(weights, std=0.2)
            network.save_pretrained(folder)
            tokenizer.model_max_length = 10**30
            tokenizer.save_pretrained(folder)
            content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            content |= {
                "architectures": ["LlamaBidirectionalForSequenceClassification"],
                "model_type": "llama_bidirec",
                "auto_map": {
                    "AutoConfig": "llama_bidirectional_model.LlamaBidirectionalConfig",
                    "AutoModelForSequenceClassification": (
                        "llama_bidirectional_model.LlamaBidirectionalForSequenceClassification"
                    ),
                },
                "pooling": "avg",
                "temperature": 1.0,
            }
            content |= changes
            content = {name: value for name, value in content.items() if value is not None and name != "labels"}
            (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
            (folder / "llama_bidirectional_model.py").write_text("raise SystemExit('code of the checkpoint ran')\n")
            made[key] = folder
        return made[key]

    return make


def rotated(states, angles):
    """Turn (heads, tokens, WIDTH) by position, the halves of a head being the pairs, as Llama does."""
    first, second = states[..., : WIDTH // 2], states[..., WIDTH // 2 :]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def normed(states, weight):
    return weight * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + 1e-6)


def nvidia_s_logit(weights, ids, pooling, temperature):
    """Compute one prompt's logit as nvidia's code does: eager attention, no mask, pooled, scored, divided."""
    states = weights["model.embed_tokens.weight"][ids]
    inverse = 10_000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    angles = torch.arange(len(ids))[:, None] * inverse
    for number in range(2):
        one = {key.split(f"layers.{number}.")[1]: w for key, w in weights.items() if f"layers.{number}." in key}
        read = normed(states, one["input_layernorm.weight"])
        q, k, v = (
            (read @ one[f"self_attn.{name}_proj.weight"].T).view(len(ids), -1, WIDTH).transpose(0, 1) for name in "qkv"
        )
        q, k = rotated(q, angles), rotated(k, angles)
        k, v = (tensor.repeat_interleave(HEADS // KEYS, dim=0) for tensor in (k, v))
        seen = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(WIDTH), dim=-1) @ v
        states = states + seen.transpose(0, 1).reshape(len(ids), -1) @ one["self_attn.o_proj.weight"].T
        read = normed(states, one["post_attention_layernorm.weight"])
        gate, up = (read @ one[f"mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        states = states + (silu(gate) * up) @ one["mlp.down_proj.weight"].T
    states = normed(states, weights["model.norm.weight"])
    pooled = {"avg": states.mean(dim=0), "cls": states[0], "last": states[-1]}[pooling]
    return float(pooled @ weights["score.weight"][0]) / temperature


def texts_of(group):
    query = f"{group.query} {group.instruction}" if group.instruction else group.query
    return [f"question:{query} \n \n passage:{document}" for document in group.documents]


def ids_of(group, limit=512):
    """Tokenise as the card does: one text, the tokenizer's own special tokens, cut from the right."""
    return gemma_tokenizer()(texts_of(group), truncation=True, max_length=limit)["input_ids"]


def prepare(folder, **settings):
    ref = resolve_model(str(folder), None, "reranker.model")
    return prepare_reranker(RerankerConfig(model=str(folder), **settings), ref)


def load(folder, **settings):
    ref = resolve_model(str(folder), None, "reranker.model")
    return load_reranking_engine(RerankerConfig(model=str(folder), **settings), ref, "cpu")


def logits_of(engine, groups=GROUPS):
    return np.concatenate([scores.scores for scores in engine.score_groups(groups)])


@pytest.mark.parametrize("engine", ["packed", "reference"])
@pytest.mark.parametrize(
    ("changes", "pooling", "temperature"),
    [
        ({}, "avg", 1.0),
        ({"pooling": None, "temperature": None}, "avg", 1.0),
        ({"pooling": "cls", "is_causal": False}, "cls", 1.0),
        ({"pooling": "last", "temperature": 0.25}, "last", 0.25),
    ],
)
def test_logits_are_those_of_nvidia_s_code(checkpoint, engine, changes, pooling, temperature):
    folder = checkpoint(**changes)
    weights = load_file(folder / "model.safetensors")
    found = load(folder, engine=engine)
    expected = [nvidia_s_logit(weights, ids, pooling, temperature) for group in GROUPS for ids in ids_of(group)]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits_of(found), expected, rtol=1e-5, atol=1e-5)
    assert found.settings["way"] == ("packed" if engine == "packed" else "reference")


def test_a_token_sees_what_stands_behind_it(checkpoint):
    """The first token's state alone is read, which of a causal network would be the same for every document."""
    scores = logits_of(load(checkpoint(pooling="cls")), [QueryGroup("q", None, ["A saw.", "A vise."])])
    assert abs(scores[0] - scores[1]) > 1e-3


@pytest.mark.parametrize("limit", [None, 64, 600])
def test_ids_are_those_of_the_card_s_code(checkpoint, limit):
    engine = load(checkpoint(), max_length=limit)
    for group in GROUPS:
        expected = ids_of(group, limit or 512)
        rendered = [engine.render(group.query, one, group.instruction) for one in group.documents]
        assert [list(one.token_ids) for one in rendered] == expected
        assert [one.text for one in rendered] == texts_of(group)
        whole = ids_of(group, 10**6)
        assert [one.truncated for one in rendered] == [
            len(ids) < len(full) for ids, full in zip(expected, whole, strict=True)
        ]
    scores = list(engine.score_groups(GROUPS))
    assert [list(one.tokens) for one in scores] == [[len(i) for i in ids_of(g, limit or 512)] for g in GROUPS]


def test_batch_mates_change_no_bit(checkpoint):
    engine = load(checkpoint())
    together = logits_of(engine)
    alone = [
        float(engine.score(QueryGroup(group.query, group.instruction, [one])).scores[0])
        for group in GROUPS
        for one in group.documents
    ]
    assert together.tolist() == alone
    assert logits_of(load(checkpoint(), token_budget=256)).tolist() == alone


def test_special_tokens_in_texts_are_escaped_if_asked_for(checkpoint):
    group = QueryGroup("q", None, ["a <eos> b"])
    kept, escaped = (load(checkpoint(), special_tokens=mode) for mode in ("keep", "escape"))
    eos = gemma_tokenizer().eos_token_id
    assert eos in kept.render("q", "a <eos> b").token_ids
    assert eos not in escaped.render("q", "a <eos> b").token_ids
    assert kept.score(group).scores[0] != escaped.score(group).scores[0]
    assert prepare(checkpoint(), special_tokens="escape").identity["markers"]


def test_the_checkpoint_is_prepared_without_its_code(checkpoint):
    prepared = prepare(checkpoint())
    assert prepared.identity == {"dtype": "float32", "max_length": 512, "recipe": "nemotron"}
    assert prepared.ref.notes[-1].endswith("nemotron was taken")
    assert not prepared.causal
    assert prepared.policy.choose("no saws", None) == ("query", "no saws")
    assert prepared.policy.choose(None, None)[1] is None
    named = prepare(checkpoint(), recipe="nemotron", engine="reference", trust_remote_code=True)
    assert named.ref.notes == ()
    assert named.identity["engine"] == "reference"
    assert load_tokenizer(prepared.ref).bos_token == "<bos>"


@pytest.mark.parametrize("name", RECIPES["nemotron"].models)
def test_its_name_on_the_hub_says_the_recipe_without_a_note(checkpoint, name):
    local = resolve_model(str(checkpoint()), None, "reranker.model")
    ref = replace(local, name=name, origin="mirror")
    prepared = prepare_reranker(RerankerConfig(model=name), ref)
    assert prepared.recipe is RECIPES["nemotron"]
    assert prepared.ref.notes == ()


@pytest.mark.parametrize(
    ("settings", "limit"),
    [({}, 512), ({"max_length": 64}, 64), ({"max_length": 640}, 640)],
)
def test_the_longest_prompt(checkpoint, settings, limit):
    assert prepare(checkpoint(), **settings).max_length == limit


def test_a_limit_never_exceeds_the_positions(checkpoint):
    assert prepare(checkpoint(max_position_embeddings=300)).max_length == 300
    with pytest.raises(ModelError, match=r"reranker\.max_length: 700 exceeds the 640 positions"):
        prepare(checkpoint(), max_length=700)


def test_an_own_recipe_changes_the_prompt_and_the_identity(checkpoint, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("extends: nemotron\nquery_template: 'q:{query}'\nmax_length: 100\n")
    prepared = prepare(checkpoint(), recipe=str(own))
    assert prepared.identity["recipe"].startswith("own@")
    assert prepared.max_length == 100
    assert load(checkpoint(), recipe=str(own)).render("a", "b").text == "q:a \n \n passage:b"


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"pooling": "weighted_avg"}, {}, r"pools by 'weighted_avg' by its config\.json, and only avg, cls, last"),
        ({"temperature": 0}, {}, r"divides its logit by '0' by its config\.json"),
        ({"temperature": "hot"}, {}, r"divides its logit by 'hot'"),
        ({"labels": 2}, {}, "has 2 labels; a reranker has one"),
        ({"labels": 3}, {}, "has 3 labels; a reranker has one"),
        ({}, {"instruction": "Find it"}, r"reranker\.instruction: .* reads no instruction"),
        ({}, {"recipe": "card"}, r"reranker\.recipe: card reads an answer at the last token"),
        ({}, {"dtype": "int8"}, r"reranker\.dtype: int8"),
        ({}, {"kind": "causal", "recipe": "card", "engine": "reference"}, r"reranker\.kind: .* set it to auto"),
        ({}, {"kind": "sequence-classification", "trust_remote_code": True}, r"reranker\.kind: .* set it to auto"),
        ({"architectures": ["LlamaForCausalLM"]}, {"kind": "bidirectional-llama"}, r"reranker\.kind: .* is no Llama"),
        ({"quantization_config": {"quant_method": "awq"}}, {}, "is quantised"),
    ],
)
def test_what_would_be_scored_otherwise_is_refused_in_one_line(checkpoint, changes, settings, message):
    with pytest.raises(ModelError, match=message) as found:
        prepare(checkpoint(**changes), **settings)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic rotary positions"),
        ({"num_hidden_layers": 3}, "lacks 9 weights that would be left random"),
        ({"num_hidden_layers": 5000}, "5,000 layers by its config.json, which is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused_when_it_is_loaded(checkpoint, changes, message):
    with pytest.raises(ModelError, match=message) as found:
        load(checkpoint(**changes))
    assert "\n" not in str(found.value)


def test_a_chat_template_of_its_own_is_held_against_the_recipe(checkpoint, tmp_path):
    folder = tmp_path / "templated"
    folder.mkdir()
    for path in checkpoint().iterdir():
        (folder / path.name).symlink_to(path)
    turns = "{{ (messages | selectattr('role', 'eq', 'query') | first).content }}"
    behind = "{{ (messages | selectattr('role', 'eq', 'document') | first).content }}"
    template = folder / "chat_template.jinja"
    template.write_text(f"{{{{ bos_token }}}}question:{turns} \n \n passage:{behind}")
    assert prepare(folder).ref.notes == ()
    template.write_text(f"Q:{turns} D:{behind}")
    with pytest.raises(ModelError, match=r"writes another prompt than recipe nemotron: .* set reranker\.recipe"):
        prepare(folder)
    assert prepare(folder, recipe="nemotron").ref.notes[-1].endswith("the config names the recipe")


def test_a_tokenizer_without_a_beginning_token_is_refused(checkpoint, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    for path in checkpoint().iterdir():
        if path.name != "tokenizer.json":
            (folder / path.name).symlink_to(path)
    content = json.loads((checkpoint() / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}), encoding="utf-8")
    with pytest.raises(ModelError, match="puts no beginning token before a text"):
        load(folder)


def test_the_engine_refuses_a_recipe_without_a_token_to_read(checkpoint):
    with pytest.raises(EngineError, match="recipe 'nemotron' has no token to read an answer at"):
        load_engine(checkpoint(), recipe="nemotron", device="cpu")
    with pytest.raises(EngineError, match="recipe 'card' reads an answer at the last token"):
        PromptPairs(gemma_tokenizer(), replace(RECIPES["card"], bos=True), 512)
    with pytest.raises(EngineError, match="the suffix is empty"):
        replace(RECIPES["nemotron"], reads="last")
    with pytest.raises(EngineError, match="reads is last or pooled"):
        replace(RECIPES["nemotron"], reads="mean")


def test_score_shows_the_prompt_and_where_it_comes_from(checkpoint, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["score", "-q", "which cat?", "-d", "a cat", "--set", f"reranker.model={checkpoint()}"])
    shown = capsys.readouterr().out
    assert "question:which cat?" in shown
    assert "recipe:  nemotron, taken for its architecture; the margin is the logit of its classification head" in shown


def test_other_models_do_not_take_the_recipe(checkpoint):
    folder = checkpoint(architectures=["LlamaForCausalLM"], model_type="llama", auto_map=None)
    with pytest.raises(ModelError, match=r"reranker\.recipe: nemotron is for classifiers that pool"):
        prepare(folder, recipe="nemotron")


def test_digests_of_recipes_without_the_new_field_are_what_they_were():
    old = {
        "bge_gemma": "8664cec0",
        "card": "3f0a2777",
        "ctxl_v2": "e6bc8b0c",
        "mteb": "5658d073",
        "mxbai_v2": "4796d958",
        "qwen3_vl": "0666df01",
        "qwen_eval": "fcf77379",
        "sglang": "d272092c",
        "zerank": "c171a006",
    }
    assert {name: content_digest(RECIPES[name]) for name in old} == old
