"""What becomes of texts before a server gets them: counted with its model's own tokenizer, cut where it would not do.

A server refuses a prompt that is too long, or cuts it in silence, its end with the answer's position included. Here the
document's text is cut instead, so that the whole prompt fits: to within a token or two what the recipe's own code does,
which cuts token ids, since a text cannot end within a character.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from rerank_eval.engine.interface import BoolArray, IntArray, QueryGroup
from rerank_eval.engine.pairs import PairTokenizer
from rerank_eval.engine.prompts import PromptTokenizer, encodable
from rerank_eval.engine.recipe import Recipe
from rerank_eval.engine.special_tokens import SpecialTokens

_UNBOUNDED = 2**40


@dataclass(frozen=True)
class Fitted:
    """A group as a server gets it.

    Attributes:
        group: Its texts, cut where they had to be.
        tokens: (n,) int64, tokens of each prompt; zeros where they are not known.
        truncated: (n,) bool, whether a prompt loses tokens, here or at the server.
        overlong: Whether the query alone fills the prompt, so that no document is read.
    """

    group: QueryGroup
    tokens: IntArray
    truncated: BoolArray
    overlong: bool = False


class Fitter(Protocol):
    """Counts and cuts."""

    @property
    def special_tokens(self) -> SpecialTokens | None:
        """Finds special tokens in texts; None where the tokenizer is not known."""

    def fit(self, group: QueryGroup) -> Fitted:
        """Count a group's prompts, and cut what would not fit."""
        ...


class Uncounted:
    """Knows nothing of the served model: texts go as they are."""

    special_tokens = None

    def fit(self, group: QueryGroup) -> Fitted:
        """See `Fitter.fit`."""
        count = len(group.documents)
        return Fitted(group, np.zeros(count, np.int64), np.zeros(count, np.bool_))


class PairFitter:
    """Counts the pairs of a sequence classifier, which most servers cut themselves as its tokenizer does.

    Args:
        tokenizer: The served model's.
        max_length: Its longest pair in tokens.
        refused: Whether the server refuses longer pairs, as vLLM does: their documents are then cut here.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, *, refused: bool = False) -> None:
        self._pairs = PairTokenizer(tokenizer, max_length)
        self._whole = PairTokenizer(tokenizer, _UNBOUNDED)
        self.special_tokens = self._pairs.special_tokens
        self._tokenizer, self._max_length, self._refused = tokenizer, max_length, refused

    def fit(self, group: QueryGroup) -> Fitted:
        """See `Fitter.fit`."""
        found = self._pairs.pairs(group)
        if self._refused and found.truncated.any():
            documents = list(group.documents)
            for place in np.flatnonzero(found.truncated).tolist():
                excess = self._over(group, documents[place])
                documents[place] = shortened(
                    self._tokenizer, documents[place], excess, lambda text: self._over(group, text)
                )
            group = replace(group, documents=documents)
            return Fitted(group, self._whole.pairs(group).lengths, found.truncated, found.query_cut)
        return Fitted(group, found.lengths, found.truncated, found.query_cut)

    def _over(self, group: QueryGroup, document: str) -> int:
        return int(self._whole.pairs(replace(group, documents=[document])).lengths[0]) - self._max_length


class PromptFitter:
    """Counts the prompts of a causal reranker, and cuts documents that would make them too long.

    Args:
        tokenizer: The served model's.
        recipe: How its prompts are written, here or by the server's template.
        max_length: The longest prompt in tokens.
        default: The instruction that the server's template writes where none is sent.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, max_length: int, default: str | None = None
    ) -> None:
        self._default = default
        self._prompts = PromptTokenizer(tokenizer, recipe, _UNBOUNDED)
        self.special_tokens = self._prompts.special_tokens
        self._tokenizer, self._max_length = tokenizer, max_length

    def fit(self, group: QueryGroup) -> Fitted:
        """See `Fitter.fit`."""
        tokens = self._count(group)
        long = tokens > self._max_length
        if not long.any():
            return Fitted(group, tokens, long)
        bare = int(self._count(replace(group, documents=[""]))[0])
        if bare >= self._max_length:
            query = self._cut(
                group.query, bare - self._max_length, lambda text: replace(group, query=text, documents=[""])
            )
            cut = replace(group, query=query, documents=[""] * len(group.documents))
            return Fitted(cut, self._count(cut), np.ones(len(tokens), np.bool_), overlong=True)
        documents = list(group.documents)
        for place in np.flatnonzero(long).tolist():
            excess = int(tokens[place]) - self._max_length
            documents[place] = self._cut(documents[place], excess, lambda text: replace(group, documents=[text]))
        cut = replace(group, documents=documents)
        return Fitted(cut, self._count(cut), long)

    def _count(self, group: QueryGroup) -> IntArray:
        if group.instruction is None:
            group = replace(group, instruction=self._default)
        return self._prompts.factored(group).lengths

    def _cut(self, text: str, excess: int, group: Callable[[str], QueryGroup]) -> str:
        def over(shorter: str) -> int:
            return int(self._count(group(shorter))[0]) - self._max_length

        return shortened(self._tokenizer, text, excess, over)


def shortened(tokenizer: PreTrainedTokenizerBase, text: str, excess: int, over: Callable[[str], int]) -> str:
    """Shorten a text from its end, at the borders of its tokens.

    Args:
        tokenizer: A fast tokenizer.
        text: The text.
        excess: Tokens that are too many with the whole text.
        over: Says the same of a shorter one.

    Returns:
        The first characters of the text with which nothing is too much; empty if even that is.
    """
    text = encodable(text)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    kept, shorter = len(offsets), text
    while excess > 0 and kept > 0:
        kept = max(0, kept - excess)
        shorter = text[: offsets[kept - 1][1]] if kept else ""
        excess = over(shorter)
    return shorter
