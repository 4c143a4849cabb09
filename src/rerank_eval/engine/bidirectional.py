"""Pairs of a cross-encoder in one row without padding: every pair sees itself, in both directions, and nothing else.

Linear layers, norms and embeddings of a stock Hugging Face encoder run on the row as it is; attention gets the pairs'
bounds through `AttentionInterface`. On a GPU in half precision all pairs go through one variable-length call, elsewhere
SDPA runs pair by pair. Local layers, which see a window of neighbours alone, go through `window`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from rerank_eval.engine.attention import no_mask
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.kernels import get_kernel
from rerank_eval.engine.layout import FEWEST_QUERIES
from rerank_eval.engine.window import windowed_attention

ATTENTION_NAME = "rerank_eval_pairs"
"""Key in transformers' attention and mask interfaces."""


@dataclass(frozen=True)
class PairRow:
    """Where the pairs of a row lie.

    Attributes:
        bounds: First row of each pair, and one past the last pair's last.
        kernel: Variable-length kernel, or None to go pair by pair.
        offsets: `bounds` as int32 on the device, for a kernel.
        window: Largest distance at which a local layer's query sees a key; None for a model without such layers.
        local_kernel: Variable-length kernel for local layers, or None to go pair by pair there.
    """

    bounds: tuple[int, ...]
    kernel: str | None = None
    offsets: torch.Tensor | None = None
    window: int | None = None
    local_kernel: str | None = None

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        kernel: str | None,
        device: torch.device,
        *,
        window: int | None = None,
        local_kernel: str | None = None,
    ) -> PairRow:
        """Lay pairs out one after the other."""
        bounds = (0, *accumulate(lengths))
        offsets = None if kernel is None else torch.tensor(bounds, dtype=torch.int32, device=device)
        return cls(bounds, kernel, offsets, window, local_kernel)

    @property
    def longest(self) -> int:
        """Tokens of the longest pair."""
        return max(end - start for start, end in pairwise(self.bounds))


def pair_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    row: PairRow,
    scale: float,
    *,
    window: int | None = None,
) -> torch.Tensor:
    """Attend within each pair of a row, and of a pair within the window, if one is given.

    `query`, `key` and `value` are (1, heads, tokens, head_dim), keys and values perhaps with fewer heads, each for a
    group of the query's; returns (1, tokens, heads, head_dim), in the query's dtype.
    """
    kernel = row.kernel if window is None else row.local_kernel
    if kernel is not None and row.offsets is not None:
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        sizes = (row.offsets, row.offsets, row.longest, row.longest)
        # Kernels of packages may know no window, so that the others are called without one.
        options: dict[str, Any] = {} if window is None else {"window": window}
        return get_kernel(kernel)(q, k, v, *sizes, causal=False, scale=scale, **options)[0][None]
    out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    for start, end in pairwise(row.bounds):
        q, k, v = (tensor[:, :, start:end] for tensor in (query, key, value))
        length = end - start
        if window is not None and length > window + 1:
            out[:, start:end] = windowed_attention(q, k, v, window, scale).transpose(1, 2)
            continue
        # Repeated queries: with fewer, the CPU kernel's sums depend on things outside the pair, see `layout`.
        rows = q if length >= FEWEST_QUERIES else q.repeat(1, 1, FEWEST_QUERIES, 1)
        grouped = k.shape[1] != rows.shape[1]
        attended = scaled_dot_product_attention(rows, k, v, scale=scale, enable_gqa=grouped)[:, :, :length]
        out[:, start:end] = attended.transpose(1, 2)
    return out


def pair_attention_forward(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _attention_mask: torch.Tensor | None,
    *,
    pair_row: PairRow,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' calling convention, see `pair_attention`; `pair_row` comes with the model's call.

    A layer is local where it gives a `sliding_window`. How far that reaches is read from `pair_row`, since the number
    that layers give counts the query itself in some releases of transformers and in others not.

    Raises:
        EngineError: A layer is local and the row says no window.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if sliding_window is not None and pair_row.window is None:
        raise EngineError(f"a layer attends within a window of {sliding_window} tokens, which is not computed packed")
    window = None if sliding_window is None else pair_row.window
    return pair_attention(query, key, value, pair_row, scale, window=window), None


def register() -> str:
    """Register attention and mask function with transformers; return the name to load a model with."""
    AttentionInterface.register(ATTENTION_NAME, pair_attention_forward)
    AttentionMaskInterface.register(ATTENTION_NAME, no_mask)
    return ATTENTION_NAME
