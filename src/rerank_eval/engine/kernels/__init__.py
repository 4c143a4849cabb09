"""Kernels of variable-length attention by name: a file each in this folder, and what installed packages declare.

A package declares its own in pyproject.toml, and `load_engine(attention="my_kernel")` chooses it:

    [project.entry-points."rerank_eval.kernels"]
    my_kernel = "my_package.my_kernel:attend"
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Protocol, cast

import torch

from rerank_eval.engine.errors import EngineError

GROUP = "rerank_eval.kernels"
"""Entry points of installed packages."""

BUILT_IN = tuple(module.name for module in iter_modules(__path__))
"""Names of the kernels in this folder; a package cannot change what they mean."""


class Kernel(Protocol):
    """Attention of each segment's queries over its keys; segments lie one after the other, without padding.

    A segment's result must not depend on the other segments of the call.
    """

    def __call__(  # noqa: PLR0917 - called by position, as flash-attn's function is
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cu_query: torch.Tensor,
        cu_key: torch.Tensor,
        longest_query: int,
        longest_key: int,
        *,
        causal: bool,
        scale: float,
        window: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attend.

        Args:
            query: (tokens, heads, head_dim).
            key: (tokens, key_value_heads, head_dim); `key_value_heads` divides `heads`.
            value: As `key`.
            cu_query: (segments + 1,) int32 on the query's device: first row of each segment, then the number of rows.
            cu_key: The same of the keys' rows.
            longest_query: Rows of the longest segment.
            longest_key: Keys of the longest segment.
            causal: Asked for only where each segment has as many queries as keys.
            scale: Factor on the scores before the softmax.
            window: Largest distance at which a query sees a key; given for the local layers of encoders alone, never
                with `causal`, and where each segment has as many queries as keys. A kernel may lack this argument:
                local layers then go without it (`window.choose_window_kernel`).

        Returns:
            Output (tokens, heads, head_dim) in the query's dtype, log-sum-exp of the scores (heads, tokens) float32.
        """


def kernel_names() -> tuple[str, ...]:
    """Return the names of all kernels, whether or not they run on this machine."""
    return (*BUILT_IN, *sorted({point.name for point in entry_points(group=GROUP)} - set(BUILT_IN)))


@cache
def get_kernel(name: str) -> Kernel:
    """Return a kernel by name, importing it if nobody has; that may raise whatever the package does.

    Raises:
        EngineError: No package declares it, or more than one.
    """
    if name in BUILT_IN:
        return cast("Kernel", import_module(f"{__name__}.{name}").attend)
    points = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if len(points) != 1:
        found = " and as ".join(sorted(points)) or "nothing"
        raise EngineError(f"kernel {name!r}: declared as {found}; exactly one package must declare it")
    return cast("Kernel", points.popitem()[1].load())
