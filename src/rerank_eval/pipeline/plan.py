"""What a config comes to: models resolved, identities, folders. Nothing is loaded here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mteb.models.model_meta import ModelMeta

from rerank_eval.config import LoadedConfig, RunConfig
from rerank_eval.config.renamed import renamed
from rerank_eval.config.schema import BM25, RerankerConfig, RetrieverConfig
from rerank_eval.config.server import ServerKeys
from rerank_eval.engine.interface import arithmetic
from rerank_eval.files import at_home
from rerank_eval.models.instruction_sets import InstructionSet, find_instruction_set, shown_instruction
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.sections import resolve_section
from rerank_eval.names import canonical_json, digest, slug, task_folder, without_split
from rerank_eval.rerankers.family import Prepared, Prompting
from rerank_eval.rerankers.loading import prepare_reranker
from rerank_eval.retrievers.family import Chosen, resolve_retriever, retriever_settings
from rerank_eval.store import LOCK, STORE, score_identity
from rerank_eval.tasks.registry import TaskRef, resolve


@dataclass(frozen=True)
class RunSpec:
    """One row of the leaderboard: a retriever alone, or a reranker on a retriever's candidates.

    Attributes:
        kind: `retriever` or `reranker`.
        order: Position in the plan; a retriever stands before its rerankers.
        config: The run's config.
        ref: The model that this row is about.
        retriever: For a reranker, the row whose candidates it reorders.
        identity: All that can change a score of this row on given data, and nothing else.
        instructions: The instruction set that the config names, or None; read once, so that a file that changes while a
            run goes on changes nothing.
        prepared: For a reranker, its settings as they were checked, with the recipe likewise.
    """

    kind: str
    order: int
    config: RunConfig
    ref: ModelRef
    identity: dict[str, Any]
    retriever: RunSpec | None = None
    instructions: InstructionSet | None = None
    prepared: Prepared | None = None

    @property
    def digest(self) -> str:
        """Twelve hexadecimal characters that stand for the identity."""
        return digest(self.identity, 12)

    @property
    def detail(self) -> str:
        """The settings that tell this row from others of the same model, for a table."""
        if self.kind == "retriever":
            shown = ["api", "dtype", "instruction", "max_length", "options"]
            if self.config.retriever.engine != "auto":
                shown.append("engine")
        else:
            shown = ["recipe", "api", "instruction", "dtype", "engine", "head", "max_length", "markers", "options"]
        reads = self.identity.get("listwise", {})
        parts = [f"{key}={value}" for key, value in reads.items() if value != _UNREMARKABLE.get(key)]
        for key in shown:
            value = self.identity.get(key)
            if value is None or (key in _UNREMARKABLE and value == _UNREMARKABLE[key]):
                continue
            [(name, today)] = renamed({key: value})[0].items()
            parts.append(f"{name}={_shown(today)}" if key in _NAMED else str(value))
        first = self.retriever or self
        if first.identity["candidates"] != "auto" and first.ref.origin != "given":
            parts.append(f"candidates={first.identity['candidates']}")
        if "own_document" in first.identity:
            parts.append(f"own_document={first.identity['own_document']}")
        return ", ".join(parts)

    @property
    def score_identity(self) -> dict[str, Any]:
        """What a reranker's scores are kept under: its identity less what a pair's own texts say.

        The instruction's text is in each pair's digest, and which candidates a pair stands among changes no score, so
        runs that differ in these alone share what they have in common. A listwise reranker's digests are of a query's
        whole list, so that only the very list is shared.
        """
        return score_identity(self.identity)

    def folder(self, results_dir: Path, task: str) -> Path:
        """Return the folder that holds this row's files for a task."""
        return results_dir / "runs" / slug(self.ref.label) / self.digest / task_folder(task)

    def lock(self, results_dir: Path, task: str) -> Path:
        """Return the file that one process at a time holds while it works on this row and a task.

        Rerankers that share their scores share the lock: the second one then finds what the first one has scored.
        """
        if self.kind == "retriever":
            return self.folder(results_dir, task) / LOCK
        stored = results_dir / STORE / slug(self.ref.label) / digest(self.score_identity, 12)
        return stored / slug(without_split(task)) / LOCK

    def meta(self, split: str | None = None) -> ModelMeta:
        """Return the identity as mteb files results under it, first stage and top_k included.

        Args:
            split: The task's split where it is not the usual one, whose result has the same name in mteb's layout.
        """
        settings = {
            key: shown_instruction(value) if key == "instruction" else value
            for key, value in self.identity.items()
            if key in _FILED and value is not None
        }
        settings |= self.identity.get("listwise", {})
        if self.retriever is not None:
            settings["retriever"] = self.retriever.ref.label
            settings["top_k"] = self.retriever.identity["top_k"]
        first = self.retriever or self
        if first.identity["candidates"] != "auto":  # tells p-MRR over the top_k from p-MRR over a task's own candidates
            settings["candidates"] = first.identity["candidates"]
        if "own_document" in first.identity:
            settings["own_document"] = first.identity["own_document"]
        if split is not None:
            settings["split"] = split
        settings["id"] = self.digest
        kind = (
            "cross-encoder" if self.kind == "reranker" else "sparse" if self.config.retriever.model == BM25 else "dense"
        )
        return ModelMeta.create_empty(
            overwrites={
                "name": self.ref.name,
                "revision": self.ref.revision,
                "model_type": [kind],
                "experiment_kwargs": settings,
            }
        )


