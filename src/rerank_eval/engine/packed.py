"""The packed engine: a group's shared prefix once, its documents behind it in one row, no padding.

Packs are filled with whole groups up to the token budget; a group larger than the budget is split and its prefix
computed once in each part. A pair's float32 score on a CPU does not depend on any of this; tests hold it bit by bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from rerank_eval.engine.base import BaseEngine, EngineParts, FinishedGroup
from rerank_eval.engine.head import HeadOutput, to_arrays
from rerank_eval.engine.interface import EngineStats, QueryGroup
from rerank_eval.engine.packing import Pack
from rerank_eval.engine.prompts import TokenizedGroup
from rerank_eval.engine.runner import PackRunner

IN_FLIGHT = 2
"""Packs sent to a GPU before the first one's margins are waited for."""


_Sent = tuple[Pack, HeadOutput, EngineStats]
"""A pack whose margins are on their way, and what ran for it."""


@dataclass
class _Open:
    """A group whose margins are not all there: `outputs` joined are those of the documents in `order`."""

    prompts: TokenizedGroup
    outputs: list[HeadOutput] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    work: EngineStats = field(default_factory=EngineStats)


class PackedEngine(BaseEngine[TokenizedGroup]):
    """Shares each group's prefix and packs documents.

    Args:
        parts: Model (loaded with the packed attention), prompts, head and settings.
        token_budget: Most tokens in a row, 0 to choose it from free memory. Out of memory halves it for good.
        kernel: Variable-length kernel (`runner.choose_attention`), or None to go by segment.

    Raises:
        EngineError: The budget is negative.
    """

    def __init__(self, parts: EngineParts, token_budget: int = 0, kernel: str | None = None) -> None:
        self._runner = PackRunner(parts.model.model, token_budget, kernel)
        self._on_gpu = self._runner.device.type == "cuda"
        super().__init__(parts.prompts, ahead=self._on_gpu)
        self._prompts, self._head, self._settings = parts.prompts, parts.head, parts.settings

    @property
    def token_budget(self) -> int:
        """Most tokens in a row at present."""
        return self._runner.packer.token_budget

    @property
    def settings(self) -> Mapping[str, str | int]:
        """Effective settings."""
        return {**self._settings, **self._runner.settings}

    def compile_layers(self, *, required: bool) -> None:
        """Compile the layers, see `PackRunner.compile_layers`."""
        self._runner.compile_layers(required=required)

    def _tokenize(self, group: QueryGroup) -> TokenizedGroup:
        return self._prompts.factored(group)

    def _stream(self, prompts: Iterable[TokenizedGroup]) -> Iterator[FinishedGroup[TokenizedGroup]]:
        depth = IN_FLIGHT if self._on_gpu else 0
        waiting: dict[int, _Open] = {}
        sent = deque[_Sent]()
        packer = self._runner.packer
        packer.flush()  # what an abandoned stream left open
        for number, group in enumerate(prompts):
            waiting[number] = _Open(group)
            for pack in packer.add(number, group):
                sent.extend(self._send(pack))
                while len(sent) > depth:
                    yield from _finished(waiting, sent.popleft())
        last = packer.flush()
        if last.parts:
            sent.extend(self._send(last))
        while sent:
            yield from _finished(waiting, sent.popleft())

    def _send(self, pack: Pack) -> list[_Sent]:
        with torch.inference_mode():
            return [
                (ran.pack, self._head.from_hidden(ran.hidden).to_host(), ran.work) for ran in self._runner.run(pack)
            ]


def _finished(waiting: dict[int, _Open], sent: _Sent) -> Iterator[FinishedGroup[TokenizedGroup]]:
    """Put a pack's margins back to their groups; yield those that are complete, in order."""
    pack, output, work = sent
    start = 0
    for part in pack.parts:
        end = start + len(part.documents)
        waiting[part.number].outputs.append(output.rows(start, end))
        waiting[part.number].order.extend(part.documents)
        start = end
    # A pack's work is counted with its first group, so that the sum over groups is right.
    waiting[pack.parts[0].number].work += work
    while waiting:
        first = next(iter(waiting.values()))
        if len(first.order) < len(first.prompts.own):
            return
        del waiting[next(iter(waiting))]
        order = torch.argsort(torch.tensor(first.order))
        yield FinishedGroup(first.prompts, *to_arrays(HeadOutput.joined(first.outputs).reordered(order)), first.work)
