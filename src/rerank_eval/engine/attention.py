"""Attention over a packed row: shared prefixes, then the documents' own tokens, without padding.

A prefix is causal over itself; each document sees its whole prefix and, causally, itself. Linear layers, norms and
rotary embedding of a stock Hugging Face model run on the row as it is; only attention must know the segments, and it
gets them here through `AttentionInterface`. The mask function is registered as well, because transformers' own mask
code reads `position_ids` that restart in the row as separate sequences and cuts the documents off from their prefix.

Two ways to compute the same: by segment with SDPA (`segment_attention`, any device and dtype), or all segments in two
variable-length calls (`varlen.merged_attention`, a GPU in half precision).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from rerank_eval.engine.layout import PackLayout, Segment
from rerank_eval.engine.varlen import VarlenRow, packed_attention

ATTENTION_NAME = "rerank_eval_packed"
"""Key in transformers' attention and mask interfaces."""

SQUARE_FROM_TOKENS = 1024
"""Own tokens from which a document's attention on the CPU runs as one causal square, see `_attend_on_cpu`."""

FEWEST_QUERIES = 4
"""Queries that a call has at least. With fewer the CPU kernel's sums depend on the number of threads and on where its
operands lie in memory (measured with MKL, head_dim 32 to 128, 100 to 400 keys); with four and more they do not."""

SQUARE_FROM_RATIO = 2
"""Own tokens per prefix token from which it does."""


def runs_as_square(prefix: int, own: int) -> bool:
    """Say whether a document's attention on the CPU runs as one causal square; depends on nothing but the pair."""
    return own >= SQUARE_FROM_TOKENS and own >= SQUARE_FROM_RATIO * prefix


def segment_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackLayout,
    scale: float,
    *,
    only_last: bool = False,
) -> torch.Tensor:
    """Attend within a packed row, segment by segment.

    Args:
        query: (1, heads, tokens, head_dim).
        key: (1, key_value_heads, tokens, head_dim); `key_value_heads` divides `heads`.
        value: As `key`.
        layout: The row's segments.
        scale: Factor on the scores before the softmax.
        only_last: Compute the documents' last tokens only; other rows are left undefined.

    Returns:
        (1, tokens, heads, head_dim), in the query's dtype: the layout that transformers expects back.
    """
    attend = _attend_on_cpu if query.device.type == "cpu" else _attend_bottom_right
    gqa = query.shape[1] != key.shape[1]
    out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    alone = [] if only_last else [*layout.prefixes(), (layout.useful, layout.tokens)]
    for start, end in alone:
        if start < end:
            rows = slice(start, end)
            whole = scaled_dot_product_attention(
                query[:, :, rows], key[:, :, rows], value[:, :, rows], is_causal=True, scale=scale, enable_gqa=gqa
            )
            out[:, rows] = whole.transpose(1, 2)
    for segment in layout.segments():
        keys, values = (_prefix_and_own(tensor, segment) for tensor in (key, value))
        if only_last:
            last = slice(segment.end - 1, segment.end)
            # The last query sees all keys, so nothing is masked.
            repeated = query[:, :, last].expand(-1, -1, FEWEST_QUERIES, -1)
            own = scaled_dot_product_attention(repeated, keys, values, scale=scale, enable_gqa=gqa)
            out[:, last] = own[:, :, :1].transpose(1, 2)
        else:
            own = attend(query, keys, values, segment=segment, layout=layout, scale=scale)
            out[:, segment.start : segment.end] = own.transpose(1, 2)
    return out


def _prefix_and_own(tensor: torch.Tensor, segment: Segment) -> torch.Tensor:
    """Return (1, key_value_heads, prefix + own, head_dim)."""
    own = tensor[:, :, segment.start : segment.end]
    if segment.prefix_start == segment.prefix_end:
        return own
    return torch.cat([tensor[:, :, segment.prefix_start : segment.prefix_end], own], dim=2)


def _attend_bottom_right(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    segment: Segment,
    layout: PackLayout,
    scale: float,
) -> torch.Tensor:
    """Attend from a document's queries to prefix and own keys, as a GPU's kernels offer it; see `_attend_on_cpu`."""
    own_query = query[:, :, segment.start : segment.end]
    bias = causal_lower_right(own_query.shape[2], keys.shape[2])
    gqa = own_query.shape[1] != keys.shape[1]
    return scaled_dot_product_attention(own_query, keys, values, attn_mask=bias, scale=scale, enable_gqa=gqa)


def _attend_on_cpu(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    segment: Segment,
    layout: PackLayout,
    scale: float,
) -> torch.Tensor:
    """Attend from a document's queries to prefix and own keys, causal and aligned bottom-right.

    The CPU kernel's own causal mode is aligned top-left, so it takes a mask, and with a mask it skips no block of keys.
    For a long document it is cheaper to let the prefix's queries run along, so that the square is causal without a
    mask, and to drop their rows. Measured on two cores, prefix 110: a hundred documents of 190 own tokens 41 ms by
    mask, 56 ms as squares; three of 4,000 own tokens 324 ms by mask, 127 ms as squares.

    Args:
        query: (1, heads, tokens, head_dim), the whole row's.
        keys: (1, key_value_heads, prefix + own, head_dim).
        values: As `keys`.
        segment: The document.
        layout: The row's segments, which keep the mask.
        scale: Factor on the scores before the softmax.

    Returns:
        (1, heads, own, head_dim).
    """
    gqa = query.shape[1] != keys.shape[1]
    own_query = query[:, :, segment.start : segment.end]
    own = segment.end - segment.start
    prefix = segment.prefix_end - segment.prefix_start
    if runs_as_square(prefix, own):
        queries = torch.cat([query[:, :, segment.prefix_start : segment.prefix_end], own_query], dim=2)
        square = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale, enable_gqa=gqa)
        return square[:, :, prefix:]
    longest = max(length for length in layout.lengths if not runs_as_square(prefix, length))
    mask = layout.causal_mask(own_query.dtype, prefix, own, longest)
    return scaled_dot_product_attention(own_query, keys, values, attn_mask=mask, scale=scale, enable_gqa=gqa)


def packed_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    pack_layout: PackLayout | VarlenRow,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function in transformers' calling convention.

    Args:
        module: The attention layer; one marked `only_last` (see `lastlayer`) computes the documents' last tokens only.
        query: (1, heads, tokens, head_dim).
        key: (1, key_value_heads, tokens, head_dim).
        value: As `key`.
        attention_mask: Always None, see `no_mask`.
        pack_layout: The row's segments, handed through the model's keyword arguments: a layout to go by segment, a
            row prepared for a variable-length kernel to use that.
        scaling: Factor on the scores; 1 / sqrt(head_dim) when None.

    Returns:
        (1, tokens, heads, head_dim) and None for the weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    only_last = bool(getattr(module, "only_last", False))
    if isinstance(pack_layout, PackLayout):
        return segment_attention(query, key, value, pack_layout, scale, only_last=only_last), None
    row = pack_layout
    return packed_attention(query, key, value, row.offsets, row.numbers, scale, row.kernel, only_last), None


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
