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

from rerank_eval.engine.layout import FEWEST_QUERIES, PackLayout, Segment, runs_as_square
from rerank_eval.engine.varlen import VarlenRow, packed_attention

ATTENTION_NAME = "rerank_eval_packed"
"""Key in transformers' attention and mask interfaces."""


def segment_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackLayout,
    scale: float,
    *,
    only_last: bool = False,
) -> torch.Tensor:
    """Attend within a packed row, segment by segment, on any device and in any dtype.

    `query` is (1, heads, tokens, head_dim), `key` and `value` (1, key_value_heads, tokens, head_dim), where
    `key_value_heads` divides `heads`; `scale` multiplies the scores before the softmax. With `only_last` the documents'
    last tokens are computed alone and other rows are left undefined.

    Returns (1, tokens, heads, head_dim), in the query's dtype: the layout that transformers expects back.
    """
    out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    alone = [] if only_last else [*layout.shared_segments(), Segment((), layout.useful, layout.tokens)]
    for segment in [*alone, *layout.documents()]:
        if not segment.own:
            continue
        keys, values = (_seen(tensor, segment) for tensor in (key, value))
        if only_last:
            last = slice(segment.end - 1, segment.end)
            # The last query sees all keys, so nothing is masked.
            repeated = query[:, :, last].expand(-1, -1, FEWEST_QUERIES, -1)
            attended = _sdpa(repeated, keys, values, scale)[:, :, :1]
            out[:, last] = attended.transpose(1, 2)
        else:
            attended = _attend(query, keys, values, segment=segment, layout=layout, scale=scale)
            out[:, segment.start : segment.end] = attended.transpose(1, 2)
    return out


def _sdpa(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, **options: Any) -> torch.Tensor:
    gqa = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=gqa, **options)


def _seen(tensor: torch.Tensor, segment: Segment) -> torch.Tensor:
    """Return the rows of a segment's ancestors and its own, (1, heads, prefix + own, head_dim)."""
    ranges = (*segment.ancestors, (segment.start, segment.end))
    if len(ranges) == 1:
        return tensor[:, :, segment.start : segment.end]
    return torch.cat([tensor[:, :, start:end] for start, end in ranges], dim=2)


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    segment: Segment,
    layout: PackLayout,
    scale: float,
) -> torch.Tensor:
    """Attend from a segment's queries to its ancestors' and its own keys, causal and aligned bottom-right.

    A GPU's kernels offer that alignment. The CPU kernel's own causal mode is aligned top-left, so it takes a mask, and
    with a mask it skips no block of keys. For a long document it is cheaper to let the ancestors' queries run along, so
    that the square is causal without a mask, and to drop their rows. Measured on two cores, prefix 110: a hundred
    documents of 190 own tokens 41 ms by mask, 56 ms as squares; three of 4,000 own tokens 324 ms by mask, 127 ms as
    squares.

    `query` is the whole row's, `keys` and `values` are (1, key_value_heads, prefix + own, head_dim); returns (1, heads,
    own, head_dim).
    """
    own_query = query[:, :, segment.start : segment.end]
    if not segment.prefix:
        return _sdpa(own_query, keys, values, scale, is_causal=True)
    if query.device.type != "cpu":
        return _sdpa(own_query, keys, values, scale, attn_mask=causal_lower_right(segment.own, keys.shape[2]))
    if runs_as_square(segment.prefix, segment.own):
        square = _sdpa(_seen(query, segment), keys, values, scale, is_causal=True)
        return square[:, :, segment.prefix :]
    return _sdpa(own_query, keys, values, scale, attn_mask=layout.causal_mask(own_query.dtype, segment))


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

    A layer marked `only_last` (see `lastlayer`) computes the documents' last tokens only. `attention_mask` is always
    None, see `no_mask`. `pack_layout` comes through the model's keyword arguments: a layout to go by segment, a row
    prepared for a variable-length kernel to use that. `scaling` is 1 / sqrt(head_dim) where it is None.
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
    """Register attention and mask function with transformers; return the name to load a model with."""
    AttentionInterface.register(ATTENTION_NAME, packed_attention_forward)
    AttentionMaskInterface.register(ATTENTION_NAME, no_mask)
    return ATTENTION_NAME
