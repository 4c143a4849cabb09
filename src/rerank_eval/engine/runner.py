"""Packs through the layers: kernel, compiled layers, and what happens when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from rerank_eval.engine import lastlayer
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import EngineStats
from rerank_eval.engine.layout import PackLayout
from rerank_eval.engine.memory import choose_budget, heads_of, is_out_of_memory, keep_freed_memory
from rerank_eval.engine.packing import Pack, Packer
from rerank_eval.engine.varlen import PROBE_TOLERANCE, choose_kernel, prepare_row, probe

logger = logging.getLogger(__name__)

ROW_MULTIPLE = 256
"""On a GPU a row's length is filled up to a multiple of this, so that few shapes are ever seen: a matrix product's
arithmetic may change with its shape, and so may what torch.compile has specialised on."""

ROOT_SHARING_PAYS_FROM = 1.1
"""Tokens without a shared root to tokens with one, from which variable-length attention shares it. A further merge
reads and writes the attention's output once more, some 8% of a small model's layer; by segment it costs nothing."""


@dataclass(frozen=True)
class PackOutput:
    """A pack that has gone through the model; `hidden` is (documents, hidden_size), in the row's order."""

    pack: Pack
    hidden: torch.Tensor
    work: EngineStats


class PackRunner:
    """Runs packs through a base model (no head) that was loaded with the packed attention, on its device.

    `token_budget` is the most tokens in a row, 0 to choose it from free memory; out of memory halves it for good.
    `kernel` is a variable-length kernel (`choose_attention`), or None to go by segment.

    Raises:
        EngineError: The budget is negative.
    """

    def __init__(self, base: PreTrainedModel, token_budget: int = 0, kernel: str | None = None) -> None:
        if token_budget < 0:
            raise EngineError(f"token_budget must be at least 1, or 0 to choose it, not {token_budget}")
        lastlayer.install(base)
        self._base = base
        self.device: torch.device = base.device
        self.packer = Packer(token_budget or choose_budget(base, self.device))
        self._kernel = kernel
        self._compiled = False
        if self.device.type == "cpu":
            keep_freed_memory()

    @property
    def settings(self) -> dict[str, str | int]:
        """Effective settings: the budget at present, how attention goes, whether layers are compiled."""
        compiled: dict[str, str | int] = {"compiled": 1} if self._compiled else {}
        return {"token_budget": self.packer.token_budget, "attention": self._kernel or "segments", **compiled}

    def run(self, pack: Pack) -> list[PackOutput]:
        """Run a pack; where memory does not suffice, halve it and the budget until it does.

        Returns the pack, or the parts it was halved into.

        Raises:
            RuntimeError: Memory does not suffice for one document (`memory.is_out_of_memory` tells).
        """
        try:
            return [self._run(pack)]
        except (RuntimeError, MemoryError) as error:
            halves = pack.halves()
            if not is_out_of_memory(error) or len(halves) == 1:
                raise
            self.packer.token_budget = max(1, min(self.packer.token_budget, pack.tokens) // 2)
            logger.warning(
                "out of memory at %d tokens; token_budget is %d from now on", pack.tokens, self.packer.token_budget
            )
        # Outside the handler: the traceback would keep the failed pack's tensors alive.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return [done for half in halves for done in self.run(half)]

    def _run(self, pack: Pack) -> PackOutput:
        if self._kernel is not None and not _pays_to_share_roots(pack):
            pack = pack.without_shared_roots()
        layout = pack.layout(ROW_MULTIPLE if self.device.type == "cuda" else 1)
        with torch.inference_mode():
            hidden = run_row(self._base, pack.token_ids(layout.filler), layout, self._kernel)
        return PackOutput(
            pack, hidden, EngineStats(forwards=1, computed_tokens=layout.tokens, padding_tokens=layout.filler)
        )

    def compile_layers(self, *, required: bool) -> None:
        """Fuse the elementwise work of all layers but the last with torch.compile, and try it on two rows.

        The last layer works on rows of two lengths and stays as it is. Lengths are dynamic, so nothing is compiled
        again for another pack; attention is an operator that the compiler does not look into.

        Raises:
            EngineError: The compiler fails and it is `required`; else that is a warning.
        """
        layers: Any = self._base.layers
        kernel = self._kernel
        if kernel is None and self.device.type == "cpu":
            kernel = "cpu_flash"  # by segment, attention is Python that the compiler would trace into
        elif kernel is None:
            logger.warning("layers are not compiled: attention by segment cannot be")
            return
        for layer in layers[:-1]:
            layer.compile(dynamic=True)
        try:
            with torch.inference_mode():
                for tokens, documents in ((ROW_MULTIPLE, 3), (3 * ROW_MULTIPLE, 5)):
                    # Several documents: lengths that happen to be equal here would be taken for equal always.
                    lengths = [(tokens - 16) // documents] * (documents - 1)
                    layout = PackLayout.single(16, [*lengths, tokens - 16 - sum(lengths)])
                    run_row(self._base, [0] * tokens, layout, kernel)
        except Exception as error:  # the compiler's errors have no common base
            for layer in layers[:-1]:
                layer._compiled_call_impl = None  # what Module.compile sets, and offers no way to take back
            if required:
                raise EngineError(f"torch.compile fails here: {type(error).__name__}: {error}") from error
            logger.warning("layers are not compiled, which is slower: %s: %s", type(error).__name__, error)
            return
        self._kernel, self._compiled = kernel, True


def run_row(base: PreTrainedModel, row: Sequence[int], layout: PackLayout, kernel: str | None) -> torch.Tensor:
    """Run a row through a base model loaded with the packed attention; waits for no device.

    `row` are token ids, as many as the layout says; `kernel` is None to go by segment. Returns each document's last
    hidden state after the final norm, (documents, hidden_size) in the model's dtype, in the order of the row.
    """
    device = base.device
    host = torch.cat([torch.tensor(row), torch.from_numpy(layout.position_ids), torch.tensor(layout.kept_rows)])
    if device.type == "cuda":
        host = host.pin_memory()
    sizes = [len(row), len(row), len(layout.kept_rows)]
    ids, positions, kept = torch.split(host.to(device, non_blocking=True), sizes)
    with lastlayer.only(base, kept):
        output = base(
            input_ids=ids[None],
            position_ids=positions[None],
            use_cache=False,
            pack_layout=layout if kernel is None else prepare_row(layout, device, kernel),
        )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden[kept[: len(layout.last_positions)]]


def _pays_to_share_roots(pack: Pack) -> bool:
    """Say whether variable-length attention should run a root apart, which takes a further call and merge a layer."""
    if len(pack.roots) != 1 or len(pack.parts) == 1:
        return False
    if any(len(part.prompts.shared) == len(part.root) for part in pack.parts):
        return False
    return pack.without_shared_roots().tokens > ROOT_SHARING_PAYS_FROM * pack.tokens


def choose_attention(attention: str, base: PreTrainedModel) -> str | None:
    """Choose a variable-length kernel for a model on its device, or None to go by segment.

    `attention` is `segments`, a kernel's name, or `auto` for the first one that proves right on this device.

    Raises:
        EngineError: A kernel was named and does not run here, or gives other numbers.
    """
    device: torch.device = base.device
    heads = heads_of(base.config)
    if attention == "segments":
        return None
    if attention == "auto":
        kernel, reasons = choose_kernel(device, base.dtype, heads)
        if kernel is None and device.type == "cuda":
            logger.warning("attention goes document by document, which is slower: %s", reasons)
        return kernel
    try:
        worst = probe(attention, device, base.dtype, heads)
    except Exception as error:  # a kernel that is absent or refuses the shape raises whatever it likes
        raise EngineError(f"attention {attention} does not run here: {type(error).__name__}: {error}") from error
    if worst > PROBE_TOLERANCE:
        raise EngineError(f"attention {attention} is off by {worst:.2g} on this device; use auto or segments")
    return attention
