"""Whether a result's number follows from its files: every digest checked, every metric computed again.

A result says: these candidates, scored so, judged by these judgements, give this number. `verify` takes scores and
judgements from the files beside the manifest and does the judging again.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from rerank_eval.errors import DataError, RerankEvalError
from rerank_eval.files import load_json
from rerank_eval.metrics.compute import (
    CHANGED,
    P_MRR,
    PAIRS,
    PER_QUERY,
    QRELS,
    Cell,
    TaskMetrics,
    cells_of,
    compute_metrics,
)
from rerank_eval.metrics.registry import DEFAULT, agree
from rerank_eval.names import digest, slug, task_folder
from rerank_eval.results import trec
from rerank_eval.results.frames import read_frame
from rerank_eval.results.manifest import MANIFEST, Manifest, ScoresPart, file_digest
from rerank_eval.results.records import mean_of_cells

_LAST_BITS = 1e-12  # of sums in another order
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RerankEvalError)


@dataclass
class Verdict:
    """What was found of one result.

    Attributes:
        folder: Its folder.
        title: Task and model.
        number: The main score as its manifest says, 0..1; NaN where that cannot be read.
        measure: mteb's name of the main score.
        checks: What was checked and holds.
        faults: What does not hold.
        notes: What could not be checked, and why.
    """

    folder: Path
    title: str = ""
    number: float = math.nan
    measure: str = ""
    checks: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self, what: str, holds: bool, otherwise: str) -> bool:
        """Note one check."""
        if holds:
            self.checks.append(what)
        else:
            self.faults.append(otherwise)
        return holds


def verify_result(folder: Path, results_dir: Path) -> Verdict:
    """Check one result.

    Args:
        folder: `results/runs/<model>/<identity>/<task>`.
        results_dir: The results folder that it stands in.

    Returns:
        What holds and what does not; nothing is raised for a broken file.
    """
    verdict = Verdict(folder, folder.name)
    try:
        manifest = Manifest.read(folder)
    except (OSError, DataError) as error:
        verdict.faults.append(f"manifest.json cannot be read ({error})")
        return verdict
    verdict.title = f"{manifest.task.name}, {manifest.row.label}"
    verdict.measure = manifest.task.main_score
    verdict.number = manifest.scores.unrounded(verdict.measure)
    if manifest.seal is None:
        verdict.faults.append(
            "manifest.json has no seal, as an older release left it: delete it and run again to score anew"
        )
        return verdict
    verdict.check("the manifest's seal", manifest.sealed, "manifest.json is not as it was written")
    for what in (_identity, _files, _numbers, _mteb, _candidates):
        try:
            what(verdict, manifest, results_dir)
        except _UNREADABLE as error:
            verdict.faults.append(f"{what.__name__.strip('_')}: cannot be checked ({type(error).__name__}: {error})")
    return verdict


def _identity(verdict: Verdict, manifest: Manifest, _: Path) -> None:
    same = digest(manifest.settings, 12) == manifest.identity.digest == verdict.folder.parent.name
    verdict.check("identity", same, "the identity is not what its digest and its folder say")


def _files(verdict: Verdict, manifest: Manifest, _: Path) -> None:
    listed = manifest.files or {}
    there = {path.name for path in verdict.folder.iterdir() if path.is_file() and not path.name.startswith(".")}
    for name in sorted(set(listed) | (there - {MANIFEST})):
        if name not in there:
            verdict.faults.append(f"{name} is missing")
        elif name not in listed:
            verdict.faults.append(f"{name} is not of this result")
        else:
            same = file_digest(verdict.folder / name) == listed[name]
            verdict.check(f"{name}: SHA-256", same, f"{name} has been altered")


def _numbers(verdict: Verdict, manifest: Manifest, _: Path) -> None:
    stored = read_frame(verdict.folder / PER_QUERY)
    again = _judged_again(verdict.folder, verdict.measure)
    older = _is_older(manifest.scores) and manifest.scores.metric(verdict.measure) is None
    judged = again.per_query.drop(columns=verdict.measure, errors="ignore") if older else again.per_query
    verdict.check("digest of the scores", again.digest == manifest.digest, f"{PAIRS} holds other scores")
    verdict.check(
        f"{len(stored):,} queries judged again",
        _equal(stored, judged),
        f"{PER_QUERY} does not follow from {PAIRS}",
    )
    if again.instruction_pairs is not None:
        pairs = read_frame(verdict.folder / P_MRR)
        verdict.check(
            "p-MRR pair by pair", _equal(pairs, again.instruction_pairs), f"{P_MRR} does not follow from {PAIRS}"
        )
    said = manifest.scores
    wrong = [
        name
        for name, value in again.summary.items()
        if said.metric(name) != value and not (older and name == verdict.measure)
    ]
    verdict.check("every mean", not wrong, f"the manifest's {', '.join(wrong)} do not follow from {PER_QUERY}")
    for cell, rows in again.pairs.cells():
        name = f"{slug('.'.join(cell))}.trec"
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / name
            trec.write_run(path, rows, manifest.identity.digest)
            same = path.read_bytes() == (verdict.folder / name).read_bytes()
        verdict.check(f"{name}: ranking", same, f"{name} is another ranking than {PAIRS}")
    _main(verdict, said, again)


def _main(verdict: Verdict, said: ScoresPart, again: TaskMetrics) -> None:
    """Check the main score: exactly, or to mteb's five digits where an older release wrote mteb's value."""
    cells, main = said.cells, said.main
    mean, rounded = mean_of_cells(cells), _is_older(said)
    verdict.check(
        "the mean over subsets and splits",
        abs(mean - main) <= _LAST_BITS if rounded else mean == main,
        f"the number is not the mean of its {len(cells)} cell(s)",
    )
    if not again.mains:
        verdict.notes.append(f"{verdict.measure} is mteb's own and is not computed again")
        return
    written = {(cell.subset, cell.split): cell.main for cell in cells}

    def same(ours: float, theirs: float) -> bool:
        return agree(ours, theirs) if rounded else ours == theirs

    holds = again.mains.keys() == written.keys() and all(
        same(ours, written[cell]) for cell, ours in again.mains.items()
    )
    verdict.check("each subset's and split's score", holds, f"the manifest's cells do not follow from {PAIRS}")
    comes = sum(again.mains.values()) / len(again.mains)  # in the order of `mean_of_cells`
    verdict.check(
        f"{verdict.measure} {comes:.5f}",
        same(comes, main),
        f"{verdict.measure} comes to {comes:.5f} and not to {main:.5f}",
    )


def _is_older(said: ScoresPart) -> bool:
    """Tell whether scores are of a release that took the main score from mteb, and wrote no other column for it."""
    return any(cell.mteb is None for cell in said.cells)


def _judged_again(folder: Path, measure: str = DEFAULT) -> TaskMetrics:
    """Judge once more; by the main score too, if the result has its column or it is over groups of queries."""
    qrels: dict[Cell, dict[str, dict[str, int]]] = {}
    for cell, frame in cells_of(read_frame(folder / QRELS)):
        for query, document, value in zip(frame["query_id"], frame["doc_id"], frame["relevance"], strict=True):
            qrels.setdefault(cell, {}).setdefault(query, {})[document] = int(value)
    pairs = read_frame(folder / PAIRS)
    columns = ["query_id", "doc_id", "rank", "score"]
    cells = {cell: [pairs.head(0)[columns]] for cell in qrels}
    cells |= {cell: [frame[columns].reset_index(drop=True)] for cell, frame in cells_of(pairs)}
    changed: dict[Cell, dict[str, list[str]]] = {}
    if (folder / CHANGED).is_file():
        for cell, frame in cells_of(read_frame(folder / CHANGED)):
            for query, document in zip(frame["query_id"], frame["doc_id"], strict=True):
                changed.setdefault(cell, {}).setdefault(query, []).append(document)
    return compute_metrics(cells, {cell: qrels.get(cell, {}) for cell in cells}, changed, measure)


def _equal(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    if list(one.columns) != list(other.columns) or len(one) != len(other):
        return False
    return all(np.array_equal(one[name].to_numpy(), other[name].to_numpy()) for name in one.columns)


_FILED = 5e-7
"""Half of the sixth digit, to which mteb's files round what mteb did not round itself, such as p-MRR."""


