"""From last hidden states to margins and scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import FloatArray, MarginArray
from rerank_eval.engine.recipe import SoftmaxDtype

HeadName = Literal["float32", "faithful"]


@dataclass(frozen=True)
class HeadOutput:
    """Three (n,) tensors on the CPU: margin float32, p_yes float64, score float64."""

    margin: torch.Tensor
    p_yes: torch.Tensor
    score: torch.Tensor


class Head:
    """The answer's head: logits of `yes` and `no` at the last position.

    Args:
        lm_head: The model's own head, tied to the embedding or not: its weight is read as it was loaded.
        yes_id: Token id of `yes`.
        no_id: Token id of `no`.
        name: `float32` takes the margin `h . (w_yes - w_no)` in float32: log_softmax over two logits is a sigmoid of
            their difference, so no other row is needed, and the margin keeps the order where logits in bfloat16 tie.
            `faithful` repeats the recipe's arithmetic: logits in the model's dtype, log_softmax of [no, yes], exp.
        softmax_dtype: Where `faithful` takes the softmax (the recipe's).

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
        """Score last hidden states.

        Args:
            hidden: (n, hidden_size) in the model's dtype, after the final norm.

        Returns:
            The output, on the CPU.
        """
        if self.name == "faithful":
            return self.from_logits(self._lm_head(hidden))
        # Product and sum rather than a matrix product: a row's sum cannot depend on how many rows there are.
        margin = (hidden.float() * self._direction).sum(dim=-1).cpu()
        return HeadOutput(margin, torch.sigmoid(margin.double()), margin.double())

    def from_logits(self, logits: torch.Tensor) -> HeadOutput:
        """Score full-vocabulary logits by the recipe's own arithmetic.

        Args:
            logits: (n, vocabulary) in the model's dtype.

        Returns:
            The output, on the CPU; the margin is the difference of the two logits, upcast before subtracting.
        """
        pair = logits[:, self._no_yes]
        margin = (pair[:, 1].float() - pair[:, 0].float()).cpu()
        if self._softmax_dtype == "float32":
            pair = pair.float()
        p_yes = torch.log_softmax(pair, dim=1)[:, 1].exp().double().cpu()
        return HeadOutput(margin, p_yes, p_yes)


def to_arrays(output: HeadOutput) -> tuple[FloatArray, MarginArray, FloatArray]:
    """Turn a head's output into NumPy arrays.

    Args:
        output: The output.

    Returns:
        score float64, margin float32, p_yes float64, each (n,).

    Raises:
        EngineError: A value is NaN or infinite, which would rank at random.
    """
    bad = int((~torch.isfinite(output.margin)).sum())
    if bad:
        raise EngineError(
            f"{bad} of {len(output.margin)} margins are NaN or infinite: damaged weights, or float16 has overflowed "
            "(use bfloat16 or float32)"
        )
    score: FloatArray = output.score.numpy().astype(np.float64)
    margin: MarginArray = output.margin.numpy().astype(np.float32)
    p_yes: FloatArray = output.p_yes.numpy().astype(np.float64)
    return score, margin, p_yes
