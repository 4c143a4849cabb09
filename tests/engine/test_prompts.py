"""Token ids: the parts tokenised apart against each recipe's own code on the whole string."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, pre_tokenizers, processors
from transformers import AutoTokenizer, ByT5Tokenizer

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.prompts import PromptTokenizer, TokenizedGroup, share_common_prefix
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.engine.recipes.card import RECIPE as CARD
from rerank_eval.engine.recipes.mteb import RECIPE as MTEB
from rerank_eval.engine.recipes.qwen_eval import RECIPE as QWEN_EVAL
from rerank_eval.engine.splitting import lay_out, splits_exactly
from rerank_eval.models.demo import SHIPPED
from rerank_eval.models.qwen_vocabulary import build_qwen_tokenizer

SYSTEM_TEXT = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
    'answer can only be "yes" or "no".'
)
PREFIX = f"<|im_start|>system\n{SYSTEM_TEXT}<|im_end|>\n<|im_start|>user\n"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

FRAGMENTS = [
    *("", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\x85"),
    *("a", "The cat's", "don't 'S", "42", "3.14", ".", "?!", "...\n", ":", " :", "<", ">", "|", "\\n", "{", "%s"),
    *(
        "\u0301",
        "e\u0301",
        "\u0338",
        "<\u0338",
        " \u0301",
        "\u1100\u1161",
        "ﬁ",
        "Å",
        "ق\u064e",
        "नि",
        "\u200d",
        "\ufeff",
    ),
    *("你好", "日本語。", "한국어", "🎉", "👩\u200d💻", "🇩🇪", "\ufffd", "\x00"),
    *(
        "<|im_end|>",
        "<|im_start|>",
        "<think>",
        "</think>",
        "<|endoftext|>",
        "<|im_end",
        "|>",
        "<Query>:",
        "<Document>:",
    ),
]
TEXT = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join),
    st.text(max_size=30),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=8).map("".join),
)


def card_ids(tokenizer, query, document, instruction, max_length):
    """The model card's format_instruction and process_inputs (mteb's are the same)."""
    line = "" if instruction is None else f"<Instruct>: {instruction}\n"
    pair = line + f"<Query>: {query}\n<Document>: {document}"
    prefix_tokens = tokenizer.encode(PREFIX, add_special_tokens=False)
    suffix_tokens = tokenizer.encode(SUFFIX, add_special_tokens=False)
    room = max_length - len(prefix_tokens) - len(suffix_tokens)
    inputs = tokenizer([pair], padding=False, truncation="longest_first", return_attention_mask=False, max_length=room)
    return prefix_tokens + inputs["input_ids"][0] + suffix_tokens


def qwen_eval_ids(tokenizer, query, document, instruction, max_length):
    """QwenLM's evaluation script: chat template, cut, suffix."""
    line = "" if instruction is None else f"<Instruct>: {instruction}\n\n"
    messages = [
        {"role": "system", "content": SYSTEM_TEXT},
        {"role": "user", "content": f"{line}<Query>: {query}\n\n<Document>: {document}"},
    ]
    message = tokenizer.apply_chat_template(
        [messages], tokenize=True, add_generation_prompt=False, enable_thinking=False, return_dict=True
    )["input_ids"][0]
    return message[:max_length] + tokenizer.encode(SUFFIX, add_special_tokens=False)


ORACLES = {"card": card_ids, "mteb": card_ids, "qwen_eval": qwen_eval_ids}


@pytest.fixture(scope="module")
def makers(tokenizer):
    return {
        (name, limit): PromptTokenizer(tokenizer, recipe, limit)
        for name, recipe in RECIPES.items()
        for limit in (55, 70, 8192)
    }


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    which=st.tuples(st.sampled_from(sorted(ORACLES)), st.sampled_from([55, 70, 8192, 8192])),
    query=TEXT,
    instruction=st.one_of(st.none(), TEXT),
    documents=st.lists(TEXT, min_size=1, max_size=4),
)
def test_ids_equal_the_recipes_own_code(  # noqa: PLR0917 - pytest fixtures and drawn values
    tokenizer, makers, which, query, instruction, documents
):
    maker, (name, limit) = makers[which], which
    group = QueryGroup(query, instruction, documents)
    expected = [ORACLES[name](tokenizer, query, document, instruction, limit) for document in documents]
    unlimited = [ORACLES[name](tokenizer, query, document, instruction, 10**6) for document in documents]
    factored, whole = maker.factored(group), maker.whole(group)
    assert [factored.shared + ids for ids in factored.own] == expected
    assert whole.own == expected
    truncated = [len(short) < len(full) for short, full in zip(expected, unlimited, strict=True)]
    assert factored.truncated.tolist() == whole.truncated.tolist() == truncated
    assert factored.lengths.tolist() == [len(ids) for ids in expected]


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"nemotron"}))  # whose documents are tokenised whole
def test_the_split_is_proved_for_the_real_vocabulary(makers, name):
    assert makers[name, 8192].exact_split


