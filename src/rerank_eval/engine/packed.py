"""The packed engine: a group's shared prefix once, its documents behind it in one row, no padding.

Packs are filled with whole groups up to the token budget; a group larger than the budget is split and its prefix
computed once in each part. A pair's float32 score on a CPU does not depend on any of this; tests hold it bit by bit.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from rerank_eval.engine import lastlayer
from rerank_eval.engine.base import BaseEngine, EngineParts, Finished
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.head import HeadOutput
from rerank_eval.engine.interface import EngineStats, QueryGroup
from rerank_eval.engine.layout import PackLayout
from rerank_eval.engine.memory import choose_budget, is_out_of_memory, keep_freed_memory
from rerank_eval.engine.packing import Pack, Packer, plan_packs
from rerank_eval.engine.prompts import TokenizedGroup
from rerank_eval.engine.varlen import prepare_row

logger = logging.getLogger(__name__)

ROW_MULTIPLE = 256
"""On a GPU a row's length is filled up to a multiple of this, so that few shapes are ever seen: a matrix product's
arithmetic may change with its shape, and so may what torch.compile has specialised on."""

ROOT_SHARING_PAYS_FROM = 1.1
"""Tokens without a shared root to tokens with one, from which variable-length attention shares it. A further merge
reads and writes the attention's output once more, some 8% of a small model's layer; by segment it costs nothing."""

IN_FLIGHT = 2
"""Packs sent to a GPU before the first one's margins are waited for."""


def packed_last_hidden(
    model: PreTrainedModel, shared: Sequence[int], own: Sequence[Sequence[int]], kernel: str | None = None
) -> torch.Tensor:
    """Run one group as a pack and gather each document's last hidden state.

    Args:
        model: A causal language model loaded with the packed attention (`attention.register`).
        shared: Ids of the shared prefix; may be empty, then each document stands alone (as a text to embed does).
        own: Ids of each document, none of them empty.
        kernel: Variable-length kernel (`varlen.choose_kernel`), or None to go by segment.

    Returns:
        (n, hidden_size) in the model's dtype, after the final norm, on the model's device.
    """
    layout = PackLayout.single(len(shared), [len(ids) for ids in own])
    row = list(shared)
    for ids in own:
        row.extend(ids)
    return run_row(model, row, layout, kernel)


def run_row(model: PreTrainedModel, row: Sequence[int], layout: PackLayout, kernel: str | None) -> torch.Tensor:
    """Run a row through the model's layers and gather each document's last hidden state.

    Nothing here waits for the device.

    Args:
        model: A causal language model loaded with the packed attention.
        row: Token ids, as long as the layout says.
        layout: The row's segments.
        kernel: Variable-length kernel, or None to go by segment.

    Returns:
        (documents, hidden_size) in the model's dtype, after the final norm, in the order of the row.
    """
    device = model.device
    host = torch.cat([torch.tensor(row), torch.from_numpy(layout.position_ids), torch.tensor(layout.kept_rows)])
    if device.type == "cuda":
        host = host.pin_memory()
    sizes = [len(row), len(row), len(layout.kept_rows)]
    ids, positions, kept = torch.split(host.to(device, non_blocking=True), sizes)
    with lastlayer.only(model, kept):
        output = model.model(
            input_ids=ids[None],
            position_ids=positions[None],
            use_cache=False,
            pack_layout=layout if kernel is None else prepare_row(layout, device, kernel),
        )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden[kept[: len(layout.last_positions)]]


@dataclass
class _Sent:
    """A pack whose margins are on their way."""

    pack: Pack
    output: HeadOutput
    work: EngineStats


