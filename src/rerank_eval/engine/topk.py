"""Exact search by inner product, tile by tile: the score matrix never exists.

A score is the same to the last bit whatever is read or held at a time. A matrix product's rounding depends on the shape
it is called with (measured on two cores, 1,024 dimensions: 1 x 1,000 against one large product differs by 7e-8, and
accumulating in float64 and rounding does not cure it), so every product here has one shape: `QUERY_TILE` queries by
`CORPUS_TILE` documents at fixed places, the last ones padded with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

QUERY_TILE = 64
CORPUS_TILE = 4096
"""Queries by documents of one product: 1 MiB of scores, and 16 MiB of documents at 1,024 dimensions."""

_DENSE = 4
"""A tile of which more than one column in so many enters some query's best is merged whole."""


class Vectors(Protocol):
    """Rows that are read a slice at a time: an array, a memory map, or a file that maps only what is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dim)."""

    def __getitem__(self, rows: slice, /) -> Any:
        """Return rows as a float32 array of shape (n, dim)."""


@dataclass(frozen=True)
class Best:
    """The best documents so far, best first; equal scores stand in corpus order.

    Attributes:
        scores: (queries, kept) float32. NaN stands before everything, so that it is seen.
        rows: (queries, kept) int64, rows of the corpus.
    """

    scores: torch.Tensor
    rows: torch.Tensor

    @classmethod
    def empty(cls, queries: int, device: torch.device | str = "cpu") -> Best:
        """Return the best of nothing for so many queries."""
        return cls(torch.zeros((queries, 0), device=device), torch.zeros((queries, 0), dtype=torch.long, device=device))

    @classmethod
    def joined(cls, parts: Sequence[Best]) -> Best:
        """Put the queries of several parts one behind the other."""
        return cls(torch.cat([part.scores for part in parts]), torch.cat([part.rows for part in parts]))

    def part(self, part: slice) -> Best:
        """Return some of the queries."""
        return Best(self.scores[part], self.rows[part])

    def merged(self, scores: torch.Tensor, start: int, depth: int) -> Best:
        """Add documents from row `start` on, which stand behind all seen so far: scores (queries, n) float32."""
        rows = torch.arange(start, start + scores.shape[1], device=scores.device).expand(len(scores), -1)
        if self.scores.shape[1] >= depth > 0:
            # On equal scores the earlier row stays, so only what is larger than the last one kept can enter.
            enters = ~(scores <= self.scores[:, -1:])
            counts = enters.sum(dim=1)
            width = int(counts.max()) if len(counts) else 0
            if width == 0:
                return self
            if width * _DENSE < scores.shape[1]:
                scores, rows = _compacted(scores, rows, enters, width)
        return self.followed_by(Best(scores, rows), depth)

    def followed_by(self, later: Best, depth: int) -> Best:
        """Merge with the best of documents that stand behind all seen so far."""
        scores, rows = torch.cat([self.scores, later.scores], dim=1), torch.cat([self.rows, later.rows], dim=1)
        # A stable sort, not topk: equal scores then keep corpus order.
        order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :depth]
        return Best(scores.gather(1, order), rows.gather(1, order))


