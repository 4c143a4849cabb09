"""What goes into an engine and what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
MarginArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

ARITHMETIC: int = 1
"""Raised by whoever changes what the engine or a built-in recipe makes of the same texts: it is part of identities, so
that scores and embeddings of before are not served for what would now come out."""


@dataclass(frozen=True)
class QueryGroup:
    """One query and the documents to score for it.

    Attributes:
        query: The query's text.
        instruction: The instruction for this query; None leaves the instruction's line out of the prompt.
        documents: The documents' texts, in any order.
    """

    query: str
    instruction: str | None
    documents: Sequence[str]


@dataclass(frozen=True)
class Scores:
    """What an engine says of a group; every array is (n,), in the order of the group's documents.

    Attributes:
        score: float64, what ranks: the margin for the `float32` head, P(yes) for the `faithful` one.
        margin: float32, log-odds: logit(yes) - logit(no).
        p_yes: float64, probability of `yes` against `no`.
        truncated: bool, whether the pair's prompt lost tokens to `max_length`.
        prompt_lengths: int64, tokens of the prompt as sent.
        overlong: Whether the query alone reached `max_length`, so that no document was read.
    """

    score: FloatArray
    margin: MarginArray
    p_yes: FloatArray
    truncated: BoolArray
    prompt_lengths: IntArray
    overlong: bool = False


@dataclass(frozen=True)
class RenderedPrompt:
    """One pair's prompt.

    Attributes:
        text: The rendered prompt before any truncation, exactly as it enters the tokenizer.
        token_ids: The ids exactly as sent, truncated where the recipe truncates.
        truncated: Whether ids are missing.
    """

    text: str
    token_ids: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True)
class EngineStats:
    """What an engine has done; adding two gives the sum of each field.

    Attributes:
        pairs: Pairs scored.
        groups: Query groups scored.
        forwards: Forward passes of the model.
        prompt_tokens: Sum of the full prompts' lengths: what a plain engine without padding would run.
        computed_tokens: Tokens that went through the model's layers, padding among them.
        padding_tokens: Padding among them.
        truncated_pairs: Pairs whose prompt lost tokens to `max_length`.
        overlong_queries: Groups whose query alone reached `max_length`, so that no document was read.
        tokenize_seconds: Wall time of rendering and tokenising.
        seconds: Wall time of scoring, tokenising among it.
    """

    pairs: int = 0
    groups: int = 0
    forwards: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    padding_tokens: int = 0
    truncated_pairs: int = 0
    overlong_queries: int = 0
    tokenize_seconds: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: EngineStats) -> EngineStats:
        """Add field by field."""
        return EngineStats(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


class MarkerFinder(Protocol):
    """Finds markers in texts."""

    def found(self, text: str) -> tuple[str, ...]:
        """Return the distinct markers in a text; empty for most."""
        ...


class Engine(Protocol):
    """Scores query groups. An engine is used by one thread at a time."""

    @property
    def stats(self) -> EngineStats:
        """What has been done since the engine was made."""

    @property
    def settings(self) -> Mapping[str, str | int]:
        """Effective settings: what can change a score (its identity) and what cannot (batch size, budget)."""

    @property
    def markers(self) -> MarkerFinder:
        """Finds in texts what the tokenizer reads as one of its added tokens."""

    def score(self, group: QueryGroup) -> Scores:
        """Score a group's documents.

        Args:
            group: Query, instruction and n documents; n may be 0.

        Returns:
            The scores, in the documents' order.

        Raises:
            EngineError: The model returned NaN or an infinity.
        """

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[Scores]:
        """Score a stream of groups; small groups then share a forward pass, and a GPU never waits for the next one.

        Groups are read ahead of the scores that come out. Memory does not grow with their number.

        Args:
            groups: Groups, in any number.

        Yields:
            Each group's scores, in order.

        Raises:
            EngineError: The model returned NaN or an infinity.
        """
        ...

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """Render one pair's prompt, as `score` sends it.

        Args:
            query: The query's text.
            document: The document's text.
            instruction: The instruction, or None to leave its line out.

        Returns:
            Text and token ids.
        """
