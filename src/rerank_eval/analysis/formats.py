"""What the digits of scores tell: the number format that they went through, and how much of them is left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_MOST_DECIMALS = 6
_BFLOAT16_BITS = 8
_FLOAT16_BITS = 11
_STEPS = 1e-5
"""Hundred times a 32-bit float's relative step: finer decimals of all numbers are the format's own."""
_FEW = 8
"""Values of which fewer say nothing of a format."""


@dataclass(frozen=True)
class Format:
    """A coarse number format.

    Attributes:
        name: `bfloat16`, `float16`, `4 decimals`, `whole numbers`; empty where the numbers have all digits of a 32-bit
            float.
        rounding: (n,), what it rounds off of each number at most.
    """

    name: str
    rounding: Floats


def bfloat16(values: Floats) -> Floats:
    """Round float64 numbers to the nearest bfloat16, ties to even, by way of float32."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def format_of(values: Floats) -> Format:
    """Tell which format all of (n,) numbers are exact in, the coarsest first."""
    none = Format("", np.zeros_like(values))
    if len(np.unique(values)) < _FEW:
        return none
    for decimals in range(_MOST_DECIMALS + 1):
        if 10.0**-decimals < _STEPS * np.abs(values).max():
            break  # a 32-bit float of that size has no further decimals
        near = np.round(values, decimals)
        if (np.abs(near - values) <= 2e-7 * np.maximum(np.abs(values), 10.0**-decimals)).all():
            name = f"{decimals} decimals" if decimals else "whole numbers"
            return (
                Format(name, np.full_like(values, 0.5 * 10.0**-decimals)) if decimals else Format(name, none.rounding)
            )
    with np.errstate(over="ignore"):
        half = values.astype(np.float16).astype(np.float64)
    for name, bits, rounded in (("bfloat16", _BFLOAT16_BITS, bfloat16(values)), ("float16", _FLOAT16_BITS, half)):
        if (rounded == values).all():
            return Format(name, np.abs(values) * 2.0**-bits)
    return none
