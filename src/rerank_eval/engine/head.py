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
    """The answer's head: logits of the answers at the last position, from rows of the model's own output layer.

    `float32` takes the margin `h . (w_yes - w_no)` in float32: log_softmax over two logits is a sigmoid of their
    difference, so no other row is needed, and the margin keeps the order where logits in bfloat16 tie. Without a second
    answer the margin is the logit `h . w_yes`. `recipe_softmax` repeats the recipe's arithmetic: logits in the model's
    dtype, log_softmax of [no, yes] in `softmax_dtype`, exp; the sigmoid of a single logit.

    Args:
        layer: The output layer, tied or not: `lm_head`, or a classification head of one label.
        yes_id: Row of the answer that says relevant.
        no_id: Row of the answer that says irrelevant; None where there is none.
        name: `float32` or `recipe_softmax`.
        softmax_dtype: See `Recipe`.
        scale: Divides the margin before it becomes a probability.

    Raises:
        EngineError: The name is unknown, or the layer has no such row.
    """

    def __init__(
        self,
        layer: torch.nn.Linear,
        yes_id: int,
        no_id: int | None,
        name: HeadName,
        softmax_dtype: SoftmaxDtype,
        *,
        scale: float = 1.0,
    ) -> None:
        if name not in get_args(HeadName):
            raise EngineError(f"unknown head {name!r}; valid: {', '.join(get_args(HeadName))}")
        weight = layer.weight.detach()
        beyond = [one for one in (yes_id, no_id) if one is not None and not 0 <= one < len(weight)]
        if beyond:
            raise EngineError(f"the answer is token {beyond[0]}, and the model's output layer has {len(weight)} rows")
        self.name = name
        self._layer = layer
        self._answers = [yes_id] if no_id is None else [no_id, yes_id]
        self._softmax_dtype = softmax_dtype
        self._scale = scale
        yes = weight[yes_id].float()
        self._direction = yes if no_id is None else yes - weight[no_id].float()
        bias = None if layer.bias is None else layer.bias.detach().float()
        self._offset = None if bias is None else bias[yes_id] - (0 if no_id is None else bias[no_id])

    def from_hidden(self, hidden: torch.Tensor) -> HeadOutput:
        """Score last hidden states, (n, hidden_size) in the model's dtype, after the final norm."""
        if self.name == "recipe_softmax":
            return self.from_logits(self._layer(hidden))
        # Product and sum rather than a matrix product: a row's sum cannot depend on how many rows there are.
        margin = (hidden.float() * self._direction).sum(dim=-1)
        return HeadOutput(margin if self._offset is None else margin + self._offset)

    def from_logits(self, logits: torch.Tensor) -> HeadOutput:
        """Score full-vocabulary logits, (n, vocabulary) in the model's dtype, by the recipe's own arithmetic.

        The margin is the difference of the two logits, upcast before subtracting, or the only one.
        """
        found = logits[:, self._answers]
        margin = found[:, -1].float()
        if len(self._answers) > 1:
            margin = margin - found[:, 0].float()
        if self._softmax_dtype == "float32":
            found = found.float()
        if self._scale != 1:
            found = found / self._scale
        if len(self._answers) == 1:
            return HeadOutput(margin, torch.sigmoid(found[:, 0]))
        return HeadOutput(margin, torch.log_softmax(found, dim=1)[:, 1].exp())
