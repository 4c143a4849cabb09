"""The recipes' exact strings, typed out whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.recipes import RECIPES, get_recipe
from rerank_eval.engine.recipes.card import RECIPE as CARD
from rerank_eval.engine.recipes.qwen_eval import RECIPE as QWEN_EVAL

SYSTEM = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
ANSWER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QUERY, DOCUMENT = "What is the capital of China?", "The capital of China is Beijing."
GOLDEN = {
    "card": SYSTEM
    + "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    + "<Query>: What is the capital of China?\n<Document>: The capital of China is Beijing."
    + ANSWER,
    "qwen_eval": SYSTEM
    + "<Instruct>: Given the user query, retrieval the relevant passages\n\n"
    + "<Query>: What is the capital of China?\n\n<Document>: The capital of China is Beijing."
    + "<|im_end|>\n"
    + ANSWER,
    "mteb": SYSTEM
    + "<Instruct>: Given the user query, retrieval the relevant passages\n"
    + "<Query>: What is the capital of China?\n<Document>: The capital of China is Beijing."
    + ANSWER,
}


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_whole_prompt(name):
    recipe = RECIPES[name]
    assert recipe.prompt(QUERY, DOCUMENT, recipe.default_instruction) == GOLDEN[name]


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_no_instruction_leaves_the_line_out(name):
    recipe = RECIPES[name]
    prompt = recipe.prompt(QUERY, DOCUMENT, None)
    assert "<Instruct>" not in prompt.removeprefix(SYSTEM)
    assert prompt.startswith(SYSTEM + "<Query>: What")
    assert recipe.prompt(QUERY, DOCUMENT, "") != prompt


def test_braces_in_texts_are_text():
    assert "{query}{0}" in CARD.prompt("{query}{0}", "{document}", "{x}")


def test_what_sets_the_recipes_apart():
    assert {name: RECIPES[name].truncation for name in GOLDEN} == {
        "card": "body",
        "qwen_eval": "message",
        "mteb": "body",
    }
    assert [name for name, recipe in RECIPES.items() if recipe.joins_query_and_instruction] == ["mteb"]
    assert [name for name in GOLDEN if RECIPES[name].softmax_dtype == "model"] == ["card"]


def test_lookup():
    assert get_recipe("qwen_eval") is QWEN_EVAL
    own = replace(CARD, name="own")
    assert get_recipe(own) is own
    with pytest.raises(EngineError, match="unknown recipe 'cards'; valid: bge_gemma, card, ctxl_v2, mteb, mxbai_v2"):
        get_recipe("cards")


@pytest.mark.parametrize(
    "change",
    [
        {"query_template": "<Query>:"},
        {"document_template": " {document} {"},
        {"instruct_template": "{instruction}{instruction}"},
        {"suffix": ""},
        {"truncation": "left"},
        {"softmax_dtype": "float64"},
    ],
)
def test_malformed_recipes_are_refused(change):
    with pytest.raises(EngineError, match="recipe 'card'"):
        replace(CARD, **change)
