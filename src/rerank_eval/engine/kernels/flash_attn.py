"""The flash-attn package, version 2.5 or newer."""

from __future__ import annotations

import importlib
from typing import Any

import torch


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
    flash_attn: Any = importlib.import_module("flash_attn")
    options = {} if window is None else {"window_size": (window, window)}
    out, lse, _ = flash_attn.flash_attn_varlen_func(
        query, key, value, *sizes, causal=causal, softmax_scale=scale, return_attn_probs=True, **options
    )
    return out, lse
