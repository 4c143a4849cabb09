"""The training loop: steps, loss, averaged weights, checkpoints that a later process takes up."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, softplus
from transformers import Qwen3ForCausalLM

from rerank_demo.batches import Batches, Group, relevance
from rerank_demo.network import Outputs, forward, lay_out
from rerank_demo.probes import Probes
from rerank_eval.errors import DataError


@dataclass(frozen=True)
class RunPlan:
    """How the weights move.

    Attributes:
        learning_rate: Of the layers' matrices.
        embedding_rate: Of the embeddings.
        warmup: Steps over which the rates grow.
        decay_from: Step from which the rates fall to zero, linearly; None for never (warm-up, stable, decay: a later
            session goes on from the stable part).
        decay_steps: Over how many steps.
        weight_decay: Of the matrices.
        clip: Largest norm of a gradient.
        average: Decay of the weights' running average, which is what is evaluated and exported.
        pointwise: Weight of the binary cross-entropy, which gives P(yes) a meaning.
        contrast: Weight of what two instructions do to the same documents: those that one wants and the other excludes
            have to move. In the cross-entropy of either alone the topic outweighs the instruction by far.
        probes: Weight of the probes' loss.
        buckets: Runs of like length in a row.
        teacher: Share of MiniLM's opinion in the wanted distribution.
        sharpness: Factor on MiniLM's cosines before their softmax; 20 is what it was trained with
            (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2).
        parts: Into how many parts a step's groups are divided. Parts run beside each other, a thread each, and their
            gradients are added in order: on a small network that does twice what two threads in one product do.
        compiled: Compile what lies between the products (needs a C++ compiler on a CPU).
    """

    learning_rate: float = 7e-4
    embedding_rate: float = 5e-4
    warmup: int = 200
    decay_from: int | None = None
    decay_steps: int = 1000
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.998
    pointwise: float = 0.1
    contrast: float = 1.0
    probes: float = 1.0
    buckets: int = 3
    teacher: float = 0.3
    sharpness: float = 20.0
    parts: int = 2
    compiled: bool = True

    def rate(self, step: int) -> float:
        """Return the factor on the rates at a step."""
        factor = min(1.0, (step + 1) / max(1, self.warmup))
        if self.decay_from is not None and step >= self.decay_from:
            factor *= max(0.0, 1.0 - (step - self.decay_from) / self.decay_steps)
        return factor


class Run:
    """A training run.

    Args:
        model: The network, initialised; trained in place.
        batches: The steps' groups.
        plan: How the weights move.
        answers: Token ids of `yes` and `no`.
        bfloat16: Take products in bfloat16.
    """

    def __init__(
        self,
        model: Qwen3ForCausalLM,
        batches: Batches,
        plan: RunPlan,
        answers: tuple[int, int],
        *,
        bfloat16: bool = True,
    ) -> None:
        self.model = model
        self.plan = plan
        self.step = 0
        self.seconds = 0.0
        self._warm = False
        self._batches = batches
        self._answers = answers
        self._dtype = torch.bfloat16 if bfloat16 else torch.float32
        self._device = model.model.embed_tokens.weight.device
        threads = plan.parts if self._device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(threads, initializer=_one_thread) if threads > 1 else None
        self.probes = Probes(model.config.hidden_size).to(self._device)
        self._moved = [*model.parameters(), *self.probes.parameters()]
        self._average = {name: value.detach().clone() for name, value in model.named_parameters()}
        embedding = model.model.embed_tokens.weight
        others = [one for one in model.parameters() if one is not embedding]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [embedding], "lr": plan.embedding_rate, "weight_decay": 0.0},
                {"params": [one for one in others if one.dim() > 1], "lr": plan.learning_rate},
                {"params": [one for one in others if one.dim() == 1], "lr": plan.learning_rate, "weight_decay": 0.0},
                {"params": list(self.probes.parameters()), "lr": plan.learning_rate, "weight_decay": 0.0},
            ],
            weight_decay=plan.weight_decay,
            betas=(0.9, 0.98),
            fused=True,
        )
        self._rates = [float(group["lr"]) for group in self._optimizer.param_groups]

    def train_step(self) -> dict[str, float]:
        """Take one step.

        Returns:
            The loss and what `group_loss` tells of a step besides.
        """
        begun = time.monotonic()
        groups = self._batches.step(self.step)
        told = self._backward(groups, self._batches.alone(self.step) if self.plan.probes else [])
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip)
        factor = self.plan.rate(self.step)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._follow()
        self.step += 1
        self.seconds += time.monotonic() - begun
        return told

    def _backward(self, groups: Sequence[Group], alone: Sequence[Group]) -> dict[str, float]:
        """Set the gradients; returns the loss and what else a step tells."""
        size = math.ceil(len(groups) / self.plan.parts / 2) * 2  # even, so that two instructions' groups stay together
        starts = range(0, len(groups), size)
        parts = [(groups[start : start + size], alone[place :: len(starts)]) for place, start in enumerate(starts)]
        if self._pool is None:
            done = [self._part(*part) for part in parts]
        elif not self._warm:  # a network's first pass compiles, which is no work for two threads at once
            done = [self._pool.submit(self._part, *part).result() for part in parts]
        else:
            done = list(self._pool.map(self._part, *zip(*parts, strict=True)))
        self._warm = True
        shares = [len(part) / len(groups) for part, _ in parts]
        for place, parameter in enumerate(self._moved):
            gradient = done[0][0][place] * shares[0]
            for (gradients, _), share in zip(done[1:], shares[1:], strict=True):
                gradient.add_(gradients[place], alpha=share)
            parameter.grad = gradient
        return _told([one[1] for one in done], shares)

    def _part(
        self, groups: Sequence[Group], alone: Sequence[Group]
    ) -> tuple[tuple[torch.Tensor, ...], dict[str, float]]:
        asking = self.plan.probes and any(group.properties is not None for group in groups)
        asked_alone = alone if asking else ()  # of no use where the probes are not asked
        row = lay_out([group.tokens for group in (*groups, *asked_alone)], self.plan.buckets).to(self._device)
        out = forward(self.model, row, *self._answers, dtype=self._dtype, compiled=self.plan.compiled)
        loss, told = group_loss(out.margins, groups, self.plan)
        if asking:
            asked, shares = self._asked(out, groups, alone)
            loss, told = loss + self.plan.probes * asked, told | shares
        gradients = torch.autograd.grad(loss, self._moved, allow_unused=True, materialize_grads=True)
        return gradients, {"loss": float(loss.detach()), **told}

    def _asked(
        self, out: Outputs, groups: Sequence[Group], alone: Sequence[Group]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Ask the probes about what is known of instructions and documents."""
        known = {n: group.restrictions for n, group in enumerate([*groups, *alone]) if group.restrictions is not None}
        met = {n: group.properties for n, group in enumerate(groups) if group.properties is not None}
        said = [group.clauses for group in (*groups, *alone) if group.clauses is not None]
        states = out.states
        documents = states.documents.view(len(groups), -1, states.documents.shape[-1])[list(met)].flatten(0, 1)
        return self.probes.loss(
            replace(states, early=states.early[list(known)], late=states.late[list(known)], documents=documents),
            torch.from_numpy(np.stack(list(known.values()))).to(self._device),
            torch.from_numpy(np.concatenate(list(met.values()))).to(self._device),
            torch.from_numpy(np.concatenate(said)).to(self._device),
        )

    def _follow(self) -> None:
        keep = min(self.plan.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                self._average[name].lerp_(value, 1.0 - keep)

    def averaged(self, use: Callable[[Qwen3ForCausalLM], Any]) -> Any:
        """Call a function with the model holding the averaged weights."""
        kept = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        try:
            self._put(self._average)
            return use(self.model)
        finally:
            self._put(kept)

    def _put(self, weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(weights[name])

    def save(self, path: Path) -> None:
        """Write all that a later process needs, whole or not at all."""
        temporary = path.with_suffix(".tmp")
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "model": {name: value.detach() for name, value in self.model.named_parameters()},
            "average": self._average,
            "probes": self.probes.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "plan": asdict(self.plan),
        }
        torch.save(state, temporary)
        temporary.rename(path)

    def load(self, path: Path) -> None:
        """Take up what `save` wrote; the plan stays this run's own.

        Raises:
            DataError: An earlier release wrote it.
        """
        state = torch.load(path, weights_only=True, map_location=self._device)
        if state.get("probes", {}).keys() != self.probes.state_dict().keys():
            raise DataError(f"{path}: an earlier release left this run; begin another with --run NAME")
        self.probes.load_state_dict(state["probes"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self._put(state["model"])
        self._average = state["average"]
        self._optimizer.load_state_dict(state["optimizer"])


def _told(parts: Sequence[dict[str, float]], shares: Sequence[float]) -> dict[str, float]:
    """Average what the parts of a step tell; not all tell all."""
    told = {}
    for key in {key: None for part in parts for key in part}:
        own = [(part[key], share) for part, share in zip(parts, shares, strict=True) if key in part]
        told[key] = sum(value * share for value, share in own) / sum(share for _, share in own)
    return told


def _one_thread() -> None:
    torch.set_num_threads(1)


def group_loss(scores: torch.Tensor, groups: Sequence[Group], plan: RunPlan) -> tuple[torch.Tensor, dict[str, float]]:
    """Compute the loss of a step.

    Args:
        scores: (documents,) margins, group by group.
        groups: The groups; all with the same number of documents.
        plan: Weights of the parts.

    Returns:
        Cross-entropy between each group's softmax and what is wanted (the relevant documents alike, mixed with the
        teacher's softmax where a group has one), plus binary cross-entropy, plus what parts two instructions; and
        `right`, the share of groups whose best document is relevant, and `moved`, the share of documents that two
        instructions part and the margins too, where there are such.
    """
    wanted = relevance(groups).to(scores.device)
    table = scores.view(wanted.shape)
    share = wanted / wanted.sum(dim=1, keepdim=True)
    for number, group in enumerate(groups):
        if plan.teacher and group.teacher is not None:
            opinion = torch.from_numpy(group.teacher).to(scores.device) * plan.sharpness
            share[number] = torch.lerp(share[number], opinion.softmax(dim=0), plan.teacher)
    loss = cross_entropy(table, share)
    if plan.pointwise:
        loss = loss + plan.pointwise * binary_cross_entropy_with_logits(table, wanted)
    told = {"right": float(wanted.gather(1, table.argmax(dim=1, keepdim=True)).mean())}
    if moves := _moves(table, wanted, groups):
        told["moved"] = float((torch.cat(moves) > 0).float().mean())
        if plan.contrast:
            parted = torch.stack([softplus(-one).mean() for one in moves]).sum()
            loss = loss + plan.contrast * parted * 2 / len(groups)
    return loss, told


def _moves(table: torch.Tensor, wanted: torch.Tensor, groups: Sequence[Group]) -> list[torch.Tensor]:
    """List how documents that two instructions part move between them, against all of their group: up is right.

    Args:
        table: (groups, documents) margins.
        wanted: (groups, documents) relevance.
        groups: The groups.
    """
    found = []
    for first in (number for number, group in enumerate(groups) if group.parted):
        moved = table[first] - table[first + 1]
        parts = wanted[first] - wanted[first + 1]
        found.append((parts * (moved - moved.mean()))[parts != 0])
    return found


def append_log(path: Path, row: dict[str, Any]) -> None:
    """Add a line to a .jsonl file."""
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a .jsonl file; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
