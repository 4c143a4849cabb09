"""The reference engine: the recipe's plain padded code, unsorted and unshared.

It is the parity oracle, the benchmark's baseline, and what a sceptical user switches to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from rerank_eval.engine.base import EngineParts, PromptEngine, RunningGroup
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.head import HeadOutput
from rerank_eval.engine.interface import EngineStats, QueryGroup
from rerank_eval.engine.prompts import TokenizedGroup


class ReferenceEngine(PromptEngine):
    """Tokenises each prompt whole, pads on the left to the batch's longest, reads the last position.

    The model has a stock attention; `batch_size` prompts are taken in the given order.

    Raises:
        EngineError: The batch size is below 1.
    """

    def __init__(self, parts: EngineParts, batch_size: int = 16) -> None:
        super().__init__(parts)
        self._model, self._pad_id = parts.model, parts.pad_id
        self.settings = dict(parts.settings)
        self._linear = parts.linear
        if batch_size < 1:
            raise EngineError(f"batch_size must be at least 1, not {batch_size}")
        self._batch_size = batch_size

    def _tokenize(self, group: QueryGroup) -> TokenizedGroup:
        return self._prompts.whole(group)

    def _stream(self, prompts: Iterable[TokenizedGroup]) -> Iterator[RunningGroup[TokenizedGroup]]:
        for prompt in prompts:
            group = RunningGroup.of(prompt)
            for start in range(0, group.missing, self._batch_size):
                batch = prompt.own[start : start + self._batch_size]
                with torch.inference_mode():
                    input_ids, attention_mask = self._pad_left(batch)
                    output = self._score_batch(input_ids, attention_mask)
                group.put(range(start, start + len(batch)), *output.arrays())
                computed = input_ids.numel()
                group.work += EngineStats(
                    forwards=1, computed_tokens=computed, padding_tokens=computed - sum(len(ids) for ids in batch)
                )
            yield group

    def _pad_left(self, batch: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask, both (batch, longest) int64 on the model's device."""
        longest = max(len(ids) for ids in batch)
        ids = torch.tensor([[self._pad_id] * (longest - len(ids)) + ids for ids in batch])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch])
        return ids.to(self._model.device), mask.to(self._model.device)

    def _score_batch(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> HeadOutput:
        if self._head.name == "recipe_softmax" or not self._linear:
            # The recipes' code computes logits at every position and reads the last; keeping the last only gives the
            # same value without a (batch, length, vocabulary) tensor.
            logits = self._model(input_ids=input_ids, attention_mask=attention_mask, logits_to_keep=1).logits
            found = self._head.from_logits(logits[:, -1, :])
            return found if self._head.name == "recipe_softmax" else HeadOutput(found.margin)
        output = self._model.base_model(input_ids=input_ids, attention_mask=attention_mask)
        return self._head.from_hidden(output.last_hidden_state[:, -1, :])
