"""Linear probes of what a network has to know before it can follow an instruction, trained along, then left behind.

An instruction moves a document when two things are both known: what the instruction wants, and what the document is.
Either alone moves nothing, so from margins alone a small network learns neither for thousands of steps. The probes ask
for each by itself, before the last layer, which has to bring them together. They are no part of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, rms_norm

from rerank_demo.wordings import PHRASES, Clause, kind_of, opposite
from rerank_eval.tasks.embedded.rules import RULES
from rerank_eval.tasks.embedded.stdlib import Function

KEYS = tuple(PHRASES)
"""Restrictions that an instruction may have; packages count alike."""
RESTRICTIONS = 2 * len(KEYS) + 2
_RULES = {rule.key: rule for rule in RULES}
PROPERTIES = tuple(key for place, key in enumerate(KEYS) if key in _RULES and opposite(key) not in KEYS[:place])
"""Restrictions that a document meets or not, one of each two opposites."""


def restrictions(keys: Sequence[str], clauses: Sequence[Clause]) -> NDArray[np.float32]:
    """Say what an instruction wants, and how it says so.

    Args:
        keys: Its restrictions.
        clauses: Its sentences.

    Returns:
        (RESTRICTIONS,) 0 or 1: restrictions, then what is named, then whether anything is wanted, and unwanted.
    """
    kinds, spoken = {kind_of(key) for key in keys}, {kind_of(one.named) for one in clauses}
    ways = {one.wanted for one in clauses}
    told = [*(key in kinds for key in KEYS), *(key in spoken for key in KEYS), True in ways, False in ways]
    return np.array(told, dtype=np.float32)


def sentences(clauses: Sequence[Clause]) -> NDArray[np.float32]:
    """Say what each sentence of an instruction wants, and how it says so, (clauses, RESTRICTIONS) 0 or 1."""
    told = [restrictions([one.key], [one]) for one in clauses]
    return np.stack(told) if told else np.zeros((0, RESTRICTIONS), dtype=np.float32)


def properties(functions: Sequence[Function]) -> NDArray[np.float32]:
    """Say what each document is, (functions, PROPERTIES) 0 or 1."""
    return np.array([[_RULES[key].holds(one) for key in PROPERTIES] for one in functions], dtype=np.float32)


@dataclass(frozen=True)
class States:
    """What a network holds about a batch before its last layer.

    Attributes:
        early: (instructions, hidden) two layers before the end, where the instructions are known.
        late: (instructions, hidden) the same one layer before the end.
        documents: (documents, hidden) the documents' last tokens one layer before the end.
        clauses: (clauses, hidden) the ends of the instructions' sentences, two layers before the end.
    """

    early: torch.Tensor
    late: torch.Tensor
    documents: torch.Tensor
    clauses: torch.Tensor


class Probes(nn.Module):
    """Linear probes, of zeros at first.

    "Ignore methods" wants functions: what is named and how it is named say nothing apart, and have to be known a layer
    before what is wanted. And of several sentences each has to be known by itself: all that is named and all the ways
    it is named in do not tell what belongs to what.

    Args:
        hidden: Width of the network.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.named = nn.Linear(hidden, RESTRICTIONS - len(KEYS))
        self.wanted = nn.Linear(hidden, len(KEYS))
        self.met = nn.Linear(hidden, len(PROPERTIES))
        self.clauses = nn.Linear(hidden, RESTRICTIONS)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def loss(
        self, states: States, told: torch.Tensor, met: torch.Tensor, said: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Ask all.

        Args:
            states: What is asked about.
            told: (instructions, RESTRICTIONS) what the instructions want, and how they say so.
            met: (documents, PROPERTIES) what the documents are.
            said: (clauses, RESTRICTIONS) what the instructions' sentences want, and how they say so.

        Returns:
            The sum of the binary cross-entropies; and `named`, `read` and `said`, the shares of instructions of which
            all that is named and all that is wanted is told, and of sentences of which both is, and `seen`, that of
            properties that are told.
        """
        wanted, named = told[:, : len(KEYS)], told[:, len(KEYS) :]
        asked = {
            "named": (self.named(_normed(states.early)), named),
            "read": (self.wanted(_normed(states.late)), wanted),
            "seen": (self.met(_normed(states.documents)), met),
        }
        if len(said):
            asked["said"] = (self.clauses(_normed(states.clauses)), said)
        loss = torch.stack([binary_cross_entropy_with_logits(*one) for one in asked.values()]).sum()
        right = {key: (found > 0) == (true > 0) for key, (found, true) in asked.items()}
        shares = {key: float(right[key].all(dim=1).float().mean()) for key in asked if key != "seen"}
        return loss, {**shares, "seen": float(right["seen"].float().mean())}


def _normed(states: torch.Tensor) -> torch.Tensor:
    return rms_norm(states, (states.shape[-1],))
