"""Rerankers that score as the demo does and then go wrong in one way: what servers and wrappers do.

They are real code with the real weights; what they get wrong is all that is made up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.base import PromptEngine
from rerank_eval.engine.prompts import PromptTokenizer, token_ids
from rerank_eval.engine.recipes import get_recipe
from rerank_eval.models.checkpoint import load_tokenizer
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers import load_reranker

_TURN = threading.Lock()
MODEL = "demo:qwen3-python"


@cache
def reranker() -> Any:
    return load_reranker(RerankerConfig(model=MODEL, max_length=512), "cpu")


@cache
def tokenizer() -> Any:
    return load_tokenizer(resolve_model(MODEL, None, "reranker.model"))


def ids(text: str) -> list[int]:
    return token_ids(tokenizer(), [text])[0] if text else []


def first(text: str, count: int) -> str:
    """Return the beginning of a text that has so many tokens."""
    cut = len(text)
    while len(ids(text[:cut])) > count:
        cut -= 1
    return text[:cut]


def prompt(query: str, document: str, instruction: str | None, recipe: str = "card") -> list[int]:
    prompts = PromptTokenizer(tokenizer(), get_recipe(recipe), 512)
    return list(prompts.render(query, document, instruction).token_ids)


def margins(prompts: Sequence[Sequence[int]]) -> np.ndarray:
    with _TURN:  # an engine is used by one thread at a time, and a server's requests come side by side
        engine = reranker().engine
        assert isinstance(engine, PromptEngine)
        return engine.answers(prompts, engine.parts.head)[1]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda x: x,
    "sorted": lambda x: np.sort(x)[::-1],
    "shuffled": lambda x: np.random.default_rng(len(x)).permutation(x),
    "twice": lambda x: sigmoid(sigmoid(x)),
    "negated": lambda x: -x,
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(),
    "noise": lambda x: np.random.default_rng(abs(int(1e6 * x.sum()))).normal(size=len(x)),
    "unsteady": lambda x: x + 0.05 * np.arange(len(x)) / len(x),
    "jitter": lambda x: x + 0.03 * np.sin(1000 * x),
    "jitter and sigmoid": lambda x: sigmoid(x + 0.03 * np.sin(1000 * x)),
    "constant": lambda x: np.full(len(x), x.mean()),
    "decimals": lambda x: np.round(sigmoid(x), 3),
}


class Changed:
    """The demo's scores, changed; its prompts are the demo's."""

    revision = "1"

    def __init__(self, change: str) -> None:
        self.change = CHANGES[change]

    def score(self, query: str, documents: list[str], instruction: str | None) -> np.ndarray:
        return self.change(reranker().score(query, documents, instruction))


FORMS: dict[str, Callable[[str, str, str | None], list[int]]] = {
    "bare": lambda q, d, _: ids(q) + ids(d),
    "two lines": lambda q, d, _: ids(q) + ids("\n") + ids(d),
    "document": lambda _, d, __: ids(d),
    "exchanged": lambda q, d, i: prompt(d, q, i),
    "without end": lambda q, d, i: prompt(q, d, i)[: -len(ids(get_recipe("card").suffix))],
    "without think": lambda q, d, i: prompt(q, d, i)[: -len(ids("<think>\n\n</think>\n\n"))],
    "end cut at 200": lambda q, d, i: prompt(q, d, i)[:200],
    "left cut at 128": lambda q, d, i: prompt(q, d, i)[-128:],
    "document cut": lambda q, d, i: prompt(q, first(d, 64), i),
    "template twice": lambda q, d, i: prompt(
        f"{get_recipe('card').prefix}<Instruct>: {i}\n<Query>: {q}\n<Document>:",
        f" {d}{get_recipe('card').suffix}",
        i,
    ),
    "without query": lambda _, d, i: prompt("", d, i),
    "without document": lambda q, _, i: prompt(q, "", i),
    "left cut without instruction": lambda q, d, _: prompt(q, d, None)[-128:],
    "mteb without instruction": lambda q, d, _: prompt(q, d, None, "qwen_eval"),
}


class Written:
    """The demo's weights with another prompt, and perhaps a change of its scores."""

    revision = "1"

    def __init__(self, form: str, change: str = "none") -> None:
        self.form, self.change = FORMS[form], CHANGES[change]

    def score(self, query: str, documents: list[str], instruction: str | None) -> np.ndarray:
        asked = instruction or get_recipe("card").default_instruction
        return self.change(margins([self.form(query, one, asked) for one in documents]))


class Best:
    """A listwise reranker."""

    revision = "1"

    def rank(self, query: str, documents: list[str]) -> list[int]:
        return list(range(len(documents)))
