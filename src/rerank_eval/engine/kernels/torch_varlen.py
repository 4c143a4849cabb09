"""PyTorch's own variable-length kernel (2.10 and newer; its signature has changed since)."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch


@cache
def _parameters() -> frozenset[str]:
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *sizes: Any,
    causal: bool,
    scale: float,
    window: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `Kernel`."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    known = _parameters()
    options: dict[str, Any] = {"return_aux": AuxRequest(lse=True)}
    if window is not None and "window_size" not in known:
        raise NotImplementedError("varlen_attn of this PyTorch takes no window")
    if window is not None:
        options["window_size"] = (window, window)
    elif "window_size" in known:
        options["window_size"] = (-1, 0) if causal else (-1, -1)
    else:
        options["is_causal"] = causal
    if "scale" in known:
        options["scale"] = scale
    else:  # the kernel divides by sqrt(head_dim)
        query = query * (scale * query.shape[-1] ** 0.5)
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    elif query.shape[1] != key.shape[1]:
        key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], 1) for tensor in (key, value))
    if "num_splits" in known:
        options["num_splits"] = 1  # a segment's result must not depend on the row's other segments
    out, lse = varlen_attn(query, key, value, *sizes, **options)
    # The documentation says (tokens, heads), the kernel gives (heads, tokens).
    return out, lse if lse.shape == (query.shape[1], query.shape[0]) else lse.transpose(0, 1)
