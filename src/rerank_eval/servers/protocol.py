"""What a protocol of a reranking server says: one file each in `apis/`, or an object that a package declares.

A package declares its own in pyproject.toml; `reranker.api` names it:

    [project.entry-points."rerank_eval.servers"]
    acme = "my_package.acme:ACME"
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rerank_eval.engine.errors import EngineError

OTHER_MODEL = 0.1
"""Difference of known pairs' scores, as a share of their range, from which on another model has made them."""
SHOWN = 200
"""Characters of a server's answer that an error shows."""


@dataclass(frozen=True)
class Asked:
    """What a server is asked: to score documents for a query.

    Attributes:
        model: The name under which it has the model.
        query: The query; the first part of the prompts where they are rendered here.
        documents: The documents; the rest of each prompt where they are rendered here.
        instruction: For the server's own template; None leaves it to the template.
        raw: Whether to leave the last activation out, so that scores are log-odds.
    """

    model: str
    query: str
    documents: Sequence[str]
    instruction: str | None = None
    raw: bool = True


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Attributes:
        scores: A number for each document, in the order in which they were sent.
        tokens: Prompt tokens of all pairs together, or None where it does not say.
    """

    scores: list[float]
    tokens: int | None = None


class Api(Protocol):
    """A protocol of reranking servers."""

    @property
    def software(self) -> str:
        """What such a server calls itself when it is asked, see `asking.Facts`; empty for a hosted service."""

    @property
    def host(self) -> str:
        """The domain of a hosted service; empty for software that anybody runs."""

    @property
    def instructed(self) -> bool:
        """Whether a request has a place for an instruction, which the server's template reads."""

    @property
    def raw(self) -> bool:
        """Whether a request can leave the last activation out."""

    @property
    def whole(self) -> bool:
        """Whether prompts are rendered here: the server joins query and document as they stand."""

    def request(self, asked: Asked) -> tuple[str, dict[str, Any]]:
        """Return the path and the JSON body of a request."""
        ...

    def answer(self, body: Any, count: int) -> Answer:
        """Read what came back.

        Args:
            body: The response's JSON.
            count: Documents that were sent.

        Raises:
            EngineError: It is not what the protocol says, or lacks a document.
        """
        ...


def moved(before: Sequence[float], now: Sequence[float]) -> float:
    """Return by how much known pairs' scores have moved at most, as a share of their range before."""
    off = max(abs(old - new) for old, new in zip(before, now, strict=True))
    return off / (max(before) - min(before) or 1.0)


def by_index(rows: Any, key: str, count: int) -> list[float]:
    """Put scores back into the order in which documents were sent; servers sort them.

    Args:
        rows: A list of objects with `index` and a score.
        key: What the score is called.
        count: Documents that were sent.

    Raises:
        EngineError: An index is missing, named twice or none, or a score is no finite number.
    """
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise EngineError(f"the server returned no list of scores but {str(rows)[:SHOWN]!r}")
    if len(rows) != count:
        raise EngineError(f"the server returned {len(rows)} scores for {count} documents")
    scores: dict[int, float] = {}
    for row in rows:
        place, score = row.get("index"), row.get(key)
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < count or place in scores:
            raise EngineError(f"the server returned index {str(place)[:40]!r} for {count} documents")
        scores[place] = number(score)
    return [scores[place] for place in range(count)]


def number(score: Any) -> float:
    """Return a score, which has to be a finite number.

    Raises:
        EngineError: It is not.
    """
    try:
        value = math.nan if isinstance(score, bool) or not isinstance(score, (int, float)) else float(score)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise EngineError(f"the server returned {str(score)[:40]!r} for a score")
    return value


def field(body: Any, name: str) -> Any:
    """Return a field of a response.

    Raises:
        EngineError: The response is no object, or has no such field.
    """
    if not isinstance(body, Mapping) or name not in body:
        raise EngineError(f"the server's answer has no {name!r}: {str(body)[:SHOWN]!r}")
    return body[name]


def counted_tokens(body: Any) -> int | None:
    """Return the prompt tokens that a response's `usage` counts, or None."""
    usage = body.get("usage") if isinstance(body, Mapping) else None
    found = usage.get("prompt_tokens", usage.get("total_tokens")) if isinstance(usage, Mapping) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None
