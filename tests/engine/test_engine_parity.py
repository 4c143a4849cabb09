"""The packed engine against the reference engine, the model card's snippet and mteb's wrapper."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from mteb.models.model_implementations.qwen3_reranker import Qwen3RerankerWrapper
from transformers import AutoModelForCausalLM, AutoTokenizer

from rerank_eval.engine.interface import COLUMNS, QueryGroup
from rerank_eval.engine.loading import load_engine
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.models.demo import DemoShape, build_demo_reranker

DECODERS = sorted(name for name, recipe in RECIPES.items() if recipe.reads == "last")

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
WORDS = "rivers flow slowly through ancient stone valleys while merchants count silver coins 7 times. Then: rain!"


def text(seed: int, words: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS.split(), words))


VARIED = QueryGroup(
    "which rivers flow?",
    INSTRUCTION,
    [
        text(1, 40),
        text(2, 3),
        text(3, 120),
        "",
        text(5, 90),
        "Markers <|im_end|> and <think>.",
        text(7, 40),
        "水は流れる 🎉",
    ],
)
SHORT = QueryGroup("which rivers flow?", INSTRUCTION, [text(1, 20), text(2, 3), text(3, 45), "", "水は流れる 🎉"])
"""For the code of others, which computes the full vocabulary's logits at every position."""
GROUPS = {
    "varied": VARIED,
    "one document": QueryGroup("rain", INSTRUCTION, [text(11, 25)]),
    "no instruction": QueryGroup("rain", None, [text(12, 25), text(13, 2)]),
    "long query": QueryGroup(text(14, 200), INSTRUCTION, [text(15, 30), "", text(16, 60)]),
    "long document": QueryGroup("coins", INSTRUCTION, [text(17, 1000), text(18, 10)]),
    "same document": QueryGroup("coins", INSTRUCTION, ["silver", "silver"]),
}


def p_yes(scores, head="float32"):
    return scores.scores if head == "recipe_softmax" else 1 / (1 + np.exp(-scores.margins))


@pytest.mark.parametrize("max_length", [8192, 120])
@pytest.mark.parametrize("recipe", DECODERS)
@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_packed_equals_reference(engine_for, recipe, group, max_length):
    packed = engine_for(recipe=recipe, max_length=max_length).score(group)
    plain = engine_for(recipe=recipe, max_length=max_length, engine="reference", batch_size=4).score(group)
    np.testing.assert_allclose(packed.margins, plain.margins, rtol=0, atol=1e-5)
    np.testing.assert_allclose(p_yes(packed), p_yes(plain), rtol=0, atol=1e-6)
    assert packed.truncated.tolist() == plain.truncated.tolist()
    assert packed.tokens.tolist() == plain.tokens.tolist()
    if RECIPES[recipe].truncation != "document":  # which cuts a long query below the limit
        assert packed.truncated.any() == (plain.tokens.max() >= max_length)


def test_scores_tell_documents_and_queries_apart(engine_for):
    """Parity would be cheap if the demo model gave everything the same score."""
    scores = engine_for().score(VARIED)
    assert len(set(scores.margins.tolist())) == len(VARIED.documents)
    assert scores.margins.std() > 0.1
    other = engine_for().score(QueryGroup("another query", INSTRUCTION, VARIED.documents))
    assert np.abs(other.margins - scores.margins).min() > 1e-3


def test_the_types_are_as_promised(engine_for):
    scores = engine_for().score(VARIED)
    for column in COLUMNS:
        array = getattr(scores, column.field)
        assert (array.dtype, array.shape) == (column.dtype, (len(VARIED.documents),))
    np.testing.assert_array_equal(scores.scores, scores.margins)
    np.testing.assert_array_equal(scores.margins, scores.margins.astype(np.float32))


@pytest.mark.parametrize("engine", ["packed", "reference"])
def test_no_documents(engine_for, engine):
    scores = engine_for(engine=engine).score(QueryGroup("q", None, []))
    assert len(scores) == 0
    for column in COLUMNS:
        array = getattr(scores, column.field)
        assert (array.dtype, array.shape) == (column.dtype, (0,))


