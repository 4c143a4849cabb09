"""Attention within a window of neighbours, in both directions: the local layers of ModernBERT.

A query at position i sees the keys from i - window to i + window of its own pair. SDPA gets a mask for that, chunk by
chunk of a pair's queries, so that time and memory grow with the pair's length and not with its square. A
variable-length kernel is used where it takes a window and proves right with it on this very device.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from rerank_eval.engine.kernels import get_kernel
from rerank_eval.engine.layout import FEWEST_QUERIES
from rerank_eval.engine.varlen import PROBE_TOLERANCE

logger = logging.getLogger(__name__)

CPU_CHUNK = 128
"""Queries in a call on a CPU: with ModernBERT's window of 64 they see 256 keys, half of which are masked."""
GPU_CHUNK = 1024
"""The same elsewhere, where launching a call costs more than the masked keys."""


def windowed_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int, scale: float
) -> torch.Tensor:
    """Attend within a window of one pair, which is longer than the window.

    What is computed depends on the pair's length and on nothing beside the pair.

    Args:
        query: (1, heads, tokens, head_dim).
        key: As `query`.
        value: As `query`.
        window: Largest distance at which a key is seen.
        scale: Factor on the scores before the softmax.

    Returns:
        (1, heads, tokens, head_dim), in the query's dtype.
    """
    length = query.shape[2]
    chunk = CPU_CHUNK if query.device.type == "cpu" else GPU_CHUNK
    pieces = []
    for start in range(0, length, chunk):
        end = min(start + chunk, length)
        first, last = max(0, start - window), min(length, end + window)
        # Repeated queries: see `bidirectional.pair_attention`.
        repeats = 1 if end - start >= FEWEST_QUERIES else FEWEST_QUERIES
        mask = _mask(
            end - start, last - first, start - first, window, repeats=repeats, dtype=query.dtype, device=query.device
        )
        rows = query[:, :, start:end].repeat(1, 1, repeats, 1) if repeats > 1 else query[:, :, start:end]
        k, v = key[:, :, first:last], value[:, :, first:last]
        attended = scaled_dot_product_attention(rows, k, v, attn_mask=mask, scale=scale)
        pieces.append(attended[:, :, : end - start])
    return torch.cat(pieces, dim=2)


@lru_cache(maxsize=32)
def _mask(
    queries: int, keys: int, offset: int, window: int, *, repeats: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Additive mask (repeats * queries, keys): query i stands at key `offset` + i and sees the keys in its window."""
    positions = torch.arange(queries, device=device).repeat(repeats) + offset
    distance = (positions[:, None] - torch.arange(keys, device=device)).abs()
    return torch.zeros(distance.shape, dtype=dtype, device=device).masked_fill_(distance > window, float("-inf"))


def choose_window_kernel(
    kernel: str | None, device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int], window: int
) -> str | None:
    """Return a variable-length kernel for local layers: the given one, if it gives right results with a window here.

    Args:
        kernel: The kernel of the other layers, or None where there is none.
        device: The model's.
        dtype: The model's.
        heads: Query heads, key and value heads, head_dim.
        window: Largest distance at which a key is seen.

    Returns:
        The kernel's name, or None to go pair by pair.
    """
    if kernel is None:
        return None
    try:
        worst = probe_window(kernel, device, dtype, heads, window)
    except Exception as error:  # a kernel that takes no window or refuses the shape raises whatever it likes
        problem = f"{type(error).__name__}: {error}"
    else:
        if worst <= PROBE_TOLERANCE:
            return kernel
        problem = f"off by {worst:.2g} on this device"
    logger.warning("local attention goes pair by pair, which is slower: %s with a window: %s", kernel, problem)
    return None


def probe_window(
    kernel: str, device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int], window: int
) -> float:
    """Run a kernel with a window on a small row and compare with softmax written out in float32.

    Returns the largest difference, infinite where the kernel gave a NaN, and raises what the kernel raises.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = [3, window + 1, window + 2, 3 * window + 7, 150]
    bounds = [0, *accumulate(lengths)]
    shapes = [(bounds[-1], count, heads[2]) for count in (heads[0], heads[1], heads[1])]
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    offsets = torch.tensor(bounds, dtype=torch.int32, device=device)
    scale = heads[2] ** -0.5
    tensors = [tensor.to(device) for tensor in (query, key, value)]
    sizes = (offsets, offsets, max(lengths), max(lengths))
    attend: Any = get_kernel(kernel)  # one that takes no window raises
    found = attend(*tensors, *sizes, causal=False, scale=scale, window=window)[0].float().cpu()
    worst = 0.0
    for start, end in pairwise(bounds):
        q, k, v = (tensor[start:end].float().transpose(0, 1) for tensor in (query, key, value))
        k, v = (tensor.repeat_interleave(heads[0] // heads[1], 0) for tensor in (k, v))
        places = torch.arange(end - start)
        beyond = (places[:, None] - places).abs() > window
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(beyond, float("-inf"))
        difference = found[start:end] - (scores.softmax(-1) @ v).transpose(0, 1)
        worst = max(worst, float(difference.abs().nan_to_num(nan=torch.inf).max()))
    return worst
