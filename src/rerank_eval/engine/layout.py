"""Where the segments of a packed row lie.

A prompt is a chain: root (system turn and instruction), query, document with the recipe's suffix. What prompts have in
common stands once in a row `[roots][queries][documents][filler]`, and every segment sees its ancestors and itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch

from rerank_eval.engine.interface import IntArray

SMALLEST_PRODUCT = 32
"""Rows that the last layer keeps at least: below some eight rows a CPU's matrix product takes another path, and a row
of it then depends on how many there are."""

FEWEST_QUERIES = 4
"""Queries that a call of attention has at least. With fewer the CPU kernel's sums depend on the number of threads and
on where its operands lie in memory (measured with MKL, head_dim 32 to 128, 100 to 400 keys); with four and more they do
not."""

SQUARE_FROM_TOKENS = 1024
"""Own tokens from which a segment's attention on the CPU runs as one causal square, see `attention`."""

SQUARE_FROM_RATIO = 2
"""Own tokens per token of its ancestors from which it does."""


def runs_as_square(prefix: int, own: int) -> bool:
    """Say whether a segment's attention on the CPU runs as one causal square; depends on nothing but the prompt."""
    return own < FEWEST_QUERIES or (own >= SQUARE_FROM_TOKENS and own >= SQUARE_FROM_RATIO * prefix)


@dataclass(frozen=True)
class GroupLayout:
    """A query's documents in one row.

    Attributes:
        prefix: Tokens that the documents share and that no root holds; may be 0.
        lengths: Own tokens of each document, each at least 1.
        root: Index of the root before the prefix; None without one.
    """

    prefix: int
    lengths: tuple[int, ...]
    root: int | None = None


@dataclass(frozen=True)
class Segment:
    """Rows `start` to before `end`, and the ranges of rows that they see before themselves."""

    ancestors: tuple[tuple[int, int], ...]
    start: int
    end: int

    @property
    def prefix(self) -> int:
        """Tokens of the ancestors."""
        return sum(end - start for start, end in self.ancestors)

    @property
    def own(self) -> int:
        """Tokens of the segment itself."""
        return self.end - self.start


@dataclass(frozen=True)
class PackLayout:
    """The segments of a row.

    Attributes:
        groups: The groups, in the order of the row; those of a root stand together, in the roots' order.
        roots: Tokens of each root.
        filler: Rows at the end that belong to nobody; they bring a row to a length that kernels like.
    """

    groups: tuple[GroupLayout, ...]
    roots: tuple[int, ...] = ()
    filler: int = 0

    @classmethod
    def single(cls, prefix: int, lengths: Sequence[int]) -> PackLayout:
        """Lay out one group."""
        return cls((GroupLayout(prefix, tuple(lengths)),))

    @cached_property
    def root_rows(self) -> int:
        """Tokens of all roots."""
        return sum(self.roots)

    @cached_property
    def prefix_rows(self) -> int:
        """Tokens of all roots and prefixes: the row of the first document's first token."""
        return self.root_rows + sum(group.prefix for group in self.groups)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Own tokens of each document, in the order of the row."""
        return tuple(length for group in self.groups for length in group.lengths)

    @cached_property
    def useful(self) -> int:
        """Length of the row without its filler."""
        return self.prefix_rows + sum(self.lengths)

    @property
    def tokens(self) -> int:
        """Length of the row."""
        return self.useful + self.filler

    @cached_property
    def last_positions(self) -> list[int]:
        """For each document the row index of its last token."""
        return [self.prefix_rows + end - 1 for end in accumulate(self.lengths)]

    @cached_property
    def kept_rows(self) -> list[int]:
        """Rows that the last layer works on: `last_positions`, filled up with repetitions of the last."""
        last = self.last_positions
        return last + [last[-1]] * max(0, SMALLEST_PRODUCT - len(last))

    @cached_property
    def position_ids(self) -> IntArray:
        """(tokens,) int64, for each row its position in its own prompt."""
        segments = [*self.shared_segments(), *self.documents()]
        pieces = [np.arange(segment.prefix, segment.prefix + segment.own) for segment in segments]
        return np.concatenate([*pieces, np.arange(self.filler)]).astype(np.int64)

    def shared_segments(self) -> Iterator[Segment]:
        """Yield roots, then prefixes."""
        start = 0
        for length in self.roots:
            yield Segment((), start, start + length)
            start += length
        roots = self._root_ranges
        for group in self.groups:
            yield Segment(() if group.root is None else (roots[group.root],), start, start + group.prefix)
            start += group.prefix

    def documents(self) -> Iterator[Segment]:
        """Yield each document."""
        start = self.prefix_rows
        prefixes = list(self.shared_segments())[len(self.roots) :]
        for prefix, group in zip(prefixes, self.groups, strict=True):
            ancestors = (*prefix.ancestors, (prefix.start, prefix.end)) if prefix.own else prefix.ancestors
            for length in group.lengths:
                yield Segment(ancestors, start, start + length)
                start += length

    @cached_property
    def _root_ranges(self) -> list[tuple[int, int]]:
        return [(end - length, end) for length, end in zip(self.roots, accumulate(self.roots), strict=True)]

    @cached_property
    def _longest_masked(self) -> int:
        segments = [*self.shared_segments(), *self.documents()]
        return max((s.own for s in segments if s.prefix and not runs_as_square(s.prefix, s.own)), default=0)

    @cached_property
    def _masks(self) -> dict[tuple[torch.dtype, int], torch.Tensor]:
        return {}

    def causal_mask(self, dtype: torch.dtype, segment: Segment) -> torch.Tensor:
        """Additive mask, causal and aligned bottom-right; one serves all segments of equal prefix in all layers.

        The segment must not run as a square. Returns (own, prefix + own), 0 where a key is seen, minus infinity
        elsewhere.
        """
        prefix, rows = segment.prefix, self._longest_masked
        if (dtype, prefix) not in self._masks:
            full = torch.full((rows, prefix + rows), float("-inf"), dtype=dtype)
            self._masks[dtype, prefix] = full.triu_(prefix + 1)
        return self._masks[dtype, prefix][: segment.own, : prefix + segment.own]
