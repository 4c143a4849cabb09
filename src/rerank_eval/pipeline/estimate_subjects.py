"""What an estimate is of: each retriever and reranker of a config, with what its files tell of its size and texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from rerank_eval.config import LoadedConfig, RerankerConfig, RetrieverConfig, RunConfig
from rerank_eval.config.schema import BM25, GIVEN
from rerank_eval.config.server import on_server
from rerank_eval.engine.recipe import Recipe
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.engine.shapes import EncoderShape, Shape, shape_of
from rerank_eval.errors import ModelError, OfflineError
from rerank_eval.models.checkpoint import load_tokenizer, read_mapping
from rerank_eval.models.recipes import AUTO, find_recipe, known_recipe
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.resolve import on_hub
from rerank_eval.models.sections import resolve_section
from rerank_eval.names import digest
from rerank_eval.pipeline.plan import RunSpec, make_plan

_T = TypeVar("_T")


@dataclass(frozen=True)
class Subject:
    """A retriever or a reranker of the config; without a plan's row where its model is not here."""

    run: RunConfig
    section: RetrieverConfig | RerankerConfig
    row: RunSpec | None
    ref: ModelRef | None
    shape: Shape | EncoderShape | None = None
    tokenizer: Any = None
    recipe: Recipe | None = None

    @property
    def kind(self) -> str:
        """The stage: `retriever` or `reranker`."""
        return "retriever" if isinstance(self.section, RetrieverConfig) else "reranker"

    @property
    def name(self) -> str:
        """The model as the config names it."""
        return self.section.model

    @property
    def dtype(self) -> str:
        """The number format of its weights."""
        return str(self.section.dtype)

    @property
    def serves(self) -> bool:
        """Whether it is a reranker that a server holds."""
        return self.kind == "reranker" and on_server(self.name)

    @property
    def timed(self) -> bool:
        """Whether its time is measured by itself, and not from the FLOP of a model."""
        return self.name in {BM25, GIVEN} or self.serves

    @property
    def detail(self) -> str:
        """What tells it from other settings of the same model."""
        if self.row is not None:
            return self.row.detail
        if isinstance(self.section, RetrieverConfig) or isinstance(self.shape, EncoderShape):
            return self.dtype
        known = known_recipe(self.section.model) if self.section.recipe == AUTO else None
        name = known.name if known is not None else self.section.recipe
        return self.dtype if name == AUTO else f"{name}, {self.dtype}"


def key_of(kind: str, *sections: RetrieverConfig | RerankerConfig) -> str:
    """Digest a stage and the sections of the config that it depends on."""
    return digest([kind, *(section.model_dump(mode="json") for section in sections)])


def _sections(run: RunConfig) -> dict[str, RetrieverConfig | RerankerConfig]:
    return {"retriever": run.retriever, **({"reranker": run.reranker} if run.reranker is not None else {})}


def subjects_of(loaded: LoadedConfig) -> list[Subject]:
    """Return each retriever, and each reranker on its candidates, once."""
    rows = _rows(loaded)
    found: dict[str, Subject] = {}
    for run in loaded.runs:
        for kind, section in _sections(run).items():
            key = key_of(kind, run.retriever, section)
            if key not in found:
                found[key] = _subject(loaded, run, section, rows.get(key), f"{loaded.path}: {kind}")
    return list(found.values())


def _rows(loaded: LoadedConfig) -> dict[str, RunSpec]:
    """Return the plan's rows of the runs whose models are here."""
    found: dict[str, RunSpec] = {}
    for run in loaded.runs:
        sections = _sections(run)
        alone = dataclasses.replace(loaded, runs=(run,), variants=({},))
        plan = _if_here(partial(make_plan, alone), *sections.values())
        if plan is not None:
            found |= {key_of(row.kind, run.retriever, sections[row.kind]): row for row in plan.rows}
    return found


def _if_here(find: Callable[[], _T], *sections: RetrieverConfig | RerankerConfig) -> _T | None:
    """Return what is found, or None where a model is still to come from the hub; one on the disk has to be usable."""
    try:
        return find()
    except OfflineError:
        return None
    except ModelError:
        if any(on_hub(section.model) for section in sections):
            return None  # a mirror's models may be fetched later
        raise


def _subject(
    loaded: LoadedConfig, run: RunConfig, section: RetrieverConfig | RerankerConfig, row: RunSpec | None, where: str
) -> Subject:
    resolving = partial(resolve_section, section, where, loaded.base.model_folder)
    ref = row.ref if row is not None else _if_here(resolving, section)
    recipe = _recipe(section, row, f"{where}.recipe") if isinstance(section, RerankerConfig) else None
    if section.model == BM25:
        return Subject(run, section, row, ref)
    config, tokenizer = None, None
    if ref is not None and on_server(section.model):
        ref = ref.checkpoint
    if ref is not None:
        config = read_mapping(ref, "config.json")
        with suppress(ModelError):  # without a tokenizer the table of scripts does
            tokenizer = load_tokenizer(ref, local=True)
    shape = None if on_server(section.model) else shape_of(ref.name if ref is not None else section.model, config)
    return Subject(run, section, row, ref, shape, tokenizer, recipe)


def _recipe(section: RerankerConfig, row: RunSpec | None, where: str) -> Recipe:
    """Return a row's recipe; the card's, whose frame is about as long, where only the model's files tell."""
    ready = row.prepared.prompting.recipe if row is not None and row.prepared is not None else None
    return ready or find_recipe(section.recipe, where) or known_recipe(section.model) or RECIPES["card"]
