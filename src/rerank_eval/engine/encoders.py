"""Forward passes of cross-encoders: packed for the architectures whose parts are known, padded for any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import torch
from transformers import PreTrainedModel

from rerank_eval.engine.bidirectional import ATTENTION_NAME, PairRow
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.layout import SMALLEST_PRODUCT
from rerank_eval.engine.memory import heads_of
from rerank_eval.engine.pair_heads import POOLINGS, EncoderWithHead, head_of
from rerank_eval.engine.runner import ROW_MULTIPLE
from rerank_eval.engine.window import choose_window_kernel


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

Network: TypeAlias = PreTrainedModel | EncoderWithHead
"""A sequence classifier of transformers, or an encoder with sentence-transformers' modules behind it."""

PACKABLE = ("bert", "gte", "modernbert", "roberta", "xlm-roberta")
"""Model types whose stock classes go through `PackedForward`."""

_FIRST_TOKEN = {*PACKABLE, "deberta", "deberta-v2"}
"""Model types whose stock classifiers read the first token, padding or not."""

_MOVING_ROPE = {"dynamic", "longrope"}
"""Kinds of rotary positions whose angles follow the longest pair of a batch."""


class PackedForward:
    """Pairs one after the other in a row, no padding; the head's last product in float32.

    On a CPU in float32 a pair's logit is the same to the last bit whatever stands beside it: attention runs pair by
    pair, every matrix product has at least `SMALLEST_PRODUCT` rows, and the last one, whose result is a single number,
    is a product and a sum. In half precision the last product in float32 keeps apart what would tie.

    The network is of a type in `PACKABLE` (`is_packable` tells), loaded with the attention of `bidirectional`.

    Raises:
        EngineError: The installed transformers does not say which layers are local.
    """

    def __init__(self, network: Network, kernel: str | None = None) -> None:
        config: Any = network.config
        if config._attn_implementation != ATTENTION_NAME:
            raise ValueError(f"the model was loaded with attention {config._attn_implementation!r}")
        self._network: Any = network
        # RoBERTa counts positions from the padding token's id on and skips padding.
        self._roberta = "roberta" in config.model_type
        self._takes_types = config.model_type not in {"modernbert", "llama"}
        self._pad = config.pad_token_id or 0
        self._kernel = kernel
        self._head = head_of(network)
        self._window = _window_of(self._network.base_model)
        self._local_kernel = None
        if self._window is not None:
            heads = heads_of(config)
            self._local_kernel = choose_window_kernel(kernel, network.device, network.dtype, heads, self._window)

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
        layout = PairRow.of(
            lengths + [filler] * bool(filler),
            self._kernel,
            device,
            window=self._window,
            local_kernel=self._local_kernel,
        )
        typed = {"token_type_ids": types[None]} if self._takes_types else {}
        with torch.inference_mode():
            output = self._network.base_model(
                input_ids=ids[None], position_ids=positions[None], pair_row=layout, **typed
            )
            pooled = POOLINGS[self._head.pooling](output.last_hidden_state[0], layout.bounds[: len(batch) + 1])
            logits = self._head(pooled).cpu()
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


def _window_of(base: Any) -> int | None:
    """Return the largest distance at which an encoder's local layers see a key; None where it has none."""
    width = getattr(base.config, "local_attention", None)
    if width is None:
        return None
    for layer, kind in zip(base.layers, base.config.layer_types, strict=True):
        if (getattr(layer.attn, "sliding_window", None) is not None) != (kind == "sliding_attention"):
            raise EngineError(
                "the installed transformers does not hand each layer's window to its attention; set engine to reference"
            )
    return int(width) // 2


class PaddedForward:
    """A batch padded to its longest pair, on the tokenizer's side, through the model's own forward and head."""

    def __init__(self, network: Network, pad_id: int, *, left: bool = False) -> None:
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


def is_packable(config: Any, network_class: Any) -> bool:
    """Tell whether `PackedForward` runs a class of transformers: a sequence classifier, or a base model for a head.

    Args:
        config: transformers' config of the model.
        network_class: The class that it will be loaded as.

    Returns:
        False where a pair's logit would not be what the class itself computes for the pair alone.
    """
    name = network_class.__name__
    if config.model_type not in PACKABLE or not name.endswith(("ForSequenceClassification", "Model")):
        return False
    if config.model_type == "modernbert":
        # Up to 5.0 transformers' ModernBERT has attention functions of its own, and takes no other.
        if not getattr(network_class, "_supports_attention_backend", False):
            return False
        if set(config.layer_types) - {"full_attention", "sliding_attention"}:
            return False
    return not _rope_kinds(config) & _MOVING_ROPE


def _rope_kinds(config: Any) -> set[str]:
    """Return the kinds of rotary positions that a config names: one, or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, Mapping):
        return set()
    named = [rope, *(one for one in rope.values() if isinstance(one, Mapping))]
    return {str(one.get("rope_type", one.get("type", "default"))) for one in named}


def reads_first_token(network: Network) -> bool:
    """Tell whether a network looks for a pair where its row begins, so that padding must stand behind it."""
    return isinstance(network, EncoderWithHead) or network.config.model_type in _FIRST_TOKEN
