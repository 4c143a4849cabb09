"""From last hidden states to margins and scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import FloatArray
from rerank_eval.engine.recipe import SoftmaxDtype

HeadName = Literal["float32", "recipe_softmax"]


@dataclass(frozen=True)
class HeadOutput:
    """What the head says of n documents.

    Attributes:
        margin: (n,) float32, log-odds.
        p_yes: (n,) in the dtype of the recipe's softmax, or None where it is the margin's sigmoid and the margin ranks.
        ready: Event after which the copies on the host may be read; None where nothing has to be waited for.
    """

    margin: torch.Tensor
    p_yes: torch.Tensor | None = None
    ready: torch.cuda.Event | None = None

    def to_host(self) -> HeadOutput:
        """Start copying to the host, without waiting for a GPU."""
        if self.margin.device.type != "cuda":
            return HeadOutput(self.margin.cpu(), None if self.p_yes is None else self.p_yes.cpu())
        copies = [None if tensor is None else _pinned_copy(tensor) for tensor in (self.margin, self.p_yes)]
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()
        assert copies[0] is not None  # noqa: S101 - there is always a margin
        return HeadOutput(copies[0], copies[1], ready)

    def arrays(self) -> tuple[FloatArray, FloatArray]:
        """Wait for the copies; return scores and margins, float64, each (n,). Margins are float32 numbers."""
        if self.ready is not None:
            self.ready.synchronize()
        margins: FloatArray = self.margin.cpu().float().double().numpy()
        return margins if self.p_yes is None else self.p_yes.cpu().double().numpy(), margins


def _pinned_copy(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


class Head:
    """The answer's head, of the model's own `lm_head`, tied or not: logits of `yes` and `no` at the last position.

    `float32` takes the margin `h . (w_yes - w_no)` in float32: log_softmax over two logits is a sigmoid of their
    difference, so no other row is needed, and the margin keeps the order where logits in bfloat16 tie. `recipe_softmax`
    repeats the recipe's arithmetic: logits in the model's dtype, log_softmax of [no, yes] in `softmax_dtype`, exp.

    Raises:
        EngineError: The name is unknown.
    """

    def __init__(
        self, lm_head: torch.nn.Linear, yes_id: int, no_id: int, name: HeadName, softmax_dtype: SoftmaxDtype
    ) -> None:
        if name not in get_args(HeadName):
            raise EngineError(f"unknown head {name!r}; valid: {', '.join(get_args(HeadName))}")
        self.name = name
        self._lm_head = lm_head
        self._no_yes = [no_id, yes_id]
        self._softmax_dtype = softmax_dtype
        weight = lm_head.weight.detach()
        self._direction = weight[yes_id].float() - weight[no_id].float()

    def from_hidden(self, hidden: torch.Tensor) -> HeadOutput:
        """Score last hidden states, (n, hidden_size) in the model's dtype, after the final norm."""
        if self.name == "recipe_softmax":
            return self.from_logits(self._lm_head(hidden))
        # Product and sum rather than a matrix product: a row's sum cannot depend on how many rows there are.
        return HeadOutput((hidden.float() * self._direction).sum(dim=-1))

    def from_logits(self, logits: torch.Tensor) -> HeadOutput:
        """Score full-vocabulary logits, (n, vocabulary) in the model's dtype, by the recipe's own arithmetic.

        The margin is the difference of the two logits, upcast before subtracting.
        """
        pair = logits[:, self._no_yes]
        margin = pair[:, 1].float() - pair[:, 0].float()
        if self._softmax_dtype == "float32":
            pair = pair.float()
        return HeadOutput(margin, torch.log_softmax(pair, dim=1)[:, 1].exp())
