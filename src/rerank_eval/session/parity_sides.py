"""What the two sides of `parity` are: two configs, one config twice, a grid of two, or a config and an address."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from rerank_eval.config import LoadedConfig, RunConfig
from rerank_eval.config.schema import RerankerConfig
from rerank_eval.config.server import ServerKeys, on_server
from rerank_eval.errors import ConfigError
from rerank_eval.session.choice import read_config

_KEPT = ("instruction", "recipe", "head", "max_length")
"""What of A's settings a server is asked for as well."""
_TWO = 2


@dataclass(frozen=True)
class ParityRequest:
    """What was asked for on the command line.

    Attributes:
        a: A config.
        b: Another, or a server's address; None for A's config with `overrides_b`.
        task: The one task.
        overrides: `--set` arguments, for both.
        overrides_b: `--set-b` arguments, for B alone.
        queries: How many are sampled; 0 for all.
        tolerance: Largest difference of margins that counts as the same.
        results: Results folder, or None for A's config's.
        json: Further file for everything as JSON, or None.
    """

    a: str
    b: str | None
    task: str | None
    overrides: tuple[str, ...] = ()
    overrides_b: tuple[str, ...] = ()
    queries: int = 20
    tolerance: float = 1e-3
    results: Path | None = None
    json: Path | None = None


@dataclass(frozen=True)
class Sides:
    """Two runs in one config: A's tasks, folders and retriever, and both rerankers."""

    loaded: LoadedConfig
    notes: tuple[str, ...] = ()


def find_sides(request: ParityRequest) -> Sides:
    """Read what A and B stand for.

    Raises:
        ConfigError: One of them does not come to exactly one reranker.
    """
    loaded = _read(request, request.a, request.overrides)
    if request.b is None and not request.overrides_b:
        if len(loaded.runs) != _TWO:
            raise ConfigError(
                f"{request.a}: comes to {len(loaded.runs)} run(s); name B, change A by --set-b, or give a grid of two"
            )
        one, other = loaded.runs
    else:
        one = _single(loaded, "A")
        other = _single(_read(request, *_other(request, one)), "B")
    for name, run in (("A", one), ("B", other)):
        if run.reranker is None:
            raise ConfigError(f"{name}: reranker: is null; there is nothing to score with")
    notes = []
    if other.retriever != one.retriever:
        notes.append("B's config names another retriever; both score the candidates of A's")
    other = other.model_copy(update={"retriever": one.retriever})
    return Sides(dataclasses.replace(loaded, runs=(one, other), variants=({}, {})), tuple(notes))


def _other(request: ParityRequest, one: RunConfig) -> tuple[str, tuple[str, ...]]:
    """Return B's config and overrides."""
    overrides = (*request.overrides, *request.overrides_b)
    if request.b is None:
        return request.a, overrides
    if not on_server(request.b):
        return request.b, overrides
    served = {"model": request.b, "checkpoint": None if one.reranker is None else one.reranker.model}
    read = {*_KEPT, *ServerKeys.model_fields, *served}
    for key in () if one.reranker is None else one.reranker.set_beside(read):  # the server was started with its own
        served[key] = RerankerConfig.model_fields[key].default
    changes = [f"reranker.{key}={json.dumps(value)}" for key, value in served.items()]
    return request.a, (*request.overrides, *changes, *request.overrides_b)


def _read(request: ParityRequest, name: str, overrides: tuple[str, ...]) -> LoadedConfig:
    tasks = [] if request.task is None else [request.task]
    return read_config(Path(name), tasks, overrides, request.results)


def _single(loaded: LoadedConfig, side: str) -> RunConfig:
    if len(loaded.runs) != 1:
        raise ConfigError(
            f"{side}: {loaded.path} comes to {len(loaded.runs)} runs; choose one, such as by --set grid= and its keys"
        )
    return loaded.runs[0]
