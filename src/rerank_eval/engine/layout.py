"""Where the segments of a packed row lie: all shared prefixes first, then the documents' own tokens, group by group."""

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


@dataclass(frozen=True)
class GroupLayout:
    """A query's documents in one row.

    Attributes:
        prefix: Tokens of the shared prefix; may be 0.
        lengths: Own tokens of each document, each at least 1.
    """

    prefix: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Segment:
    """A document in a row: rows `prefix_start:prefix_end` are its prefix, rows `start:end` its own."""

    prefix_start: int
    prefix_end: int
    start: int
    end: int


@dataclass(frozen=True)
class PackLayout:
    """The segments of a row `[prefix 0][prefix 1]...[documents of 0][documents of 1]...[filler]`.

    Attributes:
        groups: The groups in the order of the row.
        filler: Rows at the end that belong to nobody; they bring a row to a length that kernels like.
    """

    groups: tuple[GroupLayout, ...]
    filler: int = 0

    @classmethod
    def single(cls, prefix: int, lengths: Sequence[int]) -> PackLayout:
        """Lay out one group."""
        return cls((GroupLayout(prefix, tuple(lengths)),))

    @cached_property
    def prefix_rows(self) -> int:
        """Tokens of all prefixes."""
        return sum(group.prefix for group in self.groups)

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
        pieces = [np.arange(group.prefix) for group in self.groups]
        pieces += [np.arange(g.prefix, g.prefix + length) for g in self.groups for length in g.lengths]
        return np.concatenate([*pieces, np.arange(self.filler)]).astype(np.int64)

    def prefixes(self) -> Iterator[tuple[int, int]]:
        """Yield each group's prefix's first and one-past-last row."""
        start = 0
        for group in self.groups:
            yield start, start + group.prefix
            start += group.prefix

    def segments(self) -> Iterator[Segment]:
        """Yield each document, in the order of the row."""
        start = self.prefix_rows
        for (first, end), group in zip(self.prefixes(), self.groups, strict=True):
            for length in group.lengths:
                yield Segment(first, end, start, start + length)
                start += length

    @cached_property
    def _masks(self) -> dict[tuple[torch.dtype, int], torch.Tensor]:
        return {}

    def causal_mask(self, dtype: torch.dtype, prefix: int, own: int, longest: int) -> torch.Tensor:
        """Additive mask, causal and aligned bottom-right.

        One mask, as long as the longest document that asks for it, serves all documents of equal prefix length in all
        layers.

        Args:
            dtype: The queries' dtype.
            prefix: Tokens of the prefix.
            own: Own tokens of the document.
            longest: Own tokens of the longest document that will ask.

        Returns:
            (own, prefix + own), 0 where a key is seen, minus infinity elsewhere.
        """
        key = (dtype, prefix)
        if key not in self._masks or self._masks[key].shape[0] < own:
            rows = max(own, longest)
            self._masks[key] = torch.full((rows, prefix + rows), float("-inf"), dtype=dtype).triu_(prefix + 1)
        return self._masks[key][:own, : prefix + own]
