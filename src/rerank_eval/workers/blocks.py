"""Which items go to a worker together: blocks of about as many tokens, smaller towards the end of a stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

SMALLEST = 1 / 16
"""Share of the largest block below which blocks are not made smaller: each costs the driver the same."""

BYTES_PER_TOKEN = 4
"""UTF-8 bytes of a token, roughly; it sizes blocks and nothing else. Qwen's vocabulary gives English prose 4.3, and a
passage each of Chinese 5.7, of Japanese 3.6, of Russian 7.1."""


@dataclass
class Block:
    """Items that one worker answers together.

    Attributes:
        start: Place of the first item in the stream.
        items: The items, in the stream's order.
        weight: Tokens, estimated.
        failures: Times that a worker was lost with it, one after the other.
        reference: Where its items lie in Ray's object store, once they were put there.
    """

    start: int
    items: Sequence[Any]
    weight: float
    failures: int = 0
    reference: Any = field(default=None, repr=False)

    def halves(self) -> list[Block]:
        """Cut it in two; the weight is shared out by the number of items."""
        middle = len(self.items) // 2
        parts = [(self.start, self.items[:middle]), (self.start + middle, self.items[middle:])]
        return [
            Block(start, items, self.weight * len(items) / len(self.items), max(self.failures - 1, 0))
            for start, items in parts
        ]


class Cutter:
    """Reads a stream ahead and cuts it into blocks.

    Blocks begin small and double with each round of workers, so that the first worker need not wait until a block for
    each of the others has been read; then they have the largest size. Once the stream's end is in sight each takes a
    share of what is left (guided self-scheduling, Polychronopoulos and Kuck 1987), so that workers end at about the
    same time and a short stream is shared by all. Where blocks are cut depends on the stream and the number of workers
    alone.

    Args:
        items: The stream.
        weigh: Estimates an item's tokens.
        largest: Tokens of a block; an item that has more is a block alone.
        workers: How many there are.
    """

    def __init__(self, items: Iterable[Any], weigh: Callable[[Any], float], largest: float, workers: int) -> None:
        self._items: Iterator[Any] = iter(items)
        self._weigh = weigh
        self._largest = largest
        self._shares = 2 * workers
        self._ahead: deque[tuple[Any, float]] = deque()
        self._weight = 0.0
        self._taken = 0
        self._cut = 0
        self._ended = False

    def take(self) -> Block | None:
        """Return the next block, or None at the end."""
        rounds = self._cut // self._shares
        target = self._largest * min(1.0, SMALLEST * 2.0 ** min(rounds, 1 / SMALLEST))
        while not self._ended and self._weight < self._shares * target:
            self._read()
        if not self._ahead:
            return None
        if self._ended:
            target = min(self._largest, max(self._weight / self._shares, SMALLEST * self._largest))
        items: list[Any] = []
        weight = 0.0
        while self._ahead and (not items or weight + self._ahead[0][1] <= target):
            item, tokens = self._ahead.popleft()
            items.append(item)
            weight += tokens
        self._weight -= weight
        block = Block(self._taken, items, weight)
        self._taken += len(items)
        self._cut += 1
        return block

    def _read(self) -> None:
        try:
            item = next(self._items)
        except StopIteration:
            self._ended = True
            return
        weight = self._weigh(item)
        self._ahead.append((item, weight))
        self._weight += weight


def tokens_of(text: str, longest: float = float("inf")) -> float:
    """Estimate a text's tokens without a tokenizer, up to the `longest` that it is cut to anyway."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return min(size / BYTES_PER_TOKEN, longest)
