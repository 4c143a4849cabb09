"""The flash-attn package, version 2.5 or newer."""

from __future__ import annotations

import importlib
from typing import Any

import torch


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *sizes: Any, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `Kernel`."""
    flash_attn: Any = importlib.import_module("flash_attn")
    out, lse, _ = flash_attn.flash_attn_varlen_func(
        query, key, value, *sizes, causal=causal, softmax_scale=scale, return_attn_probs=True
    )
    return out, lse
