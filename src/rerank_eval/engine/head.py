"""From last hidden states to margins and scores."""

from __future__ import annotations

from collections.abc import Sequence
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

    def wait(self) -> HeadOutput:
        """Wait until the copies are there."""
        if self.ready is not None:
            self.ready.synchronize()
        return HeadOutput(self.margin, self.p_yes)

    def rows(self, start: int, end: int) -> HeadOutput:
        """Return some documents' part, once it is there."""
        there = self.wait()
        return HeadOutput(there.margin[start:end], None if there.p_yes is None else there.p_yes[start:end])

    def reordered(self, order: torch.Tensor) -> HeadOutput:
        """Return documents in another order, (n,) int64."""
        return HeadOutput(self.margin[order], None if self.p_yes is None else self.p_yes[order])

    @classmethod
    def joined(cls, outputs: Sequence[HeadOutput]) -> HeadOutput:
        """Join outputs on the host."""
        p_yes = [output.p_yes for output in outputs if output.p_yes is not None]
        return cls(torch.cat([output.margin for output in outputs]), torch.cat(p_yes) if p_yes else None)


def _pinned_copy(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


class Head:
    """The answer's head: logits of `yes` and `no` at the last position.

    Args:
        lm_head: The model's own head, tied to the embedding or not: its weight is read as it was loaded.
        yes_id: Token id of `yes`.
        no_id: Token id of `no`.
        name: `float32` takes the margin `h . (w_yes - w_no)` in float32: log_softmax over two logits is a sigmoid of
            their difference, so no other row is needed, and the margin keeps the order where logits in bfloat16 tie.
            `recipe_softmax` repeats the recipe's arithmetic: logits in the model's dtype, log_softmax of
            [no, yes], exp.
        softmax_dtype: Where `recipe_softmax` takes the softmax (the recipe's).

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


def to_arrays(output: HeadOutput) -> tuple[FloatArray, FloatArray]:
    """Wait for a head's output and return scores and margins, float64, each (n,); margins are float32 numbers.

    Raises:
        EngineError: A value is NaN or infinite, which would rank at random.
    """
    output = output.wait()
    bad = int((~torch.isfinite(output.margin)).sum())
    if bad:
        raise EngineError(
            f"{bad} of {len(output.margin)} margins are NaN or infinite: damaged weights, or float16 has overflowed "
            "(use bfloat16 or float32)"
        )
    margins: FloatArray = output.margin.cpu().float().double().numpy()
    scores: FloatArray = margins.copy() if output.p_yes is None else output.p_yes.cpu().double().numpy()
    return scores, margins
