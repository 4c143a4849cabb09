"""Result files of one row on one task: scores, per-query metrics, TREC runs, mteb's JSON, and a manifest written last.

A task counts as done when its manifest stands there, says so, and names the same inputs; everything else in the folder
was written before it.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mteb import ResultCache
from mteb.models.model_meta import ModelMeta

from rerank_eval.errors import StorageError
from rerank_eval.files import atomic_path, storage_error, sweep
from rerank_eval.metrics.compute import (
    CHANGED,
    P_MRR,
    PAIRS,
    PER_QUERY,
    QRELS,
    Cell,
    Changed,
    Qrels,
    TaskMetrics,
    compute_metrics,
)
from rerank_eval.names import slug
from rerank_eval.results import trec
from rerank_eval.results.manifest import MANIFEST, InputsPart, Manifest, file_digest
from rerank_eval.results.recorder import CellScores, FrameBatches, Recorder
from rerank_eval.store import LOCK
from rerank_eval.store.locks import locked

logger = logging.getLogger(__name__)


def judge(
    recorder: Recorder, qrels: Mapping[Cell, Qrels], main: str, changed: Mapping[Cell, Changed] | None = None
) -> TaskMetrics:
    """Compute per-query metrics of everything that was recorded.

    Args:
        recorder: Scores of each cell.
        qrels: Judgements of each cell.
        main: mteb's name of the task's main score.
        changed: For each cell, pairs of queries and the documents that the second one's instruction makes irrelevant.

    Returns:
        Frames, summary and digest.

    Raises:
        ModelError: A score is not finite.
    """
    return compute_metrics(
        {cell: FrameBatches(scores) for cell, scores in recorder.cells.items()}, qrels, changed or {}, main
    )


def write_frames(folder: Path, judged: TaskMetrics, tag: str) -> None:
    """Write scores, judgements and per-query metrics as parquet, and one TREC run a cell.

    Args:
        folder: The row's folder for the task.
        judged: What to write.
        tag: Last column of the TREC run.
    """
    with atomic_path(folder / PAIRS) as temporary:
        judged.pairs.write(temporary)
    frames: dict[str, pd.DataFrame | None] = {PER_QUERY: judged.per_query, QRELS: judged.qrels}
    frames |= {P_MRR: judged.instruction_pairs, CHANGED: judged.changed}
    for name, frame in frames.items():
        if frame is not None:
            with atomic_path(folder / name) as temporary:
                frame.to_parquet(temporary, index=False)
    for (subset, split), blocks in judged.pairs.cells():
        trec.write_run(folder / f"{slug(f'{subset}.{split}')}.trec", blocks, tag)


def write_predictions(folder: Path, task: str, meta: ModelMeta, recorder: Recorder) -> Path:
    """Write candidates in mteb's prediction format, which `convert_to_reranking` reads.

    Args:
        folder: The row's folder for the task.
        task: The task's name.
        meta: The retriever.
        recorder: Candidates, best first.

    Returns:
        The file, named as mteb names it.
    """
    path = predictions_path(folder, task)
    cells: dict[str, dict[str, CellScores]] = {}
    for (subset, split), cell in sorted(recorder.cells.items()):
        cells.setdefault(subset, {})[split] = cell
    # Written query by query: as one value, ten million pairs would take gigabytes more.
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as handle:
        handle.write('{"mteb_model_meta": ')
        handle.write(_json({"model_name": meta.name, "revision": meta.revision}))
        for subset, splits in cells.items():
            handle.write(f", {_json(subset)}: {{")
            for number, (split, cell) in enumerate(splits.items()):
                handle.write(f"{', ' if number else ''}{_json(split)}: {{")
                queries = zip(cell.query_ids, cell.document_ids, cell.scores, strict=True)
                for place, (query_id, documents, scores) in enumerate(queries):
                    handle.write(f"{', ' if place else ''}{_json(query_id)}: ")
                    handle.write(_json(dict(zip(documents, scores.tolist(), strict=True))))
                handle.write("}")
            handle.write("}")
        handle.write("}")
    return path


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def predictions_path(folder: Path, task: str) -> Path:
    """Return where a retriever's candidates for a task stand in mteb's prediction format."""
    return folder / f"{slug(task)}_predictions.json"


def save_mteb_result(results_dir: Path, result: Any, meta: ModelMeta, encode_kwargs: Mapping[str, Any]) -> Path:
    """Write mteb's own JSON in mteb's own layout, under `results_dir/mteb`, atomically.

    Args:
        results_dir: The results folder.
        result: mteb's `TaskResult`.
        meta: The model, with the run's settings as `experiment_kwargs`.
        encode_kwargs: What the model was called with.

    Returns:
        The JSON file.
    """
    final = ResultCache(results_dir / "mteb")
    path: Path = final.get_task_result_path(result.task_name, meta)
    with locked(results_dir / "mteb" / LOCK):  # the settings of all rows of a model stand in one file
        for left in (results_dir / "mteb").glob(".writing-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        return _save_mteb_result(results_dir, path, result, meta, encode_kwargs)


def _save_mteb_result(
    results_dir: Path, path: Path, result: Any, meta: ModelMeta, encode_kwargs: Mapping[str, Any]
) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=results_dir / "mteb", prefix=".writing-") as temporary:
            cache = ResultCache(Path(temporary))
            written: Path = cache.get_task_result_path(result.task_name, meta)
            written.parent.mkdir(parents=True, exist_ok=True)
            settings = path.parent / "run_settings.jsonl"
            if settings.is_file():  # mteb merges into what stands there
                shutil.copy(settings, written.parent / settings.name)
            cache.save_to_cache(result, meta, encode_kwargs=dict(encode_kwargs))
            for file in sorted(written.parent.iterdir()):
                file.replace(path.parent / file.name)
    except OSError as error:
        raise storage_error(error, path) or StorageError(f"{path}: cannot be written ({error.strerror})") from error
    return path


def is_done(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Tell whether a row's result on a task is complete, as it was written, and made from the same inputs.

    A file that was torn or altered since would be read by rerankers, comparisons and reports as if it were the result;
    it is told, and the result made anew, mostly from the score cache.

    Args:
        folder: The row's folder for the task.
        inputs: Digests of data and candidates.
    """
    manifest = Manifest.find(folder)
    if manifest is None or manifest.inputs != InputsPart(**inputs) or not (folder / PAIRS).is_file():
        return False
    altered = altered_file(folder, manifest.files or {})
    if altered is not None:
        logger.warning("%s is not as it was written; the result is made anew", folder / altered)
        return False
    # A retriever's candidates are what its rerankers read.
    return manifest.row.kind != "retriever" or predictions_path(folder, manifest.task.name).is_file()


def altered_file(folder: Path, files: Mapping[str, str]) -> str | None:
    """Name a file that is not what the manifest says.

    Args:
        folder: The row's folder for the task.
        files: The manifest's names and digests.

    Returns:
        The first such file, or None.
    """
    for name, written in files.items():
        path = folder / Path(name).name
        try:
            if file_digest(path) != written:
                return path.name
        except OSError:
            return path.name
    return None


def begin(folder: Path) -> None:
    """Take away an earlier manifest, so that a crash from here on leaves the task undone rather than mixed.

    Args:
        folder: The row's folder for the task.
    """
    sweep(folder)
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
        for pattern in ("*.trec", P_MRR, CHANGED):  # of what the data may no longer have
            for old in folder.glob(pattern):
                old.unlink()
    except OSError as error:
        raise storage_error(error, folder) or error from error
