"""Families of retrievers: how a kind of retriever is checked, what changes its candidates, and how it is loaded.

A family is a file in `families/`. An installed package declares a retriever, a class with `search`, as an entry point
of the group `rerank_eval.retrievers`; it is named as `retriever.model` and served by the family of Python objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from rerank_eval.config.schema import GIVEN, RetrieverConfig
from rerank_eval.engine.quiet import settle
from rerank_eval.models.instruction_sets import InstructionSet
from rerank_eval.models.python_objects import refuse_options
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.sections import resolve_section
from rerank_eval.names import slug
from rerank_eval.registry import RETRIEVERS
from rerank_eval.retrievers.given_runs import given_of
from rerank_eval.retrievers.retriever import Backend


@dataclass(frozen=True)
class Chosen:
    """A retriever as a config names it.

    Attributes:
        config: The retriever's section of the config.
        ref: The model, resolved.
        instructions: The instruction set that the config names, or None.
    """

    config: RetrieverConfig
    ref: ModelRef
    instructions: InstructionSet | None = None


class Family(Protocol):
    """A family of retrievers."""

    def serves(self, ref: ModelRef) -> bool:
        """Tell whether a model is of this family."""
        ...

    def identity(self, chosen: Chosen) -> Mapping[str, Any]:
        """Check the settings, and return what of them can change a candidate list beside model, revision and top_k.

        Raises:
            ModelError: The model is no retriever, or a setting does not fit it; one line that says what to set.
        """
        ...

    def load(self, chosen: Chosen, device: str, results_dir: Path | None) -> Backend:
        """Load the retriever.

        Args:
            chosen: What `identity` let through.
            device: `auto` or a torch device.
            results_dir: Folder of all results, where embeddings are kept; None keeps them for this process alone.

        Raises:
            DeviceError: This machine has no such device.
            ModelError: The model cannot be loaded as an encoder.
        """
        ...


def family_of(ref: ModelRef) -> Family:
    """Return the family that serves a model; every checkpoint is a dense retriever's as far as is known here."""
    parts = (RETRIEVERS.get(name) for name in RETRIEVERS.builtins)
    return cast("Family", next(part for part in parts if part.serves(ref)))


def resolve_retriever(config: RetrieverConfig, where: str, model_root: Path | None = None) -> ModelRef:
    """Find what a config's section names: a model, see `resolve_section`, or files with candidates.

    Raises:
        ConfigError: There are no such files.
        RerankEvalError: See `resolve_section`.
    """
    if config.model != GIVEN:
        return resolve_section(config, where, model_root)
    given = given_of(config, where)
    return ModelRef(f"candidates/{slug(given.label)}", given.label, given.source, given.revision(), "given")


def retriever_settings(chosen: Chosen) -> Mapping[str, Any]:
    """See `Family.identity`."""
    refuse_options(chosen.config, chosen.ref, "retriever")
    return family_of(chosen.ref).identity(chosen)


def load_backend(
    config: RetrieverConfig,
    ref: ModelRef,
    device: str,
    results_dir: Path | None = None,
    instructions: InstructionSet | None = None,
) -> Backend:
    """Load a retriever; see `Family.load`."""
    settle()
    chosen = Chosen(config, ref, instructions)
    retriever_settings(chosen)
    return family_of(ref).load(chosen, device, results_dir)