def _mteb(verdict: Verdict, manifest: Manifest, results_dir: Path) -> None:
    path = results_dir / manifest.mteb_result
    # The manifest's own words become a path: it must not lead out of the folder.
    if not path.resolve().is_relative_to(results_dir.resolve()):
        verdict.faults.append("mteb_result leads out of the results folder")
        return
    same = file_digest(path) == manifest.timings.mteb_result
    verdict.check("mteb's file: SHA-256", same, f"{path.name} of mteb has been altered")
    meta, identity = path.with_name("model_meta.json"), manifest.settings
    if meta.is_file():
        said = load_json(meta)
        same = (said.get("name"), said.get("revision")) == (identity["model"], identity["revision"])
        verdict.check("mteb's model", same, f"{meta} names another model or revision than the manifest")
    scores = load_json(path)["scores"]
    found = {(one["hf_subset"], split): one["main_score"] for split, entries in scores.items() for one in entries}
    cells = {(one.subset, one.split): one for one in manifest.scores.cells}
    same = found.keys() == cells.keys() and all(
        agree(one.main, found[key]) and (one.mteb is None or abs(one.mteb - found[key]) <= _FILED)
        for key, one in cells.items()
    )
    verdict.check("mteb's scores", same, f"{path.name} of mteb has other scores than the manifest")


def _candidates(verdict: Verdict, manifest: Manifest, results_dir: Path) -> None:
    if manifest.row.kind == "retriever":
        return
    first, task = slug(manifest.identity.candidates), task_folder(manifest.task.name)
    found = sorted((results_dir / "runs").glob(f"*/{first}/{task}/manifest.json"))
    if not found:
        verdict.notes.append("its candidates' own result is not here")
        return
    same = Manifest.read(found[0]).digest == manifest.inputs.candidates
    verdict.check("candidates' digest", same, "its candidates are no longer those that stand here")
    keys = ["subset", "split", "query_id", "doc_id"]
    before = pd.MultiIndex.from_frame(read_frame(found[0].parent / PAIRS, columns=keys))
    after = pd.MultiIndex.from_frame(read_frame(verdict.folder / PAIRS, columns=keys))
    strangers, missing = len(after.difference(before)), len(before.difference(after))
    verdict.check("every pair is a candidate", not strangers, f"{strangers} of its pairs are no candidates")
    verdict.check("every candidate is a pair", not missing, f"{missing} candidates are not among its pairs")
