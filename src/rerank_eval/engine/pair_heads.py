"""From a pair's hidden states to its logit: the head of transformers' classifiers, or sentence-transformers' modules.

A head's products have at least `SMALLEST_PRODUCT` rows, and the last one, whose result is a single number, is a product
and a sum in float32: on a CPU in float32 a pair's logit then does not depend on the pairs beside it, and in half
precision it keeps apart what would tie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from rerank_eval.engine.layout import SMALLEST_PRODUCT

PoolingName = Literal["first", "mean", "last"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    one.__name__: one
    for one in (nn.ELU, nn.GELU, nn.Identity, nn.LeakyReLU, nn.Mish, nn.ReLU, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Tanh)
}
"""Activations of a head's layers by the name of PyTorch's class, each with that class's own defaults."""


_WHOLE_VECTORS = 64
"""Numbers that a CPU's activation works on in whole vectors. The last few of a tensor, fewer than two vectors (32
numbers with AVX-512), go through another function, whose last bits differ for GELU, SiLU and others."""


class PairHead(Protocol):
    """Turns pooled states into logits.

    Attributes:
        pooling: What of a pair's states it reads: the first token's, the last's, or the mean of all.
    """

    pooling: PoolingName

    def __call__(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return logits (n,) float32 of pooled states (n, hidden_size)."""
        ...


def first_states(states: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
    """Return the first token's state of each pair, (n, hidden_size); pair i has the rows `bounds[i]` to `[i + 1]`."""
    return states[torch.tensor(bounds[:-1], device=states.device)]


def last_states(states: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
    """Return the last token's state of each pair, see `first_states`."""
    return states[torch.tensor(bounds[1:], device=states.device) - 1]


def mean_states(states: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
    """Return the mean of each pair's states (tokens, hidden_size), (n, hidden_size) in their dtype.

    On a CPU rows are added one by one, in float64: a sum's order may depend on the number of threads. Elsewhere adding
    by index has no order at all, and the sum is taken in float32.
    """
    means = []
    for start, end in pairwise(bounds):
        rows = states[start:end]
        if states.device.type == "cpu":
            total = torch.zeros((1, rows.shape[1]), dtype=torch.float64)
            total.index_add_(0, torch.zeros(len(rows), dtype=torch.long), rows.double())
        else:
            total = rows.sum(dim=0, keepdim=True, dtype=torch.float32)
        means.append((total / len(rows)).to(states.dtype))
    return torch.cat(means)


POOLINGS: Mapping[PoolingName, Callable[[torch.Tensor, Sequence[int]], torch.Tensor]] = {
    "first": first_states,
    "mean": mean_states,
    "last": last_states,
}


class ClassifierHead:
    """The head of a stock classifier of transformers, of one of the types in `encoders.PACKABLE`."""

    pooling: PoolingName = "first"

    def __init__(self, network: PreTrainedModel) -> None:
        self._network: Any = network
        config: Any = network.config
        # RoBERTa's head has a layer of its own where BERT and Gte read the base model's pooler; ModernBERT's stands
        # between pooling and classifier.
        self._roberta = "roberta" in config.model_type
        self._modern = config.model_type == "modernbert"
        if self._modern:
            self.pooling = "mean" if config.classifier_pooling == "mean" else "first"
        head: Any = self._network.classifier
        last = head.out_proj if self._roberta else head
        self._weight, self._bias = last.weight[0].detach().float(), last.bias[0].detach().float()

    def __call__(self, pooled: torch.Tensor) -> torch.Tensor:
        """See `PairHead`."""
        count = len(pooled)
        rows = nn.functional.pad(pooled, (0, 0, 0, max(0, SMALLEST_PRODUCT - count)))
        if self._roberta:
            hidden = torch.tanh(self._network.classifier.dense(rows))
        elif self._modern:
            hidden = self._network.head(_with_filler(pooled))
        else:
            hidden = self._network.base_model.pooler(rows[:, None])
        logits: torch.Tensor = (hidden[:count].float() * self._weight).sum(dim=-1) + self._bias
        return logits


@dataclass(frozen=True)
class DenseLayer:
    """A linear layer and an activation of `ACTIVATIONS`; no bias where that is None."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    activation: str


@dataclass(frozen=True)
class NormLayer:
    """A layer norm with PyTorch's default epsilon, as sentence-transformers' LayerNorm has it."""

    weight: torch.Tensor
    bias: torch.Tensor


class ModuleHead(nn.Module):
    """sentence-transformers' modules behind an encoder, in float32 whatever the encoder's dtype.

    Attributes:
        width: Size of the states that it reads.

    Args:
        pooling: What of a pair's states they read.
        layers: The layers in order; the last is dense and has one output.
        temperature: Divides what the last layer gives, before its activation.
    """

    def __init__(
        self, pooling: PoolingName, layers: Sequence[DenseLayer | NormLayer], temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.width = layers[0].weight.shape[-1]
        last = layers[-1]
        if not isinstance(last, DenseLayer) or len(last.weight) != 1:
            raise ValueError("the last layer must be dense with one output")
        self.layers = nn.ModuleList([_module(layer) for layer in layers[:-1]])
        self.last = _dense(last)
        self.activation = ACTIVATIONS[last.activation]()
        self.temperature = temperature

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """See `PairHead`."""
        rows = _with_filler(pooled.float())
        for layer in self.layers:
            rows = layer(rows)
        logits = (rows[: len(pooled)] * self.last.weight[0]).sum(dim=-1)
        if self.last.bias is not None:
            logits = logits + self.last.bias[0]
        if self.temperature != 1:
            logits = logits / self.temperature
        wide = self.activation(logits[:, None].expand(-1, _WHOLE_VECTORS).contiguous())
        return cast("torch.Tensor", wide[:, 0])


def _with_filler(rows: torch.Tensor) -> torch.Tensor:
    """Add rows of zeros: enough for a product, and for the end of a tensor, see `_WHOLE_VECTORS`, to lie in them."""
    return nn.functional.pad(rows, (0, 0, 0, SMALLEST_PRODUCT))


def _dense(layer: DenseLayer) -> nn.Linear:
    outputs, inputs = layer.weight.shape
    linear = nn.Linear(inputs, outputs, bias=layer.bias is not None)
    linear.weight = nn.Parameter(layer.weight.float(), requires_grad=False)
    if layer.bias is not None:
        linear.bias = nn.Parameter(layer.bias.float(), requires_grad=False)
    return linear


def _module(layer: DenseLayer | NormLayer) -> nn.Module:
    if isinstance(layer, DenseLayer):
        return nn.Sequential(_dense(layer), ACTIVATIONS[layer.activation]())
    norm = nn.LayerNorm(len(layer.weight))
    norm.weight = nn.Parameter(layer.weight.float(), requires_grad=False)
    norm.bias = nn.Parameter(layer.bias.float(), requires_grad=False)
    return norm


@dataclass(frozen=True)
class PairLogits:
    """What `EncoderWithHead` returns: logits (batch, 1) float32, under the name that transformers' classifiers use."""

    logits: torch.Tensor


class EncoderWithHead(nn.Module):
    """An encoder with a head of modules, to be called as transformers' sequence classifiers are.

    Args:
        encoder: A base model.
        head: Its head.
        unmask: Whether the encoder is a decoder's base model, which would attend causally: it is then given its mask
            whole, (batch, 1, tokens, tokens), which transformers takes as it is.
    """

    def __init__(self, encoder: PreTrainedModel, head: ModuleHead, *, unmask: bool = False) -> None:
        super().__init__()
        self._unmask = unmask
        self.encoder = encoder
        self.head = head

    @property
    def base_model(self) -> PreTrainedModel:
        """The encoder."""
        return self.encoder

    @property
    def config(self) -> Any:
        """The encoder's config."""
        return self.encoder.config

    @property
    def device(self) -> torch.device:
        """The encoder's device."""
        return cast("torch.device", self.encoder.device)

    @property
    def dtype(self) -> torch.dtype:
        """The encoder's dtype."""
        return cast("torch.dtype", self.encoder.dtype)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **inputs: torch.Tensor) -> PairLogits:
        """Run padded pairs, (batch, tokens); padding stands behind them."""
        seen = attention_mask
        if self._unmask:
            seen = attention_mask.bool()[:, None, None, :].expand(-1, 1, attention_mask.shape[1], -1)
        output: Any = self.encoder(input_ids=input_ids, attention_mask=seen, **inputs)
        states, lengths = output.last_hidden_state, attention_mask.sum(dim=1).tolist()
        pool = POOLINGS[self.head.pooling]
        pooled = torch.cat([pool(rows, (0, length)) for rows, length in zip(states, lengths, strict=True)])
        return PairLogits(self.head(pooled)[:, None])


def head_of(network: PreTrainedModel | EncoderWithHead) -> PairHead:
    """Return a network's head, for `encoders.PackedForward`."""
    return cast("PairHead", network.head) if isinstance(network, EncoderWithHead) else ClassifierHead(network)
