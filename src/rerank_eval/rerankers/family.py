"""Families of rerankers: how a kind of model is checked, what changes its scores, and how it is loaded.

A family is a file in `families/`, or an object that an installed package declares as an entry point of the group
`rerank_eval.rerankers`. A package can declare a reranker there as well: a class with `score` or `predict`, which is
named as `reranker.model` and served by the family of Python objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine.interface import Engine
from rerank_eval.engine.recipe import Recipe
from rerank_eval.errors import ModelError
from rerank_eval.models.architectures import unknown_architecture
from rerank_eval.models.instruction_sets import InstructionSet, find_instruction_set
from rerank_eval.models.recipes import find_recipe
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.statements import refuse_encoders
from rerank_eval.registry import RERANKERS
from rerank_eval.rerankers.instructions import InstructionPolicy


@dataclass(frozen=True)
class Prompting:
    """What a config's names of recipe and instructions stand for.

    Attributes:
        recipe: The prompt recipe; None for the checkpoint's own, until a family has looked it up, and for models that
            read no prompt.
        instructions: The instruction set, or None where the setting names none.
    """

    recipe: Recipe | None
    instructions: InstructionSet | None = None

    @classmethod
    def of(cls, config: RerankerConfig, where: str = "reranker") -> Prompting:
        """Look a config's names up.

        Args:
            config: The reranker's section of the config.
            where: The section, for error messages; with the config's path where there is one.

        Raises:
            ConfigError: A name stands for nothing, or a file is malformed.
        """
        instructions = find_instruction_set(config.instruction, f"{where}.instruction")
        return cls(find_recipe(config.recipe, f"{where}.recipe"), instructions)


@dataclass(frozen=True)
class Prepared:
    """A reranker that was checked and can be loaded.

    Attributes:
        config: The reranker's section of the config.
        ref: The model, with notes on what the config decides otherwise than its files.
        prompting: Its recipe and instructions.
        policy: Chooses each query's instruction.
        identity: What of the settings can change a score, beside model, revision and instruction.
        causal: Whether a causal language model answers to a prompt.
        max_length: The longest prompt in tokens; None where nothing is cut.
        listwise: Whether a document's score depends on the whole list and its order, so that `reranker.listwise` means
            something; its engine has an attribute `listwise`, which is true.
    """

    config: RerankerConfig
    ref: ModelRef
    prompting: Prompting
    policy: InstructionPolicy
    identity: Mapping[str, Any] = field(default_factory=dict)
    causal: bool = False
    max_length: int | None = None
    listwise: bool = False

    @property
    def reads_prompt(self) -> bool:
        """Whether a recipe writes what the model reads; its name then stands in the identity."""
        return "recipe" in self.identity

    @property
    def recipe(self) -> Recipe:
        """The recipe of a model that reads a prompt."""
        assert self.prompting.recipe is not None  # noqa: S101 - a family that reads a prompt looks it up
        return self.prompting.recipe


class Family(Protocol):
    """A family of rerankers."""

    def serves(self, ref: ModelRef) -> bool:
        """Tell whether a model is of this family, by what its files say; `kind: auto` asks this."""
        ...

    def prepare(self, config: RerankerConfig, ref: ModelRef, prompting: Prompting) -> Prepared:
        """Hold the settings against the model's files, before anything is loaded.

        Raises:
            ModelError: What would be computed is not what the files say; one line that says what to set.
            OfflineError: A file has to come from the hub and the hub cannot be reached.
        """
        ...

    def load(self, prepared: Prepared, device: str) -> Engine:
        """Load the weights.

        Args:
            prepared: What `prepare` returned.
            device: `auto` or a torch device, which this machine has.

        Raises:
            ModelError: The model cannot be loaded.
        """
        ...


def family_of(config: RerankerConfig, ref: ModelRef) -> Family:
    """Return a model's family.

    Args:
        config: The reranker's section of the config; its `kind` names a family, or is `auto`.
        ref: The model, resolved.

    Raises:
        ModelError: No family serves the model, or `kind` names something else.
        ConfigError: A package's family cannot be imported.
    """
    if config.kind != "auto" and ref.origin not in {"python", "server"}:
        named = RERANKERS.get(config.kind, "reranker.kind")
        if not hasattr(named, "serves"):
            raise ModelError(f"reranker.kind: {config.kind} is a reranker and no family; name it as reranker.model")
        return named  # type: ignore[no-any-return]
    found = next((family for family in _families() if family.serves(ref)), None)
    if found is None:
        refuse_encoders(ref)
        raise unknown_architecture(ref)
    return found


def _families() -> Iterator[Family]:
    """Yield built-in families before those of packages, which then cannot change how a known model is scored."""
    for name in RERANKERS:
        part = RERANKERS.get(name)
        if hasattr(part, "serves"):
            yield part
