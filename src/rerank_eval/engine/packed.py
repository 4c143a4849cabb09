"""The packed engine: a group's shared prefix once, its documents behind it in one row, no padding.

Packs are filled with whole groups up to the token budget; a group larger than the budget is split and its prefix
computed once in each part. A pair's float32 score on a CPU does not depend on any of this; tests hold it bit by bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import torch

from rerank_eval.engine.base import EngineParts, PromptEngine, RunningGroup, finished
from rerank_eval.engine.head import HeadOutput
from rerank_eval.engine.interface import EngineStats, QueryGroup
from rerank_eval.engine.packing import Pack
from rerank_eval.engine.prompts import TokenizedGroup
from rerank_eval.engine.runner import PackRunner

IN_FLIGHT = 2
"""Packs sent to a GPU before the first one's margins are waited for."""


_Sent = tuple[Pack, HeadOutput, EngineStats]
"""A pack whose margins are on their way, and what ran for it."""


class PackedEngine(PromptEngine):
    """Shares each group's prefix and packs documents; for budget and kernel see `PackRunner`.

    Raises:
        EngineError: The budget is negative.
    """

    def __init__(self, parts: EngineParts, token_budget: int = 0, kernel: str | None = None) -> None:
        self._runner = PackRunner(parts.model.model, token_budget, kernel)
        self._on_gpu = self._runner.device.type == "cuda"
        super().__init__(parts, ahead=self._on_gpu)

    @property
    def token_budget(self) -> int:
        """Most tokens in a row at present."""
        return self._runner.packer.token_budget

    @property
    def settings(self) -> Mapping[str, str | int]:
        """Effective settings."""
        return {**self.parts.settings, **self._runner.settings}

    def compile_layers(self, *, required: bool) -> None:
        """Compile the layers, see `PackRunner.compile_layers`."""
        self._runner.compile_layers(required=required)

    def _tokenize(self, group: QueryGroup) -> TokenizedGroup:
        return self._prompts.factored(group)

    def _stream(self, prompts: Iterable[TokenizedGroup]) -> Iterator[RunningGroup[TokenizedGroup]]:
        depth = IN_FLIGHT if self._on_gpu else 0
        running: dict[int, RunningGroup[TokenizedGroup]] = {}
        sent = deque[_Sent]()
        packer = self._runner.packer
        packer.flush()  # what an abandoned stream left open
        for number, group in enumerate(prompts):
            running[number] = RunningGroup.of(group)
            for pack in packer.add(number, group):
                sent.extend(self._send(pack))
                while len(sent) > depth:
                    _put(running, sent.popleft())
                    yield from finished(running)
        last = packer.flush()
        if last.parts:
            sent.extend(self._send(last))
        while sent:
            _put(running, sent.popleft())
            yield from finished(running)

    def _send(self, pack: Pack) -> list[_Sent]:
        with torch.inference_mode():
            return [
                (ran.pack, self._head.from_hidden(ran.hidden).to_host(), ran.work) for ran in self._runner.run(pack)
            ]


def _put(running: dict[int, RunningGroup[TokenizedGroup]], sent: _Sent) -> None:
    """Put a pack's margins back to their groups."""
    pack, output, work = sent
    scores, margins = output.arrays()
    start = 0
    for part in pack.parts:
        rows = slice(start, start + len(part.documents))
        running[part.number].put(part.documents, scores[rows], margins[rows])
        start = rows.stop
    # A pack's work is counted with its first group, so that the sum over groups is right.
    running[pack.parts[0].number].work += work
