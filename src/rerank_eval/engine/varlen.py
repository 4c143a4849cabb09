"""Attention over a packed row in a few variable-length calls, merged by their log-sum-exp.

The first call runs every segment over itself, causally; further ones run the documents' queries over their prefix,
and, where groups share a root, everything behind the root over it. A softmax over the union of two sets of keys is the
mean of the two softmaxes' outputs weighted by exp(log-sum-exp), so with l1 and l2 the result is
`out2 + sigmoid(l1 - l2) * (out1 - out2)` and its log-sum-exp `logaddexp(l1, l2)`. Keys and values are never copied, and
the number of kernel calls does not depend on the number of documents.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.kernels import get_kernel
from rerank_eval.engine.layout import GroupLayout, PackLayout

PROBE_TOLERANCE = 2e-2
"""Largest difference from float32 softmax that a kernel may show in half precision on values of size 1; bfloat16 has
eight bits, so a right kernel lies under 1e-2 and a wrong alignment or log-sum-exp at 0.1 and more."""


@dataclass(frozen=True)
class VarlenRow:
    """A layout prepared for variable-length calls; goes through the model's keyword arguments.

    Attributes:
        offsets: int32 on the device, one after the other: cumulative rows of all segments; of each group's documents;
            of each group's prefix; of each document; cumulative number of documents of each group; the rows of the
            documents' last tokens.
        numbers: int64 on the CPU, so that reading it waits for no device: rows of the root, rows before the first
            document, useful rows, filler rows, segments, groups, documents, longest segment, most document rows of a
            group, longest prefix, longest document, most documents of a group.
        kernel: Name of the kernel.
    """

    offsets: torch.Tensor
    numbers: torch.Tensor
    kernel: str


def prepare_row(layout: PackLayout, device: torch.device, kernel: str) -> VarlenRow:
    """Prepare a layout for variable-length calls of a kernel on a device.

    Raises:
        EngineError: Some groups have a prefix and some none, or there is more than one root that all groups share.
    """
    prefixes = [group.prefix for group in layout.groups]
    if any(prefixes) and not all(prefixes):
        raise EngineError("a row must not mix groups with and without a shared prefix")
    if len(layout.roots) > 1 or any((group.root is None) == bool(layout.roots) for group in layout.groups):
        raise EngineError("a row for variable-length attention has one root that all groups share, or none")
    totals = [sum(group.lengths) for group in layout.groups]
    sizes = [len(group.lengths) for group in layout.groups]
    whole = [length for length in (*layout.roots, *prefixes, *layout.lengths, layout.filler) if length]
    pieces = [_cumulative(values) for values in (whole, totals, prefixes, layout.lengths, sizes)]
    offsets = torch.from_numpy(np.concatenate([*pieces, np.array(layout.last_positions, dtype=np.int32)]))
    if device.type == "cuda":
        offsets = offsets.pin_memory().to(device, non_blocking=True)
    numbers = [layout.root_rows, layout.prefix_rows, layout.useful, layout.filler]
    numbers += [len(whole), len(prefixes), len(layout.lengths)]
    numbers += [max(whole), max(totals), max(prefixes), max(layout.lengths), max(sizes)]
    return VarlenRow(offsets.to(device), torch.tensor(numbers), kernel)


def _cumulative(values: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array([0, *accumulate(values)], dtype=np.int32)


@torch.library.custom_op("rerank_eval::packed_attention", mutates_args=())
def packed_attention(  # noqa: PLR0917 - a registered operator is called by position
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    numbers: torch.Tensor,
    scale: float,
    kernel: str,
    only_last: bool,
) -> torch.Tensor:
    """Attend within a packed row; an operator of its own, so that torch.compile does not look inside.

    `query` is (1, heads, tokens, head_dim), `key` and `value` (1, key_value_heads, tokens, head_dim); for `offsets` and
    `numbers` see `VarlenRow`. With `only_last` the documents' last tokens are computed alone and other rows are left
    undefined. Returns (1, tokens, heads, head_dim), in the query's dtype.
    """
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    root, first, useful, _, segments, groups, documents, *longest = numbers.tolist()
    bounds = [segments + 1, groups + 1, groups + 1, documents + 1, groups + 1, documents]
    whole, group_rows, prefix, own, group_sizes, last = torch.split(offsets, bounds)
    longest_segment, longest_group, longest_prefix, longest_own, largest_group = longest

    def over(rows: torch.Tensor, keys: slice, *sizes: Any, causal: bool = False) -> _Attended:
        return _Attended(*get_kernel(kernel)(rows, k[keys], v[keys], *sizes, causal=causal, scale=scale))

    if only_last:
        rows = last.long()
        one_each = torch.arange(documents + 1, dtype=torch.int32, device=q.device)
        done = over(q[rows], slice(first, useful), one_each, own, 1, longest_own)
        if first > root:
            done = done.merged(over(q[rows], slice(root, first), group_sizes, prefix, largest_group, longest_prefix))
        if root:
            done = done.merged(_over_root(over, q[rows], root))
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        out[rows] = done.output.to(q.dtype)
        return out[None]
    done = over(q, slice(None), whole, whole, longest_segment, longest_segment, causal=True)
    if not first:
        return done.output[None]
    if first > root:
        sizes = (group_rows, prefix, longest_group, longest_prefix)
        done = done.merged(over(q[first:useful], slice(root, first), *sizes), start=first)
    if root:
        done = done.merged(_over_root(over, q[root:useful], root), start=root)
    return done.output.to(q.dtype)[None]


def _over_root(over: Callable[..., _Attended], rows: torch.Tensor, root: int) -> _Attended:
    """Attend from rows that all stand behind the only root."""
    bounds = torch.tensor([[0, len(rows)], [0, root]], dtype=torch.int32, device=rows.device)
    return over(rows, slice(0, root), bounds[0], bounds[1], len(rows), root)


@dataclass(frozen=True)
class _Attended:
    """Attention over some keys: output (tokens, heads, head_dim), log-sum-exp (heads, tokens) float32."""

    output: torch.Tensor
    lse: torch.Tensor

    def merged(self, other: _Attended, start: int = 0) -> _Attended:
        """Add the keys that `other` has seen to the rows from `start` on, as many as it has."""
        rows = slice(start, start + len(other.output))
        mine, lse = self.output[rows], self.lse[:, rows]
        weight = torch.sigmoid(other.lse - lse).transpose(0, 1).unsqueeze(-1)
        self.output[rows] = torch.lerp(mine.float(), other.output.float(), weight).to(mine.dtype)
        self.lse[:, rows] = torch.logaddexp(lse, other.lse)
        return self


@packed_attention.register_fake
def _(query: torch.Tensor, *_: Any) -> torch.Tensor:
    batch, heads, tokens, head_dim = query.shape
    return query.new_empty((batch, tokens, heads, head_dim))


def probe(kernel: str, device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int]) -> float:
    """Run a kernel on a small row on the very device and compare with softmax written out in float32.

    `heads` are query heads, key and value heads, head_dim. Returns the largest difference, NaN where the kernel gave
    one, and raises whatever the kernel does where it does not run.
    """
    generator = torch.Generator().manual_seed(0)
    layout = PackLayout((GroupLayout(37, (5, 130), 0), GroupLayout(20, (64,), 0)), roots=(45,), filler=3)
    shapes = [(1, count, layout.tokens, heads[2]) for count in (heads[0], heads[1], heads[1])]
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    row = prepare_row(layout, device, kernel)
    scale = heads[2] ** -0.5
    tensors = [tensor.to(device) for tensor in (query, key, value)]
    found = packed_attention(*tensors, row.offsets, row.numbers, scale, kernel, False).float().cpu()
    last = packed_attention(*tensors, row.offsets, row.numbers, scale, kernel, True).float().cpu()
    worst = 0.0
    for segment in layout.documents():
        seen = [row for start, end in segment.ancestors for row in range(start, end)]
        rows, own = [*seen, *range(segment.start, segment.end)], slice(segment.start, segment.end)
        group = heads[0] // heads[1]
        k, v = (tensor[0][:, rows].float().repeat_interleave(group, 0) for tensor in (key, value))
        scores = query[0][:, own].float() @ k.transpose(1, 2) * scale
        future = torch.ones(scores.shape[1:], dtype=torch.bool).triu(len(seen) + 1)
        expected = (scores.masked_fill(future, float("-inf")).softmax(-1) @ v).transpose(0, 1)
        differences = [found[0, own] - expected, last[0, own][-1:] - expected[-1:]]
        worst = max([worst, *(float(difference.abs().nan_to_num(nan=torch.inf).max()) for difference in differences)])
    return worst


def choose_kernel(device: torch.device, dtype: torch.dtype, heads: tuple[int, int, int]) -> tuple[str | None, str]:
    """Choose a variable-length kernel that gives right results on this device, by trying.

    `heads` are query heads, key and value heads, head_dim. Returns the kernel's name, or None to go by segment; and why
    not the others, for a log.
    """
    if device.type != "cuda" or dtype == torch.float32:
        return None, "variable-length kernels take half precision on CUDA only"
    reasons = []
    installed = ["flash_attn"] if importlib.util.find_spec("flash_attn") else []
    for name in ["torch_varlen", *installed]:
        try:
            worst = probe(name, device, dtype, heads)
        except Exception as error:  # a kernel that is absent or refuses the shape raises whatever it likes
            reasons.append(f"{name}: {type(error).__name__}: {error}")
            continue
        if worst <= PROBE_TOLERANCE:
            return name, "; ".join(reasons)
        reasons.append(f"{name}: off by {worst:.2g} on this device")
    return None, "; ".join(reasons)
