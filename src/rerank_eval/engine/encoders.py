"""Forward passes of cross-encoders: packed for the architectures whose parts are known, padded for any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from rerank_eval.engine.bidirectional import ATTENTION_NAME, PairRow
from rerank_eval.engine.layout import SMALLEST_PRODUCT
from rerank_eval.engine.runner import ROW_MULTIPLE


@dataclass(frozen=True)
class Pair:
    """One pair on its way through a model, its group's and document's number; no `types` where the model takes none."""

    group: int
    index: int
    ids: list[int]
    types: list[int]


@dataclass(frozen=True)
class BatchOutput:
    """A batch's logits, (pairs,) float32 on the CPU, and the tokens computed, padding among them, and padded."""

    logits: torch.Tensor
    computed: int
    padding: int


Forward = Callable[[Sequence[Pair]], BatchOutput]
"""Runs a batch of at least one pair through a model."""

PACKABLE = ("bert", "gte", "roberta", "xlm-roberta")
"""Model types whose stock classes go through `PackedForward`."""


class PackedForward:
    """Pairs one after the other in a row, no padding; the head's last product in float32.

    On a CPU in float32 a pair's logit is the same to the last bit whatever stands beside it: attention runs pair by
    pair, every matrix product has at least `SMALLEST_PRODUCT` rows, and the last one, whose result is a single number,
    is a product and a sum. In half precision the last product in float32 keeps apart what would tie.

    The network is a stock classifier of one of the `PACKABLE` types, loaded with the attention of `bidirectional`.
    """

    def __init__(self, network: PreTrainedModel, kernel: str | None = None) -> None:
        config: Any = network.config
        if config._attn_implementation != ATTENTION_NAME:
            raise ValueError(f"the model was loaded with attention {config._attn_implementation!r}")
        self._network: Any = network
        # RoBERTa counts positions from the padding token's id on and skips padding; its head has a layer of its own
        # where the others read the base model's pooler.
        self._roberta = "roberta" in config.model_type
        self._pad = config.pad_token_id or 0
        self._kernel = kernel
        head: Any = network.classifier
        last = head.out_proj if self._roberta else head
        self._weight, self._bias = last.weight[0].detach().float(), last.bias[0].detach().float()

    def __call__(self, batch: Sequence[Pair]) -> BatchOutput:
        """Run a batch."""
        device = self._network.device
        lengths = [len(pair.ids) for pair in batch]
        tokens = sum(lengths)
        filler = self._filler(tokens)
        row = np.zeros((3, tokens + filler), dtype=np.int64)
        row[0, :tokens] = np.fromiter(chain.from_iterable(pair.ids for pair in batch), np.int64, tokens)
        row[1] = np.concatenate([self._positions(pair.ids) for pair in batch] + [self._positions([self._pad] * filler)])
        if batch[0].types:
            row[2, :tokens] = np.fromiter(chain.from_iterable(pair.types for pair in batch), np.int64, tokens)
        ids, positions, types = torch.from_numpy(row).to(device)
        layout = PairRow.of(lengths + [filler] * bool(filler), self._kernel, device)
        with torch.inference_mode():
            output = self._network.base_model(
                input_ids=ids[None], position_ids=positions[None], token_type_ids=types[None], pair_row=layout
            )
            first = output.last_hidden_state[0, torch.tensor(layout.bounds[: len(batch)], device=device)]
            logits = self._head(first).cpu()
        return BatchOutput(logits, tokens + filler, filler)

    def _filler(self, tokens: int) -> int:
        """Return how many tokens fill a row up, to a length that keeps its rows' arithmetic (`layout`, `runner`)."""
        if self._network.device.type == "cuda":
            return -tokens % ROW_MULTIPLE
        return max(0, SMALLEST_PRODUCT - tokens)

    def _positions(self, ids: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
        if not self._roberta:
            return np.arange(len(ids))
        real = np.asarray(ids, dtype=np.int64) != self._pad
        positions: np.ndarray[Any, np.dtype[np.int64]] = np.cumsum(real) * real + self._pad
        return positions

    def _head(self, first: torch.Tensor) -> torch.Tensor:
        """Return logits (n,) float32 of the first tokens' states (n, hidden_size)."""
        count = len(first)
        missing = max(0, SMALLEST_PRODUCT - count)
        rows = torch.nn.functional.pad(first, (0, 0, 0, missing))
        if self._roberta:
            hidden = torch.tanh(self._network.classifier.dense(rows))
        else:
            hidden = self._network.base_model.pooler(rows[:, None])
        logits: torch.Tensor = (hidden[:count].float() * self._weight).sum(dim=-1) + self._bias
        return logits


class PaddedForward:
    """A batch padded to its longest pair, on the tokenizer's side, through the model's own forward and head."""

    def __init__(self, network: PreTrainedModel, pad_id: int, *, left: bool = False) -> None:
        self._network = network
        self._pad = pad_id
        self._left = left

    def __call__(self, batch: Sequence[Pair]) -> BatchOutput:
        """Run a batch."""
        longest = max(len(pair.ids) for pair in batch)
        inputs = {
            "input_ids": self._padded([pair.ids for pair in batch], longest, self._pad),
            "attention_mask": self._padded([[1] * len(pair.ids) for pair in batch], longest, 0),
        }
        if batch[0].types:
            inputs["token_type_ids"] = self._padded([pair.types for pair in batch], longest, 0)
        with torch.inference_mode():
            logits = self._network(**inputs).logits.reshape(len(batch)).float().cpu()
        computed = longest * len(batch)
        return BatchOutput(logits, computed, computed - sum(len(pair.ids) for pair in batch))

    def _padded(self, rows: Sequence[Sequence[int]], longest: int, filler: int) -> torch.Tensor:
        """Return (rows, longest) int64 on the model's device."""
        blanks = [[filler] * (longest - len(row)) for row in rows]
        padded = [[*b, *row] if self._left else [*row, *b] for row, b in zip(rows, blanks, strict=True)]
        return torch.tensor(padded, device=self._network.device)


def is_packable(model_type: str, class_name: str) -> bool:
    """Tell whether `PackedForward` runs a class of transformers, by its config's `model_type`."""
    return model_type in PACKABLE and class_name.endswith("ForSequenceClassification")
