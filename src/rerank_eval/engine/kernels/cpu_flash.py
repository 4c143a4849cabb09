"""PyTorch's CPU kernel, segment by segment: the same algorithm where no variable-length kernel exists."""

from __future__ import annotations

import torch


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_query: torch.Tensor,
    cu_key: torch.Tensor,
    *_: int,
    causal: bool,
    scale: float,
    window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `Kernel`."""
    heads, group = query.shape[1], query.shape[1] // key.shape[1]
    out = torch.empty(query.shape, dtype=query.dtype)
    lse = torch.empty((heads, query.shape[0]), dtype=torch.float32)
    bounds_q, bounds_k = cu_query.tolist(), cu_key.tolist()
    for index in range(len(bounds_q) - 1):
        rows, seen = slice(*bounds_q[index : index + 2]), slice(*bounds_k[index : index + 2])
        q, k, v = (t.transpose(0, 1)[None] for t in (query[rows], key[seen], value[seen]))
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        mask = None if window is None else _window_mask(q.shape[2], window, q.dtype)
        part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal, attn_mask=mask, scale=scale
        )
        out[rows], lse[:, rows] = part[0].transpose(0, 1), part_lse[0].reshape(heads, -1)
    return out, lse


def _window_mask(length: int, window: int, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask (length, length) that leaves the keys within the window."""
    places = torch.arange(length)
    beyond = (places[:, None] - places).abs() > window
    return torch.zeros(beyond.shape, dtype=dtype).masked_fill_(beyond, float("-inf"))
