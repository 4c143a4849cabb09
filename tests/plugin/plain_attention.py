"""Attention with its softmax written out, segment by segment: `load_engine(attention="plain")`."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

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
) -> tuple[torch.Tensor, torch.Tensor]:
    outputs, sums = [], []
    for (first, last), (start, end) in zip(pairwise(cu_query.tolist()), pairwise(cu_key.tolist()), strict=True):
        repeats = query.shape[1] // key.shape[1]
        k, v = (tensor[start:end].float().repeat_interleave(repeats, 1).transpose(0, 1) for tensor in (key, value))
        scores = query[first:last].float().transpose(0, 1) @ k.transpose(1, 2) * scale
        if causal:
            future = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(future, -math.inf)
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
        sums.append(scores.logsumexp(-1))
    return torch.cat(outputs).to(query.dtype), torch.cat(sums, dim=1)


def base_two(*tensors: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Wrong: the log-sum-exp is a logarithm to the base of two."""
    output, sums = attend(*tensors, **options)
    return output, sums / math.log(2)


def blind(*tensors: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Takes a window and does not heed it, as any function with `**options` does."""
    options.pop("window", None)
    return attend(*tensors, **options)