def _compacted(
    scores: torch.Tensor, rows: torch.Tensor, enters: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move the chosen columns of each query to the front, in order; the rest is minus infinity and never enters."""
    query, column = enters.nonzero(as_tuple=True)
    counts = enters.sum(dim=1)
    slot = torch.arange(len(query), device=scores.device) - (counts.cumsum(dim=0) - counts)[query]
    few = torch.full((len(scores), width), -torch.inf, device=scores.device)
    few[query, slot] = scores[query, column]
    few_rows = torch.zeros((len(scores), width), dtype=torch.long, device=scores.device)
    few_rows[query, slot] = rows[query, column]
    return few, few_rows


def top_k(
    queries: NDArray[np.float32],
    corpus: Vectors,
    depth: int,
    *,
    device: torch.device | str = "cpu",
    corpus_chunk: int = CORPUS_TILE,
    advance: Callable[[int], None] | None = None,
) -> Best:
    """Find each query's best documents by inner product.

    Args:
        queries: (q, dim) float32.
        corpus: (n, dim) float32; read a chunk at a time.
        depth: Documents kept for each query, at least 1.
        device: Where the products are computed.
        corpus_chunk: Rows read at a time, rounded up to whole tiles; changes no bit of the result.
        advance: Told how many rows of the corpus are done since the last call.

    Returns:
        (q, min(depth, n)) scores and rows, on the CPU.
    """
    tiles = _query_tiles(queries, device)
    best = [Best.empty(size, device) for _, size in tiles]
    with _full_float32():
        for start, chunk in _chunks(corpus, corpus_chunk):
            for offset in range(0, len(chunk), CORPUS_TILE):
                rows = chunk[offset : offset + CORPUS_TILE]
                documents = _padded(rows, CORPUS_TILE, device)
                for number, (tile, size) in enumerate(tiles):
                    scores = (tile @ documents.T)[:size, : len(rows)]
                    best[number] = best[number].merged(scores, start + offset, depth)
            if advance is not None:
                advance(len(chunk))
    # Without a query there is no tile, and without a tile no width.
    none = torch.zeros((0, min(depth, corpus.shape[0])))
    whole = Best.joined(best) if best else Best(none, none.long())
    return Best(whole.scores.cpu(), whole.rows.cpu())


def scores_of(
    queries: NDArray[np.float32],
    corpus: Vectors,
    wanted: Sequence[NDArray[np.int64]],
    *,
    device: torch.device | str = "cpu",
) -> list[NDArray[np.float32]]:
    """Score each query's own list of documents, `wanted` by rows, with the bits that `top_k` would give them.

    `queries` is (q, dim) and `corpus` (n, dim), float32. Returns for each query its rows' inner products, in the order
    given.
    """
    tiles = _query_tiles(queries, device)
    found = [np.zeros(len(rows), dtype=np.float32) for rows in wanted]
    with _full_float32():
        for start, rows in _chunks(corpus, CORPUS_TILE):
            documents = None
            for number, (tile, size) in enumerate(tiles):
                first = number * QUERY_TILE
                inside = [(asked >= start) & (asked < start + len(rows)) for asked in wanted[first : first + size]]
                if not any(mask.any() for mask in inside):
                    continue
                if documents is None:
                    documents = _padded(rows, CORPUS_TILE, device)
                scores = (tile @ documents.T).cpu().numpy()
                for line, mask in enumerate(inside):
                    found[first + line][mask] = scores[line, wanted[first + line][mask] - start]
    return found


def _chunks(corpus: Vectors, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield first row and rows of each chunk; chunks begin at multiples of the tile."""
    step = -(-max(size, 1) // CORPUS_TILE) * CORPUS_TILE
    total = corpus.shape[0]
    for start in range(0, total, step):
        yield start, np.asarray(corpus[start : min(start + step, total)], dtype=np.float32)


def _query_tiles(queries: NDArray[np.float32], device: torch.device | str) -> list[tuple[torch.Tensor, int]]:
    """Cut queries into padded tiles, each with the number of queries in it."""
    parts = [queries[start : start + QUERY_TILE] for start in range(0, len(queries), QUERY_TILE)]
    return [(_padded(part, QUERY_TILE, device), len(part)) for part in parts]


def _padded(rows: NDArray[np.float32], size: int, device: torch.device | str) -> torch.Tensor:
    """Copy rows to the device, with rows of zeros up to `size`."""
    whole = np.zeros((size, rows.shape[1]), dtype=np.float32)
    whole[: len(rows)] = rows
    return torch.from_numpy(whole).to(device)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Keep tensor cores from rounding float32 factors to ten bits (TF32) for as long as the block runs."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
