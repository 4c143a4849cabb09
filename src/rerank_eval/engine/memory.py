"""How many tokens fit: budgets from free memory, and what an allocation that failed looks like."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

import torch
from transformers import PreTrainedModel

LARGEST_BUDGET = 65_536
"""Beyond it a GPU's matrix products gain nothing, and a failure costs more."""

CPU_BUDGET = 16_384
"""Largest budget on a CPU: some 100 short passages behind their query, or two documents of 8,000 tokens."""

SHARE_OF_FREE = 0.6
"""Share of the free memory that a pack may take; the rest is for fragmentation and other processes."""


def bytes_per_token(model: PreTrainedModel) -> int:
    """Estimate the bytes that a token of a row takes while a layer runs.

    The largest moment is inside the MLP: residual, normalised input, gate, up and their product; or inside attention:
    residual, input, queries, keys, values in two layouts, and the output. A float32 copy of the hidden state is added
    for the norms.
    """
    config: Any = model.config
    size = model.dtype.itemsize
    queries, keys, head_dim = heads_of(config)
    heads = (queries + 2 * keys) * head_dim
    mlp = 2 * config.hidden_size + 3 * config.intermediate_size
    attention = 2 * config.hidden_size + 3 * heads
    return int(size * max(mlp, attention) + 8 * config.hidden_size)


def heads_of(config: Any) -> tuple[int, int, int]:
    """Return a model's query heads, its key and value heads, and head_dim."""
    count = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // count
    return count, getattr(config, "num_key_value_heads", None) or count, head_dim


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device, or of the machine for a CPU."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + reserved)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def choose_budget(model: PreTrainedModel, device: torch.device) -> int:
    """Choose the most tokens in a row from free memory.

    A multiple of 256, from 1,024 to `LARGEST_BUDGET` (`CPU_BUDGET` on a CPU).
    """
    largest = CPU_BUDGET if device.type == "cpu" else LARGEST_BUDGET
    fitting = int(free_bytes(device) * SHARE_OF_FREE) // bytes_per_token(model)
    return max(1024, min(largest, fitting // 256 * 256))


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks for the next layer instead of returning them to the system.

    Activations of a CPU's row are blocks of tens of megabytes; by default each is mapped anew and filled page by page,
    which on two cores took 80 ms for three elementwise operations on 20,000 x 768 values that take 27 ms in memory
    already mapped. The process's peak stays what it was, but it keeps it. Other C libraries are left alone; returns
    whether it was told.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    return bool(mallopt(-3, 1 << 30)) and bool(mallopt(-1, (1 << 31) - 1))


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an exception is a failed allocation; on a CPU PyTorch raises a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
