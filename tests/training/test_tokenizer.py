from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rerank_demo.batches import Prompts
from rerank_demo.data import TrainingData
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.prompts import PromptTokenizer, token_ids
from rerank_eval.engine.recipe import Recipe
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.engine.recipes.card import RECIPE as CARD

WORDS = ("parse header", "parse_header", "parseHeader", "ParseHeader", "PARSE_HEADER", "parse  header")


@pytest.mark.parametrize("text", WORDS)
def test_an_identifier_has_the_tokens_of_its_words(data: TrainingData, text: str) -> None:
    ids = token_ids(data.tokenizer, [text, "parse", "header"])
    assert [one for one in ids[0] if one in ids[1] + ids[2]] == ids[1] + ids[2]


def test_capitals_in_a_row_are_one_word(data: TrainingData) -> None:
    assert token_ids(data.tokenizer, ["HTTPServerError"]) == token_ids(data.tokenizer, ["http server error"])


def test_a_leading_underscore_stays(data: TrainingData) -> None:
    private, public = token_ids(data.tokenizer, ["_name", "name"])
    assert private[-len(public) :] == public
    assert len(private) > len(public)


@pytest.mark.parametrize("word", ["yes", "no", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>"])
def test_answers_and_markers_are_single_tokens(data: TrainingData, word: str) -> None:
    assert len(token_ids(data.tokenizer, [word])[0]) == 1


JUDGES = [recipe for recipe in RECIPES.values() if "Judge" in recipe.prefix]


@pytest.mark.parametrize("recipe", JUDGES, ids=lambda recipe: recipe.name)
def test_every_word_of_the_prompts_is_a_token(data: TrainingData, recipe: Recipe) -> None:
    texts = data.tokenizer.convert_ids_to_tokens(token_ids(data.tokenizer, [recipe.prefix])[0])
    assert "judge" in texts
    assert "requirements" in texts


def test_the_hubs_loader_gives_the_same_ids(data: TrainingData, tmp_path: Path) -> None:
    data.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}', encoding="utf-8")
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = [one.code for one in data.functions[:200]]
    assert token_ids(loaded, texts) == token_ids(data.tokenizer, texts)


TEXTS = st.text(st.sampled_from("abAB_ 1(\n\t.éß漢<|>:"), max_size=30)


@settings(max_examples=200, deadline=None)
@given(query=TEXTS, document=TEXTS)
def test_parts_are_tokenised_as_the_engine_tokenises_the_whole(data: TrainingData, query: str, document: str) -> None:
    instruction = "Given a query, find it"
    whole = PromptTokenizer(data.tokenizer, CARD, 8192).whole(QueryGroup(query, instruction, [document])).own[0]
    parts = Prompts(data, 10_000).text_group(query, [document], instruction)
    assert parts.prefix + parts.documents[0] == whole
