"""Reads the manifests that the pipeline leaves beside each result."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank_eval.errors import DataError
from rerank_eval.metrics import registry
from rerank_eval.results.manifest import MANIFEST, CellPart, Manifest

logger = logging.getLogger(__name__)

RANKING = registry.DEFAULT


@dataclass(frozen=True)
class ResultRecord:
    """One row on one task.

    Attributes:
        kind: `retriever` or `reranker`.
        label: The model's short name.
        detail: The settings that tell this row from others of the same model.
        order: The row's position in its plan.
        notes: What a reader has to know.
        identity: Digest of all that can change the row's scores.
        candidates: Identity of the retriever row whose candidates these are; a retriever's own for itself.
        retriever: The retriever's short name.
        top_k: Candidates kept for each query.
        task: The task's name.
        revision: The data's revision.
        main_score: Name of the task's main score.
        main: Its value on mteb's scale, not rounded: mean over all split x subset cells.
        written: The same as the manifest has it; older releases took it from mteb, rounded to five digits.
        finished: When it was computed, Unix time in seconds.
        made_from: For a reranker, the digest of the candidates that it reordered.
        digest: Digest of the row's own ranking; a retriever's is what its rerankers were made from.
        recall: recall@100 of the candidates, 0..1.
        oracle: nDCG@10 of the best order of these candidates, 0..1.
        model: The model's full name, as on the hub.
        dataset: The data set's name, as on the hub.
        marked: Pairs whose texts hold markers such as `<|im_end|>`.
        markers: Those markers, the most frequent first.
        neutralised: Whether they were read as plain text.
    """

    kind: str
    label: str
    detail: str
    order: int
    notes: tuple[str, ...]
    identity: str
    candidates: str
    retriever: str
    top_k: int
    task: str
    revision: str
    main_score: str
    main: float
    finished: float
    recall: float
    oracle: float
    made_from: str = ""
    digest: str = ""
    model: str = ""
    dataset: str = ""
    marked: int = 0
    markers: tuple[str, ...] = ()
    neutralised: bool = False
    written: float = math.nan


def load_manifests(results_dir: Path) -> list[ResultRecord]:
    """Read all manifests of a results folder.

    Args:
        results_dir: The folder; manifests stand under `runs/*/*/*/manifest.json`.

    Returns:
        The complete ones, in a fixed order. A broken or foreign file is skipped with a warning that names it.
    """
    records = []
    for path in sorted(results_dir.glob(f"runs/*/*/*/{MANIFEST}")):
        try:
            records.append(_record(Manifest.read(path)))
        except (OSError, DataError) as error:
            logger.warning("%s; left out", error)
    return sorted(records, key=lambda record: (record.candidates, record.order, record.identity, record.task))


def _record(manifest: Manifest) -> ResultRecord:
    run, task, scores, marked = manifest.row, manifest.task, manifest.scores, manifest.special_tokens
    return ResultRecord(
        kind=run.kind,
        label=run.label,
        detail=run.detail,
        order=run.order,
        notes=tuple(run.notes),
        identity=manifest.identity.digest,
        candidates=manifest.identity.candidates,
        retriever=manifest.retriever.label,
        top_k=manifest.retriever.top_k,
        task=task.name,
        revision=str(task.revision),
        main_score=task.main_score,
        main=scores.unrounded(task.main_score),
        written=scores.main,
        finished=manifest.timings.finished,
        made_from=manifest.inputs.candidates,
        digest=manifest.digest,
        recall=scores.recall_at_100,
        oracle=scores.oracle_ndcg_at_10,
        model=str(manifest.settings.get("model", run.label)),
        dataset=task.dataset or task.name,
        marked=marked.pairs,
        markers=tuple(marked.found),
        neutralised=marked.mode != "keep",
    )


def mean_of_cells(cells: Sequence[CellPart]) -> float:
    """Average a task's cells, in one order, so that the last bit is always the same.

    Args:
        cells: A manifest's `scores.cells`.
    """
    ordered = sorted(cells, key=lambda cell: (cell.subset, cell.split))
    return float(sum(cell.main for cell in ordered) / len(ordered))


def of_one_revision(
    records: Sequence[ResultRecord], revisions: Mapping[str, str]
) -> tuple[list[ResultRecord], list[ResultRecord]]:
    """Keep, for each task, the results on one revision of its data; scores on different data do not compare.

    Args:
        records: What `load_manifests` returned.
        revisions: Task -> the revision that counts; for other tasks it is that of the latest result.

    Returns:
        The records kept and those left out.
    """
    wanted = {record.task: record.revision for record in sorted(records, key=lambda record: record.finished)}
    wanted |= revisions
    kept = [record for record in records if record.revision == wanted[record.task]]
    return kept, [record for record in records if record.revision != wanted[record.task]]


def of_present_candidates(records: Sequence[ResultRecord]) -> tuple[list[ResultRecord], list[ResultRecord]]:
    """Leave out rerankers whose candidates are no longer those that stand in the results.

    A retriever may have been run again and its rerankers not yet; the two would stand under each other in a table and
    be of different candidates.

    Args:
        records: What `load_manifests` returned.

    Returns:
        The records kept and those left out.
    """
    present = {(one.identity, one.task): one.digest for one in records if one.kind == "retriever"}

    def fits(record: ResultRecord) -> bool:
        found = present.get((record.candidates, record.task))
        return record.kind == "retriever" or found is None or found == record.made_from

    return [one for one in records if fits(one)], [one for one in records if not fits(one)]
