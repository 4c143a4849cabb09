"""The manifest beside each result: what was run, on what, with which outcome."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mteb.models.model_meta import ModelMeta

from rerank_eval.engine.recipes import RECIPES
from rerank_eval.metrics.compute import TaskMetrics
from rerank_eval.metrics.registry import agree
from rerank_eval.pipeline.plan import RunSpec
from rerank_eval.pipeline.progress import Bar
from rerank_eval.pipeline.provenance import environment
from rerank_eval.results.manifest import CellPart, Manifest, file_digest
from rerank_eval.results.records import mean_of_cells
from rerank_eval.store.locks import HeldLock
from rerank_eval.tasks.mirror import MirrorFolder
from rerank_eval.tasks.prepare import from_hub
from rerank_eval.tasks.registry import TaskRef

logger = logging.getLogger(__name__)

_NOT_OF_A_RESULT = {
    "grid",
    "extends",
    "description",
    "tasks",
    "split",
    "results_dir",
    "data_root",
    "model_root",
    "tracking",
    "store",
    "workers",
}
"""Config keys that say nothing about one row on one task."""


@dataclass(frozen=True)
class Job:
    """One row on one task.

    Attributes:
        row: The row.
        task: The task.
        folder: Where its files go.
        results_dir: Folder of all results.
        inputs: Digests of data and candidates: the result holds for these and no others.
        size: Size of embedded tasks.
        held: The lock under which it is done; None where nobody else can be at it.
        workers: Says what computes for it in this process's place; empty where this process does.
        computed_on: Says what computed its scores, those that an earlier run left in the score cache among them.
    """

    row: RunSpec
    task: TaskRef
    folder: Path
    results_dir: Path
    inputs: dict[str, Any]
    size: Any
    held: HeldLock | None = None
    workers: Callable[[], list[dict[str, Any]]] = list
    computed_on: Callable[[], list[str]] = list

    def meta(self) -> ModelMeta:
        """Return the identity as mteb files the result under it; of a split of its own, apart from the usual one's."""
        return self.row.meta(self.task.split)


@dataclass(frozen=True)
class FinishedJob:
    """What a job came to.

    Attributes:
        task: The mteb task.
        result: mteb's `TaskResult`.
        judged: Frames and summary.
        bar: Counts and time.
        started: Unix time, seconds.
        facts: What only this stage knows: counts, truncation, instruction, digest of the scores.
        work: What was computed for it in this process.
    """

    task: Any
    result: Any
    judged: TaskMetrics
    bar: Bar
    started: float
    facts: Mapping[str, Any]
    work: Mapping[str, float]


def manifest(job: Job, finished: FinishedJob, mteb_json: Path) -> Manifest:
    """Describe a finished job.

    Args:
        job: What was to be done.
        finished: What came of it.
        mteb_json: mteb's result file, under the results folder.

    Returns:
        The manifest; times and surroundings stand under `timings` and `environment` alone.
    """
    row = job.row
    first = row.retriever or row
    metadata = finished.task.metadata
    mirrored: MirrorFolder | None = getattr(finished.task, "mirror", None)
    cells = _cell_scores(finished)
    config = row.config.model_dump(mode="json", exclude=_NOT_OF_A_RESULT)
    if row.kind == "retriever":
        del config["reranker"]
    return Manifest.model_validate(
        {
            "row": {
                "kind": row.kind,
                "label": row.ref.label,
                "detail": row.detail,
                "order": row.order,
                "notes": list(row.ref.notes),
            },
            "identity": {"digest": row.digest, "candidates": first.digest, row.kind: row.identity},
            "retriever": {"label": first.ref.label, "top_k": first.config.retriever.top_k, "detail": first.detail},
            "task": {
                "name": job.task.name,
                "kind": job.task.kind,
                "suite": job.task.suite,
                "main_score": metadata.main_score,
                "dataset": metadata.dataset.get("path") if mirrored is None else mirrored.dataset,
                "revision": metadata.dataset.get("revision"),
                "source": _source(finished.task),
                "candidates": "native" if finished.facts["native"] else f"top {first.config.retriever.top_k}",
            },
            "scores": {
                "main": mean_of_cells(cells),
                **finished.judged.summary,
                "cells": cells,
            },
            "inputs": job.inputs,
            "config": config,
            "mteb_result": mteb_json.relative_to(job.results_dir).as_posix(),
            # mteb's file holds times, so its digest stands among what may differ from run to run.
            "timings": {**_timings(finished), "mteb_result": file_digest(mteb_json)},
            "environment": environment()
            | ({"workers": workers} if (workers := job.workers()) else {})
            | ({"scores_made_by": devices} if (devices := job.computed_on()) else {}),
            **_recipe(row),
            **finished.facts,
        }
    )


def _recipe(row: RunSpec) -> dict[str, Any]:
    recipe = None if row.prepared is None else row.prepared.prompting.recipe
    if recipe is None or recipe.name in RECIPES:
        return {}
    return {"recipe": {name: value for name, value in asdict(recipe).items() if name != "models"}}


def _source(task: Any) -> dict[str, str]:
    """Say where a task's data was read from; a mirror's commit was checked against the notes beside its files."""
    mirrored: MirrorFolder | None = getattr(task, "mirror", None)
    if mirrored is not None:
        return {"kind": "mirror", "commit": mirrored.commit}
    return {"kind": "hub" if from_hub(task) else "local"}


def _cell_scores(finished: FinishedJob) -> list[CellPart]:
    """Tell each cell's score, not rounded, beside mteb's own, which mteb rounds to five digits."""
    counts = finished.judged.per_query.groupby(["subset", "split"]).size()
    cells = []
    for split, entries in sorted(finished.result.scores.items()):
        for entry in entries:
            cell, theirs = (entry["hf_subset"], split), float(entry["main_score"])
            ours = finished.judged.mains.get(cell, theirs)
            if not agree(ours, theirs):
                logger.warning(
                    "%s, %s/%s: %s comes to %.7f here and to %.7f in mteb's file",
                    finished.task.metadata.name,
                    *cell,
                    finished.task.metadata.main_score,
                    ours,
                    theirs,
                )
            subset, number = cell[0], int(counts[cell])
            cells.append(CellPart(subset=subset, split=split, main=ours, mteb=theirs, n_queries=number))
    return cells


def _timings(finished: FinishedJob) -> dict[str, Any]:
    bar = finished.bar
    seconds = max(bar.seconds, 1e-9)
    timings: dict[str, Any] = {
        "seconds": seconds,
        f"{bar.unit}_per_second": (bar.done - bar.stored) / seconds,
        "started": finished.started,
        "finished": time.time(),
        # What this process did: after an interruption, only what was left to do.
        "work": dict(finished.work),
        f"stored_{bar.unit}": bar.stored,
    }
    if bar.tokens:
        timings["tokens_per_second"] = bar.tokens / seconds
    return timings
