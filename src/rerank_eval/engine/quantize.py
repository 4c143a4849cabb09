"""Quantised matrices as further dtypes: float8 and int8, by torchao.

The matrices of the decoder layers are quantised once, per output row; activations as they come, per token, so that a
token's numbers do not depend on what else is in the row. Embedding, norms, attention and the answer's head stay in
bfloat16 (the head's margin in float32).
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import torch
from transformers import PreTrainedModel

from rerank_eval.engine.errors import EngineError

QUANTIZED = ("float8", "int8")
"""Dtypes that need torchao."""

FLOAT8_CAPABILITY = (8, 9)
"""Compute capability from which CUDA devices multiply float8 matrices (Ada; Hopper is 9.0)."""


def weights_dtype(dtype: str) -> torch.dtype:
    """Return what a checkpoint's weights are loaded in."""
    chosen: torch.dtype = torch.bfloat16 if dtype in QUANTIZED else getattr(torch, dtype)
    return chosen


def check_quantization(dtype: str, device: torch.device) -> None:
    """Refuse a quantised dtype that cannot run here, before any weight is read.

    Raises:
        EngineError: torchao is missing, or the device does not multiply in this format.
    """
    if dtype not in QUANTIZED:
        return
    if find_spec("torchao") is None:
        raise EngineError(f"dtype {dtype} needs the package torchao: pip install 'rerank-eval[quantized]'")
    capable = device.type == "cuda" and torch.cuda.get_device_capability(device) >= FLOAT8_CAPABILITY
    if dtype == "float8" and not capable:
        raise EngineError("dtype float8 needs a CUDA device of compute capability 8.9 or more; use bfloat16 or int8")
    if dtype == "int8" and device.type not in {"cpu", "cuda"}:
        raise EngineError(f"dtype int8 does not run on {device.type}; use bfloat16")


def quantize(model: PreTrainedModel, dtype: str) -> None:
    """Quantise the decoder layers' matrices of a bfloat16 model in place; other dtypes are left alone."""
    if dtype not in QUANTIZED:
        return
    torchao: Any = importlib.import_module("torchao.quantization")
    if dtype == "float8":
        config = torchao.Float8DynamicActivationFloat8WeightConfig(granularity=torchao.PerRow())
    else:
        config = torchao.Int8DynamicActivationInt8WeightConfig()
    base: Any = model.model
    torchao.quantize_(getattr(base, "language_model", base).layers, config)  # one that reads images has it within