@pytest.fixture(scope="module")
def demo_makers():
    demo = AutoTokenizer.from_pretrained(SHIPPED)
    return {
        (name, limit): PromptTokenizer(demo, recipe, limit)
        for name, recipe in RECIPES.items()
        for limit in (75, 100, 512)
    }


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    which=st.tuples(st.sampled_from(sorted(ORACLES)), st.sampled_from([75, 100, 512])),
    query=TEXT,
    instruction=st.one_of(st.none(), TEXT),
    documents=st.lists(TEXT, min_size=1, max_size=4),
)
def test_the_demo_vocabulary_splits_at_its_added_tokens(demo_makers, which, query, instruction, documents):
    maker, group = demo_makers[which], QueryGroup(query, instruction, documents)
    assert maker.exact_split
    factored, whole = maker.factored(group), maker.whole(group)
    assert [factored.shared + ids for ids in factored.own] == whole.own
    assert factored.truncated.tolist() == whole.truncated.tolist()
    assert factored.query_cut == whole.query_cut or not whole.truncated.any()


@pytest.mark.parametrize("token", ["<Document>: x", "\n<Doc", "ument>: "])
def test_an_added_token_over_another_forbids_the_split(token):
    demo = AutoTokenizer.from_pretrained(SHIPPED)
    demo.add_tokens([AddedToken(token, normalized=False)])
    assert not splits_exactly(demo, CARD)


def test_an_added_token_over_instruction_and_query_joins_the_two():
    demo = AutoTokenizer.from_pretrained(SHIPPED)
    demo.add_tokens([AddedToken("\n<Q", normalized=False)])
    layout = lay_out(demo, CARD, instructed=True)
    assert [[part.name for part in unit] for unit in layout.before] == [["prefix"], ["instruction", "query"]]
    assert layout.document_apart
    maker, group = PromptTokenizer(demo, CARD, 512), QueryGroup("q", "i", ["x", "y"])
    prompts = maker.factored(group)
    assert [prompts.shared + ids for ids in prompts.own] == maker.whole(group).own


def test_golden_ids(tokenizer):
    prompt = PromptTokenizer(tokenizer, CARD, 8192).render("a", "b", None)
    assert len(tokenizer.encode(PREFIX)) == 39
    assert prompt.token_ids[:4] == (151644, 8948, 198, 60256)
    assert prompt.token_ids[39:-9] == tuple(tokenizer.encode("<Query>: a\n<Document>: b"))
    assert prompt.token_ids[-9:] == (151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271)
    assert prompt.text == PREFIX + "<Query>: a\n<Document>: b" + SUFFIX
    assert not prompt.truncated


def test_the_query_is_shared_and_each_document_is_not(tokenizer):
    group = QueryGroup("which cat?", "Find cats", ["a cat", "a dog", "a cat"])
    prompts = PromptTokenizer(tokenizer, CARD, 8192).factored(group)
    assert tokenizer.decode(prompts.shared).endswith("<Query>: which cat?\n<Document>:")
    assert [tokenizer.decode(ids) for ids in prompts.own] == [
        f" a {animal}{SUFFIX}" for animal in ("cat", "dog", "cat")
    ]


def test_a_query_over_the_limit_is_cut_and_leaves_no_room_for_documents(tokenizer):
    for recipe, kept in ((CARD, 60), (QWEN_EVAL, 60 + 9)):
        prompts = PromptTokenizer(tokenizer, recipe, 60).factored(QueryGroup("word " * 80, None, ["one", "two"]))
        assert prompts.lengths.tolist() == [kept, kept]
        assert prompts.own[0] == prompts.own[1] == tokenizer.encode(SUFFIX)
        assert prompts.truncated.all()


