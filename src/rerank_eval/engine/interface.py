"""What goes into an engine and what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

ARITHMETIC: int = 1
"""Raised by whoever changes what the engine or a built-in recipe makes of the same texts: it is part of identities, so
that scores and embeddings of before are not served for what would now come out."""


def arithmetic() -> dict[str, int]:
    """Return the engine's arithmetic as it stands in identities: from its second one on."""
    return {} if ARITHMETIC == 1 else {"arithmetic": ARITHMETIC}


@dataclass(frozen=True)
class QueryGroup:
    """One query and the documents to score for it; instruction None leaves the instruction's line out of the prompt."""

    query: str
    instruction: str | None
    documents: Sequence[str]


class Column(NamedTuple):
    """A column of `Scores`: its name and type in memory, and in the score cache's files, where they never change."""

    field: str
    dtype: type[np.generic]
    name: str
    stored: str


COLUMNS = (
    Column("scores", np.float64, "score", "float64"),
    Column("margins", np.float64, "margin", "float64"),
    Column("truncated", np.bool_, "truncated", "bool"),
    Column("overlong", np.bool_, "overlong", "bool"),
    Column("tokens", np.int64, "tokens", "int32"),
)
"""The columns of `Scores`, in the order of the score cache's files."""


@dataclass(frozen=True)
class Scores:
    """The scores of a query's documents, from the engine to the score cache and the results.

    Every array is (n,), in the order of the documents. A new column is a field here and a row of `COLUMNS`, and is
    filled in by `BaseEngine`.

    Attributes:
        scores: float64, what ranks, higher is better: the margin for the `float32` head, P(yes) for `recipe_softmax`,
            the logit of a sequence classifier.
        margins: float64, log-odds of relevance: logit(yes) - logit(no) in float32, or a classifier's logit.
        truncated: bool, whether the prompt lost tokens to `max_length`.
        overlong: bool, whether the query alone reached `max_length`, so that no document was read.
        tokens: int64, tokens of the prompt as sent.
    """

    scores: FloatArray
    margins: FloatArray
    truncated: BoolArray
    overlong: BoolArray
    tokens: IntArray

    @classmethod
    def empty(cls, count: int = 0) -> Scores:
        """Return zeros for `count` documents."""
        return cls(**{column.field: np.zeros(count, column.dtype) for column in COLUMNS})

    @classmethod
    def concat(cls, parts: Sequence[Scores]) -> Scores:
        """Join parts, one behind the other."""
        if not parts:
            return cls.empty()
        return cls(**{one.field: np.concatenate([getattr(part, one.field) for part in parts]) for one in COLUMNS})

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.scores)

    @property
    def query_overlong(self) -> bool:
        """Whether the query alone filled every prompt."""
        return len(self) > 0 and bool(self.overlong.all())

    def take(self, rows: Any) -> Scores:
        """Return a copy of some documents' rows, chosen by numbers or by a mask."""
        return Scores(**{one.field: getattr(self, one.field)[rows].copy() for one in COLUMNS})

    def put(self, rows: Any, other: Scores) -> None:
        """Overwrite some documents' rows, chosen by numbers or by a mask."""
        for one in COLUMNS:
            getattr(self, one.field)[rows] = getattr(other, one.field)


@dataclass(frozen=True)
class RenderedPrompt:
    """One pair's prompt: its text before any truncation, the ids exactly as sent, and whether ids are missing."""

    text: str
    token_ids: tuple[int, ...]
    truncated: bool


@dataclass(frozen=True)
class Stats:
    """A running sum of several figures: two readings add and subtract field by field."""

    def __add__(self, other: Self) -> Self:
        """Add field by field."""
        return type(self)(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, other: Self) -> Self:
        """Subtract field by field: what was done between two readings."""
        return type(self)(**{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True)
class EngineStats(Stats):
    """What an engine has done.

    Attributes:
        prompt_tokens: Sum of the full prompts' lengths: what a plain engine without padding would run.
        computed_tokens: Tokens that went through the model's layers, padding among them.
        truncated_pairs: Pairs whose prompt lost tokens to `max_length`.
        overlong_queries: Groups whose query alone reached `max_length`, so that no document was read.
        seconds: Wall time of scoring, tokenising among it.
        windows: Lists that a listwise reranker was given to rank.
        repaired_windows: Those whose answer was no permutation.
        retries: Requests that a server was sent again.
        served_tokens: Prompt tokens as a server counts them.
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
    windows: int = 0
    repaired_windows: int = 0
    retries: int = 0
    served_tokens: int = 0


class SpecialTokenFinder(Protocol):
    """Finds special tokens in texts."""

    def found(self, text: str) -> tuple[str, ...]:
        """Return the distinct special tokens in a text; empty for most."""
        ...


def reads_lists(engine: Engine) -> bool:
    """Tell whether a document's score depends on the whole group and its order: an attribute `listwise` says so.

    Such a group is scored whole, and its scores serve no other list.
    """
    return bool(getattr(engine, "listwise", False))


def latencies_of(engine: Engine) -> Sequence[float]:
    """Return the seconds that each query took so far at an engine's server; nothing for an engine that computes."""
    found: Sequence[float] = getattr(engine, "latencies", ())
    return found


def unclaimed_of(engine: Engine) -> Sequence[tuple[QueryGroup, Scores]]:
    """Return what had come back out of turn when `score_groups` ended early.

    Returns:
        Groups, the very objects that were read, with their scores; nothing for an engine that computes one group after
        the other.
    """
    found: Sequence[tuple[QueryGroup, Scores]] = getattr(engine, "unclaimed", ())
    return found


class Engine(Protocol):
    """Scores query groups. An engine is used by one thread at a time."""

    @property
    def causal(self) -> bool:
        """Whether a causal language model answers yes or no to a prompt, or a sequence classifier reads the pair."""

    @property
    def stats(self) -> EngineStats:
        """What has been done since the engine was made."""

    @property
    def settings(self) -> Mapping[str, str | int]:
        """Effective settings: what can change a score (its identity) and what cannot (batch size, budget)."""

    @property
    def special_tokens(self) -> SpecialTokenFinder:
        """Finds in texts what the tokenizer reads as one of its added tokens."""

    def score(self, group: QueryGroup) -> Scores:
        """Score a group's documents, of which there may be none; the scores are in their order.

        Raises:
            EngineError: The model returned NaN or an infinity.
        """

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[Scores]:
        """Score a stream of groups; small groups then share a forward pass, and a GPU never waits for the next one.

        Groups are read ahead of the scores, which come out in order. Memory does not grow with their number.

        Raises:
            EngineError: The model returned NaN or an infinity.
        """
        ...

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """Render one pair's prompt, as `score` sends it."""
