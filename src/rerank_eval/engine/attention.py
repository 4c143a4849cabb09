"""Attention over a packed row: one shared prefix, then the documents' own tokens, without padding.

The row is `[prefix][own 0][own 1]...`. The prefix is causal over itself; each document sees the whole prefix and,
causally, itself. Linear layers, norms and rotary embedding of a stock Hugging Face model run on the row as it is; only
attention must know the segments, and it gets them here through `AttentionInterface`. The mask function is registered
as well, because transformers' own mask code reads `position_ids` that restart in the row as separate sequences and cuts
the documents off from their prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

ATTENTION_NAME = "rerank_eval_packed"
"""Key in transformers' attention and mask interfaces."""

SQUARE_FROM_TOKENS = 1024
"""Own tokens from which a document's attention on the CPU runs as one causal square, see `_attend_on_cpu`."""

SQUARE_FROM_RATIO = 2
"""Own tokens per prefix token from which it does."""


@dataclass(frozen=True)
class PackLayout:
    """Where the segments of a packed row lie.

    Attributes:
        prefix: Tokens of the shared prefix; may be 0.
        lengths: Own tokens of each document, each at least 1.
    """

    prefix: int
    lengths: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Length of the row."""
        return self.prefix + sum(self.lengths)

    @property
    def last_positions(self) -> list[int]:
        """For each document the row index of its last token."""
        return [self.prefix + end - 1 for end in accumulate(self.lengths)]

    @property
    def position_ids(self) -> list[int]:
        """For each token of the row its position in its own prompt."""
        positions = list(range(self.prefix))
        for length in self.lengths:
            positions.extend(range(self.prefix, self.prefix + length))
        return positions

    def segments(self) -> Iterator[tuple[int, int]]:
        """Yield each document's first and one-past-last row index."""
        start = self.prefix
        for length in self.lengths:
            yield start, start + length
            start += length

    @cached_property
    def _masks(self) -> dict[torch.dtype, torch.Tensor]:
        return {}

    def cpu_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Additive mask whose upper left (n, prefix + n) part is causal, aligned bottom-right, for every n it covers.

        It is made once for all layers and covers the longest document that does not run as a square.

        Args:
            dtype: The queries' dtype.

        Returns:
            (n_max, prefix + n_max), 0 where a key is seen, minus infinity elsewhere.
        """
        if dtype not in self._masks:
            longest = max((length for length in self.lengths if not runs_as_square(self.prefix, length)), default=0)
            full = torch.full((longest, self.prefix + longest), float("-inf"), dtype=dtype)
            self._masks[dtype] = full.triu_(self.prefix + 1)
        return self._masks[dtype]


def runs_as_square(prefix: int, own: int) -> bool:
    """Say whether a document's attention on the CPU runs as one causal square; depends on nothing but the pair."""
    return own >= SQUARE_FROM_TOKENS and own >= SQUARE_FROM_RATIO * prefix


def segment_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: PackLayout, scale: float
) -> torch.Tensor:
    """Attend within a packed row, segment by segment.

    Args:
        query: (1, heads, tokens, head_dim).
        key: (1, key_value_heads, tokens, head_dim); `key_value_heads` divides `heads`.
        value: As `key`.
        layout: The row's segments.
        scale: Factor on the scores before the softmax.

    Returns:
        (1, tokens, heads, head_dim), in the query's dtype: the layout that transformers expects back.
    """
    # The place to choose a kernel: one that takes all segments in a call would come before the loop.
    attend = _attend_on_cpu if query.device.type == "cpu" else _attend_bottom_right
    out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    prefix = layout.prefix
    prefix_query, prefix_key, prefix_value = query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix]
    if prefix:
        gqa = query.shape[1] != key.shape[1]
        whole = scaled_dot_product_attention(
            prefix_query, prefix_key, prefix_value, is_causal=True, scale=scale, enable_gqa=gqa
        )
        out[:, :prefix] = whole.transpose(1, 2)
    for start, end in layout.segments():
        keys = torch.cat([prefix_key, key[:, :, start:end]], dim=2)
        values = torch.cat([prefix_value, value[:, :, start:end]], dim=2)
        own = attend(prefix_query, query[:, :, start:end], keys, values, layout=layout, scale=scale)
        out[:, start:end] = own.transpose(1, 2)
    return out


def _attend_bottom_right(
    prefix_query: torch.Tensor,
    own_query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    layout: PackLayout,
    scale: float,
) -> torch.Tensor:
    """Attend from n own queries to prefix and own keys, causal and aligned bottom-right, as a GPU's kernels offer it.

    Same arguments as `_attend_on_cpu`, which is the one that needs the prefix's queries.
    """
    own = own_query.shape[2]
    bias = causal_lower_right(own, layout.prefix + own)
    gqa = own_query.shape[1] != keys.shape[1]
    return scaled_dot_product_attention(own_query, keys, values, attn_mask=bias, scale=scale, enable_gqa=gqa)


def _attend_on_cpu(
    prefix_query: torch.Tensor,
    own_query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    layout: PackLayout,
    scale: float,
) -> torch.Tensor:
    """Attend from n own queries to prefix and own keys, causal and aligned bottom-right.

    The CPU kernel's own causal mode is aligned top-left, so it takes a mask, and with a mask it skips no block of keys.
    For a long document it is cheaper to let the prefix's queries run along, so that the square is causal without a
    mask, and to drop their rows. Measured on two cores, prefix 110: a hundred documents of 190 own tokens 41 ms by
    mask, 56 ms as squares; three of 4,000 own tokens 324 ms by mask, 127 ms as squares.

    Args:
        prefix_query: (1, heads, prefix, head_dim).
        own_query: (1, heads, n, head_dim).
        keys: (1, key_value_heads, prefix + n, head_dim).
        values: As `keys`.
        layout: The row's segments, which keep the mask.
        scale: Factor on the scores before the softmax.

    Returns:
        (1, heads, n, head_dim).
    """
    prefix, own = layout.prefix, own_query.shape[2]
    gqa = own_query.shape[1] != keys.shape[1]
    if runs_as_square(prefix, own):
        queries = torch.cat([prefix_query, own_query], dim=2)
        square = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale, enable_gqa=gqa)
        return square[:, :, prefix:]
    mask = layout.cpu_mask(own_query.dtype)[:own, : prefix + own]
    return scaled_dot_product_attention(own_query, keys, values, attn_mask=mask, scale=scale, enable_gqa=gqa)


def packed_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    pack_layout: PackLayout,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function in transformers' calling convention.

    Args:
        module: The attention layer; unused.
        query: (1, heads, tokens, head_dim).
        key: (1, key_value_heads, tokens, head_dim).
        value: As `key`.
        attention_mask: Always None, see `no_mask`.
        pack_layout: The row's segments, handed through the model's keyword arguments.
        scaling: Factor on the scores; 1 / sqrt(head_dim) when None.

    Returns:
        (1, tokens, heads, head_dim) and None for the weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return segment_attention(query, key, value, pack_layout, scale), None


def no_mask(*_: Any, **__: Any) -> None:
    """Mask function in transformers' calling convention: the segments are in the layout, so there is no mask."""


def register() -> str:
    """Register attention and mask function with transformers; doing it again changes nothing.

    Returns:
        The name to load a model with, as `attn_implementation`.
    """
    AttentionInterface.register(ATTENTION_NAME, packed_attention_forward)
    AttentionMaskInterface.register(ATTENTION_NAME, no_mask)
    return ATTENTION_NAME
