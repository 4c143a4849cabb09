"""Candidates for other machines: a retriever's runs with digests, and what they were made with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from rerank_eval.config import LoadedConfig
from rerank_eval.errors import ConfigError, StorageError
from rerank_eval.files import atomic_path, storage_error, write_json
from rerank_eval.metrics.registry import percent
from rerank_eval.names import slug
from rerank_eval.pipeline.plan import Plan, RunSpec
from rerank_eval.results.manifest import Manifest, file_digest
from rerank_eval.retrievers.given_runs import INDEX, SCHEMA, Exported
from rerank_eval.session.start import start
from rerank_eval.tables import simple


def export_candidates(loaded: LoadedConfig, output: Path, console: Console) -> None:
    """Retrieve what is missing of a config's candidates, and write them with their digests.

    Args:
        loaded: The config; it has to come to one retriever. Its reranker is left out.
        output: The folder; what it holds of other tasks stays if it is the same retriever's.
        console: Where it is told.

    Raises:
        ConfigError: The config has several retrievers, or the folder holds another one's candidates.
        RerankEvalError: What a run raises.
        StorageError: The folder cannot be written.
    """
    alone = [run.model_copy(update={"reranker": None}) for run in loaded.runs]
    session = start(loaded, console)
    plan, _ = session.run(alone)
    row, *others = plan.retrievers
    if others:
        names = ", ".join(f"{one.ref.label} ({one.detail})" if one.detail else one.ref.label for one in (row, *others))
        raise ConfigError(
            f"{loaded.path}: {len(others) + 1} retrievers ({names}); name one with --set retriever.model=..."
        )
    index = _index(output, row)
    for task in plan.tasks:
        index["tasks"][task.name] = _exported(plan, row, task.name, output)
    write_json(output / INDEX, index)
    rows = [
        [name, f"{one['queries']:,}", f"{one['pairs']:,}", percent(one["recall_at_100"]), one["digest"]]
        for name, one in index["tasks"].items()
    ]
    console.print(simple(["task", "queries", "candidates", "recall@100", "digest"], rows, "lrrrl"), markup=False)
    console.print(f"written: {output}; another machine reads it by `retriever: {{candidates: {output}}}`", markup=False)


def _index(output: Path, row: RunSpec) -> dict[str, Any]:
    retriever = {"label": row.ref.label, "top_k": row.config.retriever.top_k, "identity": row.identity}
    if not (output / INDEX).exists():
        return {"schema": SCHEMA, "retriever": retriever, "tasks": {}}
    there = Exported.read(str(output.absolute()), "--output")
    if there.index["retriever"] != retriever:
        raise ConfigError(f"--output {output}: holds the candidates of {there.label} with other settings; name another")
    return {"schema": SCHEMA, "retriever": retriever, "tasks": dict(there.index["tasks"])}


def _exported(plan: Plan, row: RunSpec, task: str, output: Path) -> dict[str, Any]:
    folder = row.folder(plan.results_dir, task)
    manifest = Manifest.read(folder)
    cells, pairs = [], 0
    for cell in manifest.scores.cells:
        source = folder / f"{slug(f'{cell.subset}.{cell.split}')}.trec"
        target = output / slug(f"{task}.{cell.subset}.{cell.split}.trec")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
        except OSError as error:
            raise storage_error(error, target) or StorageError(f"{target}: cannot be written ({error})") from error
        with target.open("rb") as handle:
            pairs += sum(1 for _ in handle)
        cells.append({"subset": cell.subset, "split": cell.split, "file": target.name, "sha256": file_digest(target)})
    return {
        "cells": cells,
        "digest": manifest.digest,
        "dataset": manifest.task.dataset,
        "revision": manifest.task.revision,
        "data": manifest.inputs.data,
        "queries": sum(cell.n_queries for cell in manifest.scores.cells),
        "pairs": pairs,
        "recall_at_100": manifest.scores.recall_at_100,
    }