_UNREMARKABLE: dict[str, Any] = {
    **{"engine": "packed", "head": "float32", "max_length": 8192},
    **{"window": 20, "stride": 10, "passes": 1},
}
_NAMED = {"instruction", "max_length", "engine", "head", "markers", "options"}
_FILED = ("dtype", "instruction", "top_k", "recipe", "engine", "head", "max_length", "markers", "options")
_TELLS_MODELS_APART = {*ServerKeys.model_fields, "recipe", "run", "candidates"}
_SHOWN = 24


def _shown(value: Any) -> Any:
    """Show an instruction's own text by its beginning, and a digest that tells two of the same beginning apart."""
    if isinstance(value, dict):
        return canonical_json(value)
    if not isinstance(value, str) or shown_instruction(value) == value:
        return value
    return f'"{value[:_SHOWN].rstrip()}..." ({digest(value, 4)})'


@dataclass(frozen=True)
class Plan:
    """Everything that a run will do.

    Attributes:
        loaded: The config as resolved.
        tasks: Tasks in order.
        rows: Retriever rows and reranker rows, each retriever before its rerankers.
        results_dir: Folder for all results.
    """

    loaded: LoadedConfig
    tasks: tuple[TaskRef, ...]
    rows: tuple[RunSpec, ...]
    results_dir: Path

    @property
    def retrievers(self) -> list[RunSpec]:
        """Rows of the first stage."""
        return [row for row in self.rows if row.kind == "retriever"]

    def rerankers(self, retriever: RunSpec | None = None) -> list[RunSpec]:
        """Rows of the second stage, of one retriever or of all."""
        rows = [row for row in self.rows if row.kind == "reranker"]
        return [row for row in rows if retriever is None or row.retriever == retriever]


def make_plan(loaded: LoadedConfig) -> Plan:
    """Resolve a config's names, without loading a model or a data set.

    Args:
        loaded: The config.

    Returns:
        The plan.

    Raises:
        ConfigError: A task is unknown.
        ModelError: A model's files are unusable, or a setting does not fit it.
        OfflineError: A model has to come from the hub and cannot.
    """
    tasks = resolve(loaded.base.tasks, split=loaded.base.split, where=f"{loaded.path}: tasks")
    retrievers: dict[str, RunSpec] = {}
    rerankers: dict[str, RunSpec] = {}
    resolved: dict[str, ModelRef] = {}

    def model(section: RetrieverConfig | RerankerConfig, where: str) -> ModelRef:
        key = digest(
            [type(section).__name__, section.model, section.revision, section.model_dump(include=_TELLS_MODELS_APART)]
        )
        if key not in resolved:
            find = resolve_retriever if isinstance(section, RetrieverConfig) else resolve_section
            resolved[key] = find(section, where, loaded.base.model_folder)  # type: ignore[arg-type] # by its own kind
        return resolved[key]

    def check(instructions: InstructionSet | None, where: str) -> None:
        if instructions is not None:
            instructions.check([task.base for task in tasks], where)

    for run in loaded.runs:
        # Files that the config names are read before any model's name is looked up: that may take the hub's time.
        where = f"{loaded.path}: retriever"
        instructions = find_instruction_set(run.retriever.instruction, f"{where}.instruction")
        check(instructions, f"{where}.instruction")
        prompting = None if run.reranker is None else Prompting.of(run.reranker, f"{loaded.path}: reranker")
        check(prompting.instructions if prompting else None, f"{loaded.path}: reranker.instruction")
        chosen = Chosen(run.retriever, model(run.retriever, where), instructions)
        first = RunSpec("retriever", 0, run, chosen.ref, retriever_identity(chosen), instructions=instructions)
        first = retrievers.setdefault(first.digest, first)
        if run.reranker is None:
            continue
        ref = model(run.reranker, f"{loaded.path}: reranker")
        ready = prepare_reranker(run.reranker, ref, prompting)
        identity = reranker_identity(ready, first)
        second = RunSpec("reranker", 0, run, ready.ref, identity, first, ready.prompting.instructions, ready)
        rerankers.setdefault(second.digest, second)
    rows = _ordered(list(retrievers.values()), list(rerankers.values()))
    return Plan(loaded, tuple(tasks), tuple(rows), at_home(loaded.base.results_dir))


def _ordered(retrievers: Sequence[RunSpec], rerankers: Sequence[RunSpec]) -> list[RunSpec]:
    rows: list[RunSpec] = []
    for first in retrievers:
        numbered = replace(first, order=len(rows))
        rows.append(numbered)
        for second in rerankers:
            if second.retriever == first:
                rows.append(replace(second, order=len(rows), retriever=numbered))
    return rows


def retriever_identity(chosen: Chosen) -> dict[str, Any]:
    """Return all that can change a candidate list on given data.

    Args:
        chosen: The retriever.

    Raises:
        ModelError: See `retrievers.family.Family.identity`.
    """
    config, ref = chosen.config, chosen.ref
    identity: dict[str, Any] = {
        "stage": "retriever",
        "model": ref.name,
        "revision": ref.revision,
        "top_k": config.top_k,
        "candidates": config.rule,
    }
    if config.own_document != "auto":
        identity["own_document"] = config.own_document
    return identity | dict(retriever_settings(chosen))


def reranker_identity(prepared: Prepared, retriever: RunSpec) -> dict[str, Any]:
    """Return all that can change a reranker's scores on given data.

    Args:
        prepared: The reranker.
        retriever: The row whose candidates it reorders.
    """
    instructions = prepared.prompting.instructions
    return {
        "stage": "reranker",
        "model": prepared.ref.name,
        "revision": prepared.ref.revision,
        "instruction": prepared.config.instruction if instructions is None else instructions.identity,
        "candidates": retriever.digest,
        **prepared.identity,
        **arithmetic(),
    }
