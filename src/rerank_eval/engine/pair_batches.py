"""Which pairs go through a model together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from rerank_eval.engine.encoders import Pair

WINDOW = 16
"""Batches' worth of tokens that are gathered before they are sorted by length: enough that a batch's pairs are nearly
equally long (padding of mixed passages falls under 1%), few enough that scores come out steadily."""


class Batcher(Protocol):
    """Gathers pairs into batches.

    Attributes:
        token_budget: Most tokens in a batch, padding among them; a longer pair is a batch alone. May be lowered.
    """

    token_budget: int

    def add(self, pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
        """Take a group's pairs in, and yield the batches that are full now."""
        ...

    def flush(self) -> Iterator[list[Pair]]:
        """Yield what is left."""
        ...


class RowBatcher:
    """Fills rows with pairs as they come; there is no padding, so their lengths do not matter."""

    def __init__(self, token_budget: int) -> None:
        self.token_budget = token_budget
        self._open: list[Pair] = []
        self._filled = 0

    def add(self, pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
        """See `Batcher`."""
        for pair in pairs:
            if self._open and self._filled + len(pair.ids) > self.token_budget:
                yield from self.flush()
            self._open.append(pair)
            self._filled += len(pair.ids)

    def flush(self) -> Iterator[list[Pair]]:
        """See `Batcher`."""
        if self._open:
            full, self._open, self._filled = self._open, [], 0
            yield full


class SortedBatcher:
    """Gathers a window of queries, sorts its pairs by length and fills padded batches, the longest first."""

    def __init__(self, token_budget: int) -> None:
        self.token_budget = token_budget
        self._window: list[Pair] = []
        self._tokens = 0

    def add(self, pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
        """See `Batcher`."""
        self._window.extend(pairs)
        self._tokens += sum(len(pair.ids) for pair in pairs)
        if self._tokens >= WINDOW * self.token_budget:
            yield from self.flush()

    def flush(self) -> Iterator[list[Pair]]:
        """See `Batcher`."""
        window = sorted(self._window, key=lambda pair: (-len(pair.ids), pair.group, pair.index))
        self._window, self._tokens = [], 0
        batch: list[Pair] = []
        for pair in window:
            if batch and (len(batch) + 1) * len(batch[0].ids) > self.token_budget:
                yield batch
                batch = []
            batch.append(pair)
        if batch:
            yield batch


class GivenBatcher:
    """Takes each group's pairs in the given order, `size` at a time: the plain way, for comparison."""

    def __init__(self, size: int) -> None:
        self.token_budget = 0  # not read: memory is the user's to judge here, as in the reference engine
        self._size = size

    def add(self, pairs: Sequence[Pair]) -> Iterator[list[Pair]]:
        """See `Batcher`."""
        for start in range(0, len(pairs), self._size):
            yield list(pairs[start : start + self._size])

    def flush(self) -> Iterator[list[Pair]]:
        """See `Batcher`."""
        return iter(())
