"""Cross-encoders with a sequence-classification head: a stream of query groups in, logits out, in order."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from rerank_eval.engine.base import BaseEngine, RunningGroup, finished
from rerank_eval.engine.bidirectional import ATTENTION_NAME
from rerank_eval.engine.encoders import (
    BatchOutput,
    Forward,
    Network,
    PackedForward,
    PaddedForward,
    Pair,
    reads_first_token,
)
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import EngineStats, QueryGroup
from rerank_eval.engine.memory import choose_budget, is_out_of_memory, keep_freed_memory
from rerank_eval.engine.pair_batches import Batcher, GivenBatcher, RowBatcher, SortedBatcher
from rerank_eval.engine.pairs import PairTokenizer, PromptPairs, TokenizedPairs
from rerank_eval.engine.recipe import Recipe
from rerank_eval.engine.runner import choose_attention
from rerank_eval.engine.special_tokens import SpecialTokenMode

logger = logging.getLogger(__name__)

Way = Literal["packed", "padded", "one by one", "reference"]

PADDED_BUDGET = 32_768
"""Tokens in a padded batch on a GPU unless told otherwise. Not chosen from free memory: what a batch is made of moves
the last bits of its scores, and two runs should make the same batches."""


class PairClassifier(BaseEngine[TokenizedPairs]):
    """Scores query groups with a sequence classifier of one label, or an encoder with such a head; an `Engine`.

    The score is the logit, not its sigmoid: a sigmoid saturates, and what saturates ties.

    How pairs go through the model, `way`: `packed` where the model was loaded with the attention of `bidirectional`;
    else `padded` batches, sorted by length over a window of queries, on a GPU or where a budget is given, and `one by
    one` on a CPU, so that a pair's bits depend on nothing else; `reference` is the plain padded code, where a
    `batch_size` is given. For `token_budget` and `kernel` see `runner`. A `prompt` stands before every query;
    a `recipe` writes query and document into one text instead (`PromptPairs`).

    Raises:
        EngineError: A setting does not fit, or the tokenizer is none that can be used.
    """

    causal = False

    def __init__(
        self,
        network: Network,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        token_budget: int = 0,
        batch_size: int = 0,
        kernel: str = "auto",
        special_tokens: SpecialTokenMode = "keep",
        prompt: str = "",
        recipe: Recipe | None = None,
    ) -> None:
        if token_budget < 0 or batch_size < 0:
            raise EngineError(f"token_budget {token_budget} and batch_size {batch_size} must not be negative")
        device = network.device
        if recipe is not None and prompt:
            raise EngineError(
                f"recipe {recipe.name!r} says the whole prompt, and {prompt[:40]!r} would stand before it"
            )
        self._pairs = (
            PairTokenizer(tokenizer, max_length, special_tokens, prompt)
            if recipe is None
            else PromptPairs(tokenizer, recipe, max_length, special_tokens)
        )
        super().__init__(self._pairs, ahead=device.type == "cuda")
        self._network = network
        self.max_length = max_length
        self._texts = {"query_prompt": prompt} if prompt else {"recipe": recipe.name} if recipe is not None else {}
        self.way: Way
        self._forward: Forward
        self._batcher: Batcher
        if network.config._attn_implementation == ATTENTION_NAME:
            self.way = "packed"
            self._forward = PackedForward(network, choose_attention(kernel, network))
            self._batcher = RowBatcher(token_budget or choose_budget(network, device))
        else:
            left = tokenizer.padding_side == "left" and not reads_first_token(network)
            self._forward = PaddedForward(network, tokenizer.pad_token_id or 0, left=left)
            self.way, self._batcher = _padded_way(device, token_budget, batch_size)
        if device.type == "cpu":
            keep_freed_memory()

    @property
    def settings(self) -> Mapping[str, str | int]:
        """Effective settings: limit, way, the budget at present, and what is put around or before the texts, if any."""
        budget = self._batcher.token_budget
        return {"max_length": self.max_length, "way": self.way, "token_budget": budget, **self._texts}

    def _tokenize(self, group: QueryGroup) -> TokenizedPairs:
        return self._pairs.pairs(group)

    def _stream(self, prompts: Iterable[TokenizedPairs]) -> Iterator[RunningGroup[TokenizedPairs]]:
        deque(self._batcher.flush(), maxlen=0)  # what an abandoned stream left open
        running: dict[int, RunningGroup[TokenizedPairs]] = {}
        for number, pairs in enumerate(prompts):
            running[number] = RunningGroup.of(pairs)
            types = pairs.types or [[]] * len(pairs.ids)
            members = [Pair(number, i, ids, types[i]) for i, ids in enumerate(pairs.ids)]
            for batch in self._batcher.add(members):
                self._run(batch, running)
            yield from finished(running)
        for batch in self._batcher.flush():
            self._run(batch, running)
            yield from finished(running)

    def _run(self, batch: list[Pair], running: Mapping[int, RunningGroup[TokenizedPairs]]) -> None:
        """Run a batch and put its logits where they belong; where memory does not suffice, run it in halves."""
        ran = self._try(batch)
        if ran is None:
            middle = len(batch) // 2
            self._run(batch[:middle], running)
            self._run(batch[middle:], running)
            return
        logits = ran.logits.double().numpy()
        for row, pair in enumerate(batch):
            running[pair.group].put([pair.index], logits[row], logits[row])
        # A batch's work is counted with one of its groups, so that the sum over groups is right.
        running[batch[0].group].work += EngineStats(
            forwards=1, computed_tokens=ran.computed, padding_tokens=ran.padding
        )

    def _try(self, batch: list[Pair]) -> BatchOutput | None:
        try:
            return self._forward(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
        # Outside the handler: the traceback would keep the failed batch's tensors alive.
        tokens = len(batch) * max(len(pair.ids) for pair in batch)
        self._batcher.token_budget = max(1, min(self._batcher.token_budget or tokens, tokens) // 2)
        logger.warning("out of memory at %d tokens; token_budget is %d from now on", tokens, self._batcher.token_budget)
        if self._network.device.type == "cuda":
            torch.cuda.empty_cache()
        return None


def _padded_way(device: torch.device, token_budget: int, batch_size: int) -> tuple[Way, Batcher]:
    if batch_size:
        return "reference", GivenBatcher(batch_size)
    if device.type == "cpu" and not token_budget:
        return "one by one", RowBatcher(1)
    return "padded", SortedBatcher(token_budget or PADDED_BUDGET)
