"""The packed engine: a group's shared prefix once, its documents behind it in one row, no padding.

A pack never spans two queries, so a pair's score depends on its own group and on the fixed token budget alone,
whatever else is scored before, after or elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from rerank_eval.engine.attention import PackLayout
from rerank_eval.engine.base import BaseEngine, EngineParts
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.head import HeadOutput
from rerank_eval.engine.interface import EngineStats, QueryGroup
from rerank_eval.engine.prompts import TokenizedGroup

DEFAULT_TOKEN_BUDGET = 16_384
"""Tokens of a row: about 100 short passages behind their query, or two documents of 8,000 tokens."""


def plan_packs(prefix: int, lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Distribute documents over packs, longest first.

    Args:
        prefix: Tokens of the shared prefix, which every pack holds once.
        lengths: Own tokens of each document.
        token_budget: Most tokens in a row. A document that exceeds it even alone gets a pack of its own.

    Returns:
        For each pack the documents' indices, in the order of the row.
    """
    packs: list[list[int]] = []
    filled = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not packs or filled + lengths[index] > token_budget:
            packs.append([])
            filled = prefix
        packs[-1].append(index)
        filled += lengths[index]
    return packs


def packed_last_hidden(model: PreTrainedModel, shared: Sequence[int], own: Sequence[Sequence[int]]) -> torch.Tensor:
    """Run one pack and gather each document's last hidden state.

    Args:
        model: A causal language model loaded with the packed attention (`attention.register`).
        shared: Ids of the shared prefix; may be empty, then each document stands alone (as a text to embed does).
        own: Ids of each document, none of them empty.

    Returns:
        (n, hidden_size) in the model's dtype, after the final norm, on the model's device.
    """
    layout = PackLayout(len(shared), tuple(len(ids) for ids in own))
    row = list(shared)
    for ids in own:
        row.extend(ids)
    output = model.model(
        input_ids=torch.tensor([row], device=model.device),
        position_ids=torch.tensor([layout.position_ids], device=model.device),
        use_cache=False,
        pack_layout=layout,
    )
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden[torch.tensor(layout.last_positions, device=hidden.device)]


class PackedEngine(BaseEngine):
    """Shares each group's prefix and packs its documents.

    Args:
        parts: Model (loaded with the packed attention), prompts, head and settings.
        token_budget: Most tokens in a row; a larger group splits, and computes its prefix once for each part.

    Raises:
        EngineError: The budget is below 1.
    """

    def __init__(self, parts: EngineParts, token_budget: int = DEFAULT_TOKEN_BUDGET) -> None:
        super().__init__(parts)
        if token_budget < 1:
            raise EngineError(f"token_budget must be at least 1, not {token_budget}")
        self._token_budget = token_budget

    def _tokenize(self, group: QueryGroup) -> TokenizedGroup:
        return self._prompts.factored(group)

    def _run(self, prompts: TokenizedGroup) -> tuple[HeadOutput, EngineStats]:
        prefix = len(prompts.shared)
        lengths = [len(ids) for ids in prompts.own]
        packs = plan_packs(prefix, lengths, self._token_budget)
        hidden = torch.cat(
            [packed_last_hidden(self._model, prompts.shared, [prompts.own[i] for i in pack]) for pack in packs]
        )
        order = torch.tensor([index for pack in packs for index in pack], device=hidden.device)
        output = self._head.from_hidden(hidden[torch.argsort(order)])
        work = EngineStats(forwards=len(packs), computed_tokens=prefix * len(packs) + sum(lengths))
        return output, work
