"""Result files of one row on one task: scores, per-query metrics, TREC runs, mteb's JSON, and a manifest written last.

A task counts as done when its manifest stands there, says so, and names the same inputs; everything else in the folder
was written before it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mteb import ResultCache
from mteb.models.model_meta import ModelMeta

from rerank_eval.analysis import followir, metrics, trec
from rerank_eval.errors import StorageError
from rerank_eval.files import atomic_path, storage_error, write_json, write_text
from rerank_eval.models.records import Recorder
from rerank_eval.names import slug
from rerank_eval.store.locks import locked

MANIFEST = "manifest.json"
SCHEMA = 1

Qrels = Mapping[str, Mapping[str, int]]
Changed = Mapping[str, Sequence[str]]
Cell = tuple[str, str]
"""(subset, split)"""


@dataclass(frozen=True)
class Judged:
    """A task's scores as frames, and what follows from them.

    Attributes:
        pairs: Columns subset, split, query_id, doc_id, rank, score, relevance (0 where nobody judged): every pair.
        per_query: Columns subset, split, query_id and the metrics: every query with judgements.
        summary: Means over all queries of a cell, then over cells, as suites average.
        digest: SHA-256 (16 hexadecimal characters) over every pair's cell, query, document and score.
        instruction_pairs: Columns subset, split and those of `followir.p_mrr`; None unless relevance changes with the
            instruction.
    """

    pairs: pd.DataFrame
    per_query: pd.DataFrame
    summary: dict[str, float]
    digest: str
    instruction_pairs: pd.DataFrame | None = None


def judge(recorder: Recorder, qrels: Mapping[Cell, Qrels], changed: Mapping[Cell, Changed] | None = None) -> Judged:
    """Compute per-query metrics of everything that was recorded.

    Args:
        recorder: Scores of each cell.
        qrels: Judgements of each cell.
        changed: For each cell, pairs of queries and the documents that the second one's instruction makes irrelevant.

    Returns:
        Frames, summary and digest.

    Raises:
        ModelError: A score is not finite.
    """
    pairs: list[pd.DataFrame] = []
    queries: list[pd.DataFrame] = []
    summaries: list[dict[str, float]] = []
    hasher = hashlib.sha256()
    for (subset, split), cell in sorted(recorder.cells.items()):
        frame = cell.frame()
        per_query = metrics.per_query(frame, qrels[subset, split])
        summaries.append(metrics.summarise(per_query))
        known = qrels[subset, split]
        graded = zip(frame["query_id"], frame["doc_id"], strict=True)
        frame["relevance"] = pd.array([known.get(q, {}).get(d, 0) for q, d in graded], dtype="int64")
        pairs.append(_labelled(frame, subset, split))
        queries.append(_labelled(per_query, subset, split))
        for query_id, doc_id, score in zip(frame["query_id"], frame["doc_id"], frame["score"], strict=True):
            hasher.update(f"{subset}\t{split}\t{query_id}\t{doc_id}\t{score!r}\n".encode("utf-8", "surrogatepass"))
    by_pair = _instruction_pairs(recorder, changed or {})
    if by_pair is not None:
        for part, (_, own) in zip(summaries, sorted(by_pair.items()), strict=True):
            part.update(followir.summarise(own))
    summary = {key: float(sum(part[key] for part in summaries) / len(summaries)) for key in summaries[0]}
    return Judged(
        pd.concat(pairs, ignore_index=True),
        pd.concat(queries, ignore_index=True),
        summary,
        hasher.hexdigest()[:16],
        None
        if by_pair is None
        else pd.concat([_labelled(own, *cell) for cell, own in sorted(by_pair.items())], ignore_index=True),
    )


def _instruction_pairs(recorder: Recorder, changed: Mapping[Cell, Changed]) -> dict[Cell, pd.DataFrame] | None:
    """Judge pairs of instructions; None unless every cell has some."""
    if not changed:
        return None
    found = {cell: followir.p_mrr(own.frame(), changed.get(cell, {})) for cell, own in recorder.cells.items()}
    return found if found and all(len(frame) for frame in found.values()) else None


def _labelled(frame: pd.DataFrame, subset: str, split: str) -> pd.DataFrame:
    labelled = frame.copy()
    labelled.insert(0, "split", split)
    labelled.insert(0, "subset", subset)
    return labelled


def write_frames(folder: Path, judged: Judged, tag: str) -> None:
    """Write scores and per-query metrics as parquet, and one TREC run a cell.

    Args:
        folder: The row's folder for the task.
        judged: What to write.
        tag: Last column of the TREC run.
    """
    frames = {"scores.parquet": judged.pairs, "per_query.parquet": judged.per_query}
    if judged.instruction_pairs is not None:
        frames["p_mrr.parquet"] = judged.instruction_pairs
    for name, frame in frames.items():
        with atomic_path(folder / name) as temporary:
            frame.to_parquet(temporary, index=False)
    for (subset, split), frame in judged.pairs.groupby(["subset", "split"], sort=True):
        trec.write_run(folder / f"{slug(f'{subset}.{split}')}.trec", frame, tag)


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
    content: dict[str, Any] = {"mteb_model_meta": {"model_name": meta.name, "revision": meta.revision}}
    for (subset, split), cell in sorted(recorder.cells.items()):
        queries = zip(cell.query_ids, cell.document_ids, cell.scores, strict=True)
        content.setdefault(subset, {})[split] = {
            query_id: dict(zip(documents, scores.tolist(), strict=True)) for query_id, documents, scores in queries
        }
    path = predictions_path(folder, task)
    write_text(path, json.dumps(content, ensure_ascii=False))
    return path


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
    with locked(results_dir / "locks" / "mteb.lock"):  # the settings of all rows of a model stand in one file
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


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read a folder's manifest, if a whole one is there.

    Args:
        folder: A row's folder for a task.

    Returns:
        The manifest, or None when there is none, it is torn, or it is of another schema.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA or manifest.get("complete") is not True:
        return None
    whole = {"digest", "inputs", "row", "scores", "task", "timings"} <= manifest.keys()
    return manifest if whole and isinstance(manifest["row"], dict) and isinstance(manifest["task"], dict) else None


def is_done(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Tell whether a row's result on a task is complete and was made from the same inputs.

    Args:
        folder: The row's folder for the task.
        inputs: Digests of data and candidates.
    """
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("inputs") != dict(inputs) or not (folder / "scores.parquet").is_file():
        return False
    # A retriever's candidates are what its rerankers read.
    predictions = predictions_path(folder, manifest["task"]["name"])
    return manifest["row"]["kind"] != "retriever" or predictions.is_file()


def begin(folder: Path) -> None:
    """Take away an earlier manifest, so that a crash from here on leaves the task undone rather than mixed.

    Args:
        folder: The row's folder for the task.
    """
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
        for run in folder.glob("*.trec"):  # of splits that the data may no longer have
            run.unlink()
    except OSError as error:
        raise storage_error(error, folder) or error from error


def finish(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, which makes the task count as done.

    Args:
        folder: The row's folder for the task.
        manifest: JSON-serialisable, without NaN.
    """
    write_json(folder / MANIFEST, {"schema": SCHEMA, "complete": True, **manifest})