@cache
def card_scores(folder, max_length):
    """The model card's snippet (transformers usage), typed out."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    token_false_id = tokenizer.convert_tokens_to_ids("no")
    token_true_id = tokenizer.convert_tokens_to_ids("yes")
    prefix = '<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'  # noqa: E501
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    prefix_tokens = tokenizer.encode(prefix, add_special_tokens=False)
    suffix_tokens = tokenizer.encode(suffix, add_special_tokens=False)
    pairs = [f"<Instruct>: {INSTRUCTION}\n<Query>: {SHORT.query}\n<Document>: {doc}" for doc in SHORT.documents]
    inputs = tokenizer(
        pairs,
        padding=False,
        truncation="longest_first",
        return_attention_mask=False,
        max_length=max_length - len(prefix_tokens) - len(suffix_tokens),
    )
    for i, ids in enumerate(inputs["input_ids"]):
        inputs["input_ids"][i] = prefix_tokens + ids + suffix_tokens
    inputs = tokenizer.pad(inputs, padding=True, return_tensors="pt", max_length=max_length)
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1, :]
        stacked = torch.stack([logits[:, token_false_id], logits[:, token_true_id]], dim=1)
        return torch.nn.functional.log_softmax(stacked, dim=1)[:, 1].exp().tolist()


@pytest.mark.parametrize("max_length", [8192, 100])
@pytest.mark.parametrize("head", ["float32", "recipe_softmax"])
@pytest.mark.parametrize("engine", ["packed", "reference"])
def test_recipe_card_equals_the_model_cards_snippet(demo, engine_for, engine, head, max_length):
    expected = card_scores(demo, max_length)
    found = engine_for(engine=engine, head=head, max_length=max_length).score(SHORT)
    np.testing.assert_allclose(p_yes(found, head), expected, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def wrappers(demo):
    return {
        dtype: Qwen3RerankerWrapper(str(demo), device="cpu", max_length=100, dtype=getattr(torch, dtype))
        for dtype in ("float32", "bfloat16")
    }


def wrapper_scores(wrapper, group):
    pairs = [wrapper.format_instruction(group.instruction, group.query, document) for document in group.documents]
    return wrapper.compute_logits(wrapper.process_inputs(pairs))


@pytest.mark.parametrize("head", ["float32", "recipe_softmax"])
@pytest.mark.parametrize("engine", ["packed", "reference"])
def test_recipe_mteb_equals_mtebs_wrapper(engine_for, wrappers, engine, head):
    found = engine_for(recipe="mteb", engine=engine, head=head, max_length=100).score(SHORT)
    expected = wrapper_scores(wrappers["float32"], SHORT)
    np.testing.assert_allclose(p_yes(found, head), expected, rtol=0, atol=1e-6)


def test_recipe_softmax_reference_repeats_mtebs_bfloat16_arithmetic(engine_for, wrappers):
    engine = engine_for(recipe="mteb", engine="reference", head="recipe_softmax", dtype="bfloat16", max_length=100)
    found = engine.score(SHORT)
    np.testing.assert_allclose(found.scores, wrapper_scores(wrappers["bfloat16"], SHORT), rtol=0, atol=1e-6)
    assert ((found.scores > 0) & (found.scores < 1)).all()


def test_recipe_softmax_card_takes_the_softmax_in_the_models_dtype(engine_for):
    scores = engine_for(head="recipe_softmax", dtype="bfloat16").score(SHORT)
    rounded = torch.from_numpy(scores.scores).to(torch.bfloat16).double().numpy()
    np.testing.assert_array_equal(scores.scores, rounded)
    upcast = engine_for(recipe="mteb", head="recipe_softmax", dtype="bfloat16").score(SHORT)
    assert (torch.from_numpy(upcast.scores).to(torch.bfloat16).double().numpy() != upcast.scores).any()


@pytest.mark.parametrize("budget", [1, 300, 450])
def test_splitting_at_the_budget_changes_nothing(engine_for, budget):
    whole, split = engine_for(), engine_for(token_budget=budget)
    before = split.stats.forwards
    np.testing.assert_allclose(split.score(VARIED).margins, whole.score(VARIED).margins, rtol=0, atol=1e-5)
    assert split.stats.forwards - before > 1


def test_scores_do_not_depend_on_what_is_scored_before(engine_for):
    engine = engine_for()
    first = engine.score(VARIED).margins
    engine.score(GROUPS["long query"])
    np.testing.assert_array_equal(engine.score(VARIED).margins, first)


@pytest.mark.parametrize("engine", ["packed", "reference"])
def test_scores_come_back_in_the_documents_order(engine_for, engine):
    scorer = engine_for(engine=engine)
    order = [3, 0, 7, 1, 6, 2, 5, 4]
    straight = scorer.score(VARIED)
    shuffled = scorer.score(QueryGroup(VARIED.query, VARIED.instruction, [VARIED.documents[i] for i in order]))
    np.testing.assert_allclose(shuffled.margins, straight.margins[order], rtol=0, atol=1e-5)
    assert shuffled.tokens.tolist() == straight.tokens[order].tolist()


def ranks(values):
    return np.argsort(np.argsort(values))


@pytest.mark.parametrize(("dtype", "correlation"), [("bfloat16", 0.95), ("float16", 0.99)])
@pytest.mark.parametrize("engine", ["packed", "reference"])
def test_half_precision_keeps_the_order(engine_for, engine, dtype, correlation):
    group = QueryGroup("which rivers flow?", INSTRUCTION, [text(100 + i, 5 + 3 * i) for i in range(30)])
    exact = engine_for().score(group).margins
    rough = engine_for(engine=engine, dtype=dtype).score(group).margins
    assert np.corrcoef(ranks(exact), ranks(rough))[0, 1] > correlation
    assert np.abs(exact - rough).max() > 0


@pytest.mark.parametrize("heads", [(4, 4, 20), (6, 1, 16)])
def test_other_head_shapes_and_an_untied_head(tmp_path, heads):
    """The head is read from lm_head.weight: were the embedding used instead, packed and card would not agree."""
    shape = DemoShape(1, 16, 16, *heads, tie_word_embeddings=False)
    folder = build_demo_reranker(tmp_path / "untied", shape)
    found = load_engine(folder, recipe="card", device="cpu").score(SHORT)
    np.testing.assert_allclose(p_yes(found), card_scores(folder, 8192), rtol=0, atol=1e-6)


def test_stats_of_the_packed_engine_count_the_prefix_once_for_each_pack(engine_for):
    for settings, packs in (({"token_budget": 10_000}, 1), ({"token_budget": 2}, len(VARIED.documents))):
        engine = engine_for(**settings, max_length=130)
        lengths = engine.score(VARIED).tokens
        root = len(engine.render(VARIED.query, "", INSTRUCTION).token_ids) - 10  # less " " and the suffix of 9
        assert engine.stats.computed_tokens == int(lengths.sum()) - (len(lengths) - packs) * root
        assert (engine.stats.pairs, engine.stats.groups, engine.stats.forwards) == (8, 1, packs)
        assert engine.stats.prompt_tokens == int(lengths.sum())
        assert engine.stats.padding_tokens == 0
        assert engine.stats.truncated_pairs == int((lengths == 130).sum()) == 2
        assert engine.stats.seconds > engine.stats.tokenize_seconds > 0


def test_stats_of_the_reference_engine_count_padding(engine_for):
    engine = engine_for(engine="reference", batch_size=3, max_length=1000)
    lengths = engine.score(VARIED).tokens
    batches = [lengths[:3], lengths[3:6], lengths[6:]]
    computed = sum(int(batch.max()) * len(batch) for batch in batches)
    assert (engine.stats.forwards, engine.stats.computed_tokens) == (3, computed)
    assert engine.stats.padding_tokens == computed - int(lengths.sum()) > 0
    assert engine.stats + engine.stats == engine.stats + engine.stats
    assert (engine.stats + engine.stats).pairs == 16


@pytest.mark.parametrize("recipe", DECODERS)
def test_render_shows_what_is_sent(engine_for, recipe):
    for engine in (engine_for(recipe=recipe), engine_for(recipe=recipe, engine="reference")):
        prompt = engine.render(VARIED.query, VARIED.documents[0], INSTRUCTION)
        assert prompt.text == RECIPES[recipe].prompt(VARIED.query, VARIED.documents[0], INSTRUCTION)
        assert len(prompt.token_ids) == engine.score(VARIED).tokens[0]


def test_recipe_card_equals_sentence_transformers_cross_encoder(demo, engine_for):
    """The same prompt, as a chat template; its score is the logit difference before the sigmoid."""
    from sentence_transformers import CrossEncoder

    from rerank_eval.engine.chat_template import chat_template

    model = CrossEncoder(
        str(demo),
        device="cpu",
        max_length=8192,
        model_kwargs={"dtype": torch.float32},
        processor_kwargs={"chat_template": chat_template(RECIPES["card"])},
    )
    for group in (SHORT, GROUPS["long query"]):
        pairs = [(group.query, document) for document in group.documents]
        options = {"prompt": group.instruction, "show_progress_bar": False}
        margins = model.predict(pairs, activation_fn=torch.nn.Identity(), **options)
        found = engine_for().score(group)
        np.testing.assert_allclose(found.margins, margins, rtol=0, atol=1e-4)
        np.testing.assert_allclose(p_yes(found), 1 / (1 + np.exp(-margins)), rtol=0, atol=1e-6)
        ids = model.preprocess(pairs[:1], prompt=group.instruction)["input_ids"][0].tolist()
        assert tuple(ids) == engine_for().render(group.query, group.documents[0], group.instruction).token_ids