class _Collector:
    """Puts the packs' margins back to their groups and hands groups out in order."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, TokenizedGroup, list[HeadOutput], list[int]]] = deque()
        self._work: dict[int, EngineStats] = {}

    def expect(self, number: int, prompts: TokenizedGroup) -> None:
        self._waiting.append((number, prompts, [], []))
        self._work[number] = EngineStats()

    def put(self, sent: _Sent) -> None:
        start = 0
        for part in sent.pack.parts:
            end = start + len(part.documents)
            for number, _, outputs, order in self._waiting:
                if number == part.number:
                    outputs.append(sent.output.rows(start, end))
                    order.extend(part.documents)
            start = end
        # A pack's work is counted with its first group, so that the sum over groups is right.
        self._work[sent.pack.parts[0].number] += sent.work

    def finished(self) -> Iterator[Finished]:
        while self._waiting and len(self._waiting[0][3]) == len(self._waiting[0][1].own):
            number, prompts, outputs, order = self._waiting.popleft()
            joined = HeadOutput.joined(outputs)
            yield Finished(prompts, joined.reordered(torch.argsort(torch.tensor(order))), self._work.pop(number))


def _pays_to_share_roots(pack: Pack) -> bool:
    """Say whether variable-length attention should run a root apart, which takes a further call and merge a layer."""
    if len(pack.roots) != 1 or len(pack.parts) == 1:
        return False
    if any(len(part.prompts.shared) == len(part.root) for part in pack.parts):
        return False
    return pack.without_shared_roots().tokens > ROOT_SHARING_PAYS_FROM * pack.tokens


class PackedEngine(BaseEngine):
    """Shares each group's prefix and packs documents.

    Args:
        parts: Model (loaded with the packed attention), prompts, head and settings.
        token_budget: Most tokens in a row, 0 to choose it from free memory. Out of memory halves it for good.
        kernel: Variable-length kernel (`varlen.choose_kernel`), or None to go by segment.

    Raises:
        EngineError: The budget is negative.
    """

    def __init__(self, parts: EngineParts, token_budget: int = 0, kernel: str | None = None) -> None:
        super().__init__(parts)
        if token_budget < 0:
            raise EngineError(f"token_budget must be at least 1, or 0 to choose it, not {token_budget}")
        lastlayer.install(self._model)
        self._device: torch.device = self._model.device
        self._packer = Packer(token_budget or choose_budget(self._model, self._device))
        self._kernel = kernel
        if self._device.type == "cpu":
            keep_freed_memory()
        self._settings["token_budget"] = self._packer.token_budget
        self._settings["attention"] = kernel or "segments"

    @property
    def token_budget(self) -> int:
        """Most tokens in a row at present."""
        return self._packer.token_budget

    def compile_layers(self, *, required: bool) -> None:
        """Fuse the elementwise work of all layers but the last with torch.compile, and try it on two rows.

        The last layer works on rows of two lengths and stays as it is. Lengths are dynamic, so nothing is compiled
        again for another pack; attention is an operator that the compiler does not look into.

        Args:
            required: Raise where it fails; else warn and go on without.

        Raises:
            EngineError: The compiler fails and it is required.
        """
        base: Any = self._model.model
        kernel = self._kernel
        if kernel is None and self._device.type == "cpu":
            self._kernel = "cpu_flash"  # by segment, attention is Python that the compiler would trace into
        elif kernel is None:
            logger.warning("layers are not compiled: attention by segment cannot be")
            return
        for layer in base.layers[:-1]:
            layer.compile(dynamic=True)
        try:
            with torch.inference_mode():
                for tokens in (ROW_MULTIPLE, 3 * ROW_MULTIPLE):
                    run_row(self._model, [0] * tokens, PackLayout.single(16, [tokens - 16]), self._kernel)
        except Exception as error:  # the compiler's errors have no common base
            for layer in base.layers[:-1]:
                layer._compiled_call_impl = None  # what Module.compile sets, and offers no way to take back
            self._kernel = kernel
            if required:
                raise EngineError(f"torch.compile fails here: {type(error).__name__}: {error}") from error
            logger.warning("layers are not compiled, which is slower: %s: %s", type(error).__name__, error)
            return
        self._settings["compiled"] = 1
        self._settings["attention"] = str(self._kernel)

    def _tokenize(self, group: QueryGroup) -> TokenizedGroup:
        return self._prompts.factored(group)

    def _tokenize_ahead(self) -> bool:
        return self._device.type == "cuda"

    def _stream(self, prompts: Iterable[TokenizedGroup]) -> Iterator[Finished]:
        depth = IN_FLIGHT if self._device.type == "cuda" else 0
        collector, sent = _Collector(), deque[_Sent]()
        packer = self._packer
        packer.flush()  # what an abandoned stream left open
        for number, group in enumerate(prompts):
            collector.expect(number, group)
            for pack in packer.add(number, group):
                sent.extend(self._send(pack))
                while len(sent) > depth:
                    collector.put(sent.popleft())
                    yield from collector.finished()
        last = packer.flush()
        if last.parts:
            sent.extend(self._send(last))
        while sent:
            collector.put(sent.popleft())
            yield from collector.finished()

    def _send(self, pack: Pack) -> list[_Sent]:
        """Run a pack; where memory does not suffice, halve it and the budget until it does."""
        try:
            return [self._run_pack(pack)]
        except (RuntimeError, MemoryError) as error:
            halves = pack.halves()
            if not is_out_of_memory(error) or len(halves) == 1:
                raise
            self._packer.token_budget = max(1, min(self._packer.token_budget, pack.tokens) // 2)
            self._settings["token_budget"] = self._packer.token_budget
            logger.warning(
                "out of memory at %d tokens; token_budget is %d from now on", pack.tokens, self._packer.token_budget
            )
        # Outside the handler: the traceback would keep the failed pack's tensors alive.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return [done for half in halves for done in self._send(half)]

    def _run_pack(self, pack: Pack) -> _Sent:
        if self._kernel is not None and not _pays_to_share_roots(pack):
            pack = pack.without_shared_roots()
        layout = pack.layout(ROW_MULTIPLE if self._device.type == "cuda" else 1)
        with torch.inference_mode():
            hidden = run_row(self._model, pack.token_ids(layout.filler), layout, self._kernel)
            output = self._head.from_hidden(hidden).to_host()
        work = EngineStats(forwards=1, computed_tokens=layout.tokens, padding_tokens=layout.filler)
        return _Sent(pack, output, work)


__all__ = ["PackedEngine", "packed_last_hidden", "plan_packs", "run_row"]