def test_at_the_limit_nothing_is_truncated(tokenizer):
    length = len(PromptTokenizer(tokenizer, CARD, 8192).render("a b c", "d e f", None).token_ids)
    assert not PromptTokenizer(tokenizer, CARD, length).render("a b c", "d e f", None).truncated
    cut = PromptTokenizer(tokenizer, CARD, length - 1).render("a b c", "d e f", None)
    assert cut.truncated
    assert len(cut.token_ids) == length - 1
    assert tokenizer.decode(cut.token_ids).endswith("d e" + SUFFIX)
    assert "d e f" in cut.text


def test_lone_surrogates_become_the_replacement_character(tokenizer):
    maker = PromptTokenizer(tokenizer, MTEB, 8192)
    broken, mended = maker.render("q\ud800", "\udfffd", "i"), maker.render("q\ufffd", "\ufffdd", "i")
    assert broken == mended
    assert "\ufffdd" in broken.text


CUT_BEFORE_THE_BREAK = replace(CARD, query_template="<Query>: {query}", document_template="\n<Document>: {document}")


def test_an_inexact_split_is_seen_and_handled_exactly(tokenizer):
    maker = PromptTokenizer(tokenizer, CUT_BEFORE_THE_BREAK, 8192)
    assert not maker.exact_split
    group = QueryGroup("a cat?", "Find cats.", ["one cat", "one dog"])
    apart = tokenizer.encode("<Instruct>: Find cats.\n<Query>: a cat?") + tokenizer.encode("\n<Document>:")
    together = tokenizer.encode("<Instruct>: Find cats.\n<Query>: a cat?\n<Document>:")
    assert apart != together  # else this test would not test the fallback
    prompts = maker.factored(group)
    assert [prompts.shared + ids for ids in prompts.own] == maker.whole(group).own
    assert prompts.shared == tokenizer.encode(PREFIX) + together + tokenizer.encode(" one")


def test_a_common_prefix_never_takes_the_kept_end():
    same = TokenizedGroup([], [[1, 2, 3, 4], [1, 2, 3, 4]], np.zeros(2, dtype=np.bool_))
    factored = share_common_prefix(same, keep=2)
    assert (factored.shared, factored.own) == ([1, 2], [[3, 4], [3, 4]])
    unlike = share_common_prefix(TokenizedGroup([], [[1, 5], [2, 5]], same.truncated), keep=1)
    assert (unlike.shared, unlike.own) == ([], [[1, 5], [2, 5]])


@pytest.fixture
def own_tokenizer():
    """A tokenizer of the test's own, to spoil."""
    return build_qwen_tokenizer()


@pytest.mark.parametrize(
    "token",
    [AddedToken("\n<"), AddedToken("t>: x"), AddedToken("<mark>", lstrip=True), AddedToken("zz", single_word=True)],
)
def test_an_added_token_that_may_reach_over_a_boundary_forbids_the_split(own_tokenizer, token):
    assert splits_exactly(own_tokenizer, CARD)
    own_tokenizer.add_tokens([token])
    assert not splits_exactly(own_tokenizer, CARD)
    maker = PromptTokenizer(own_tokenizer, CARD, 8192)
    group = QueryGroup("q", "x\n", ["x", "y"])
    prompts = maker.factored(group)
    assert [prompts.shared + ids for ids in prompts.own] == [
        card_ids(own_tokenizer, "q", document, "x\n", 8192) for document in group.documents
    ]


def test_a_harmless_added_token_leaves_the_split(own_tokenizer):
    own_tokenizer.add_tokens([AddedToken("<|mine|>", normalized=False)])
    assert splits_exactly(own_tokenizer, QWEN_EVAL)


def test_another_split_pattern_forbids_the_split(own_tokenizer):
    own_tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert not splits_exactly(own_tokenizer, CARD)


def test_unsuitable_tokenizers_and_limits_are_refused(own_tokenizer):
    with pytest.raises(EngineError, match="max_length 48 leaves no room: prefix and suffix alone take 48 tokens"):
        PromptTokenizer(own_tokenizer, CARD, 48)
    with pytest.raises(EngineError, match="slow tokenizer"):
        PromptTokenizer(ByT5Tokenizer(), CARD, 8192)
    own_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 151643)]
    )
    with pytest.raises(EngineError, match="adds special tokens"):
        PromptTokenizer(own_tokenizer, CARD, 8192)
