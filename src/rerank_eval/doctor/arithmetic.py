"""What the device computes: dtypes, attention kernels, torch.compile."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Iterator

import torch

from rerank_eval.doctor.findings import Finding, failure, ok, said, warning
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.quantize import QUANTIZED, check_quantization
from rerank_eval.engine.varlen import PROBE_TOLERANCE, choose_kernel, probe

SLOW = 2.0
"""Times as long as float32 from which a dtype is called slow."""
HEADS = (16, 8, 128)
"""Query heads, key and value heads and head_dim of Qwen3-Reranker-0.6B: what is tried where the config's own model is
not there."""


def check_dtype(dtype: str, device: torch.device, key: str) -> Iterator[Finding]:
    """Try a dtype on a device."""
    name = f"dtype {dtype}"
    if dtype in QUANTIZED:
        try:
            check_quantization(dtype, device)
        except EngineError as error:
            yield failure(name, f"{key}: {error}", f"--set {key}=bfloat16")
        else:
            yield ok(name, f"torchao is installed and {device} multiplies it")
        return
    tensor_dtype: torch.dtype = getattr(torch, dtype)
    try:
        times = _seconds(tensor_dtype, device) / _seconds(torch.float32, device)
    except RuntimeError as error:
        yield failure(name, f"{key}: {device} does not compute it: {said(error)}", f"--set {key}=float32")
        return
    emulated = device.type == "cuda" and dtype == "bfloat16" and not _has_bfloat16()
    if emulated:
        found = f"{device} has no bfloat16 of its own and emulates it"
        yield warning(name, found, f"--set {key}=float16, which is another identity")
    elif dtype != "float32" and times > SLOW:
        found = f"a matrix product takes {times:.0f} times as long as in float32 on this {device.type}"
        yield warning(name, found, f"--set {key}=float32 on this machine; results of the two are kept apart")
    else:
        share = "" if dtype == "float32" else f": a matrix product takes {times:.2f} of float32's time"
        yield ok(name, f"{device} computes it{share}")


def _has_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _seconds(dtype: torch.dtype, device: torch.device) -> float:
    """Time a matrix product, the best of five."""
    left, right = (torch.ones(256, 512, dtype=dtype, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        (left @ right.T).sum().item()  # reading a number waits for the device
        best = min(best, time.perf_counter() - started)
    return best


def check_attention(
    device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int], label: str
) -> Iterator[Finding]:
    """Say which attention the packed engine takes here; a kernel is taken only when it proves right."""
    name = "attention"
    kernel, reasons = choose_kernel(device, dtype, heads)
    shape = f"{heads[0]} heads, {heads[1]} of keys, of {heads[2]} as in {label}"
    if kernel is not None:
        worst = probe(kernel, device, dtype, heads)
        yield ok(name, f"{kernel}, within {worst:.1e} of plain softmax ({shape})")
    elif device.type == "cuda" and dtype != torch.float32:
        found = f"goes document by document, which is right and slower ({shape}): {reasons}"
        yield warning(
            name, found, "use torch 2.10 or newer on a GPU of compute capability 8.0 or more, or install flash-attn"
        )
    else:
        yield ok(name, f"document by document with torch's own ({shape})")


def check_compile(asked: bool | None, device: torch.device) -> Iterator[Finding]:
    """Compile a small function, where a run would compile.

    Args:
        asked: `reranker.compile`; None compiles on CUDA and goes on without where that fails.
        device: The device.
    """
    if not (device.type == "cuda" if asked is None else asked):
        return
    name = "torch.compile"
    bad = failure if asked else warning
    remedy = "install a C++ compiler and Python's headers, or --set reranker.compile=false"
    missing = _missing_tools(device)
    if missing:
        yield bad(name, f"{missing} is not here", remedy)
        return
    started = time.monotonic()
    try:
        worst = _compiled_difference(device)
        if device.type == "cpu":
            worst = max(worst, probe("cpu_flash", device, torch.float32, HEADS))
    except Exception as error:  # the compiler's errors have no common base
        yield bad(name, said(error), remedy)
        return
    if worst > PROBE_TOLERANCE:
        yield bad(name, f"compiled code is off by {worst:.2g}", "--set reranker.compile=false")
    else:
        yield ok(name, f"compiles and is right on {device} ({time.monotonic() - started:.1f} s)")


def _missing_tools(device: torch.device) -> str:
    """Return what torch.compile needs and is not here."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton"
    variable, names = ("CXX", ("g++", "clang++", "c++")) if device.type == "cpu" else ("CC", ("gcc", "clang", "cc"))
    compiler = os.environ.get(variable)
    if any(shutil.which(tool) for tool in ([compiler] if compiler else names)):
        return ""
    return f"the C compiler {compiler} of {variable}" if compiler else f"a C compiler ({', '.join(names)})"


def _compiled_difference(device: torch.device) -> float:
    """Compile the kind of work that the engine fuses, and return the largest difference from running it as it is."""

    def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(gate) * up + up.square().mean(-1, keepdim=True).rsqrt()

    generator = torch.Generator().manual_seed(0)
    gate, up = (torch.randn(64, 256, generator=generator).to(device) for _ in range(2))
    compiled = torch.compile(gated, dynamic=True)
    return float((compiled(gate, up) - gated(gate, up)).abs().max())
