"""Runs as a comparison reads them: per-query values and candidates of one row, task by task, from its result files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from rerank_eval.analysis import metrics, trec
from rerank_eval.analysis.frames import read_frame
from rerank_eval.errors import ConfigError, DataError
from rerank_eval.files import at_home, load_json
from rerank_eval.names import did_you_mean
from rerank_eval.typed import command

UNIT = ["subset", "split", "query_id"]
"""What a value belongs to; for p-MRR `query_id` names a pair of queries."""

MEASURES = {"ndcg_at_10": "nDCG@10", "ndcg_at_1": "nDCG@1", "recall_at_10": "recall@10", "p-MRR": "p-MRR"}
"""mteb's names of main scores -> how tables show them."""

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class TaskRun:
    """One run on one task.

    Attributes:
        task: The task's name.
        measure: mteb's name of the main score, or of another column of `per_query.parquet`.
        values: Columns subset, split, query_id, value (float64, on mteb's scale), worst, best (under ties; NaN where
            they are not known), tied and candidates (int64, NaN where not known); one row a unit, sorted.
        scores: File with every candidate's score (parquet), or None.
        manifest: What stands beside the result; empty for a file of somebody else's.
    """

    task: str
    measure: str
    values: pd.DataFrame
    scores: Path | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)

    def candidates(self) -> pd.DataFrame | None:
        """Read subset, split, query_id, doc_id, rank and score of every candidate, or None where there is no file.

        Raises:
            DataError: The file is torn.
        """
        if self.scores is None:
            return None
        try:
            return read_frame(self.scores)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.scores}: cannot be read ({type(error).__name__}); delete its folder and run "
                f"`{command('eval')}` again"
            ) from None


@dataclass(frozen=True)
class Run:
    """One system.

    Attributes:
        name: What tables call it; distinct within a comparison.
        label: The model's short name.
        detail: Its settings.
        identity: Digest of all that can change its scores; empty for a file.
        tasks: Task -> run.
    """

    name: str
    label: str
    detail: str
    identity: str
    tasks: Mapping[str, TaskRun]


@dataclass(frozen=True)
class Stored:
    """A row that stands in a results folder.

    Attributes:
        folder: `results/runs/<model>/<identity>`.
        label: The model's short name.
        detail: Its settings.
        identity: Digest of all that can change its scores.
        retriever: Whose candidates it has; its own label for a retriever.
        tasks: Task -> folder.
    """

    folder: Path
    label: str
    detail: str
    identity: str
    retriever: str
    tasks: Mapping[str, Path]

    @property
    def title(self) -> str:
        """Label, settings and candidates in words."""
        after = "" if self.retriever == self.label else f" after {self.retriever}"
        return f"{self.label} ({self.detail}){after}" if self.detail else f"{self.label}{after}"


def stored_rows(results_dir: Path) -> list[Stored]:
    """List the rows of a results folder, by model and identity.

    Args:
        results_dir: The folder.
    """
    rows = []
    for folder in sorted(path for path in (results_dir / "runs").glob("*/*") if path.is_dir()):
        row = read_stored(folder)
        if row is not None:
            rows.append(row)
    return rows


def read_stored(folder: Path) -> Stored | None:
    """Read what a row's folder is about, or None where it holds no complete result.

    Args:
        folder: `results/runs/<model>/<identity>`.
    """
    found: dict[str, Path] = {}
    first: Mapping[str, Any] = {}
    for path in sorted(folder.glob(f"*/{_MANIFEST}")):
        manifest = _read_manifest(path)
        if manifest is not None:
            found[str(manifest["task"]["name"])] = path.parent
            first = first or manifest
    if not found:
        return None
    row, retriever = first["row"], first["retriever"]
    identity = str(first["identity"]["digest"])
    return Stored(folder, str(row["label"]), str(row["detail"]), identity, str(retriever["label"]), found)


def _read_manifest(path: Path) -> dict[str, Any] | None:
    try:
        manifest = load_json(path)
        whole = manifest["schema"] == 1 and manifest["complete"] is True
        row, task = manifest["row"], manifest["task"]
        needed = [task["name"], task["main_score"], row["label"], row["detail"]]
        needed += [manifest["identity"]["digest"], manifest["retriever"]["label"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest if whole and all(isinstance(one, str) for one in needed) else None


def find_run(name: str, results_dir: Path, qrels: Path | None = None) -> list[Stored | Run]:
    """Find what a name on the command line stands for.

    Args:
        name: The beginning of an identity, a model's label, a row's folder, a `per_query.parquet` or a TREC run.
        results_dir: Where rows are looked for.
        qrels: Judgements for a TREC run.

    Returns:
        The rows or the one run; several rows where a label has several.

    Raises:
        ConfigError: It stands for nothing, or for an identity of two rows.
        DataError: A file cannot be read.
    """
    path = at_home(name)
    if path.is_dir():
        row = read_stored(path)
        if row is None:
            raise ConfigError(f"{name}: holds no complete result; name a folder results/runs/<model>/<identity>")
        return [row]
    if path.is_file():
        return [read_file(path, qrels)]
    rows = stored_rows(results_dir)
    exact: list[Stored | Run] = [row for row in rows if row.label.lower() == name.lower()]
    if exact:
        return exact
    by_identity: list[Stored | Run] = [row for row in rows if len(name) >= _SHORTEST and row.identity.startswith(name)]
    if len(by_identity) > 1:
        raise ConfigError(f"{name}: {len(by_identity)} rows of {results_dir} begin so; write more of the identity")
    if by_identity:
        return by_identity
    known = [*dict.fromkeys(row.label for row in rows)]
    if not known:
        raise ConfigError(
            f"{results_dir}: no results there; run `{command('eval')}` first, or name another with --results"
        )
    raise ConfigError(
        f"{name!r} is no config, file, identity or model of {results_dir}; {did_you_mean(name, known)} "
        f"(`{command('runs')}` lists them)"
    )


_SHORTEST = 4


def load_run(row: Stored, name: str, tasks: Sequence[str] | None = None, measure: str | None = None) -> Run:
    """Read a row's per-query values.

    Args:
        row: The row.
        name: What tables shall call it.
        tasks: Only these; None for all.
        measure: A column of `per_query.parquet` instead of each task's main score.

    Raises:
        ConfigError: There is no such measure.
        DataError: A result file is missing or torn.
    """
    found = {}
    for task, folder in row.tasks.items():
        if tasks is None or task in tasks:
            found[task] = _task_run(folder, task, measure)
    return Run(name, row.label, row.detail, row.identity, found)


def _task_run(folder: Path, task: str, measure: str | None) -> TaskRun:
    manifest = _read_manifest(folder / _MANIFEST)
    if manifest is None:
        raise DataError(f"{folder}: its manifest vanished or is torn; run `{command('eval')}` again")
    chosen = measure or str(manifest["task"]["main_score"])
    try:
        if chosen == "p-MRR":
            frame = read_frame(folder / "p_mrr.parquet").rename(columns={"pair": "query_id"})
            column = "p_mrr"
        else:
            frame, column = read_frame(folder / "per_query.parquet"), chosen
        values = _values(frame, column, folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: cannot be read ({type(error).__name__}); delete the folder and run `{command('eval')}` again"
        ) from None
    scores = folder / "scores.parquet"
    return TaskRun(task, chosen, values, scores if scores.is_file() else None, manifest)


def _values(frame: pd.DataFrame, column: str, where: Path) -> pd.DataFrame:
    if column not in frame.columns:
        known = [name for name in metrics.COLUMNS if name in frame.columns and name != "query_id"]
        raise ConfigError(f"--measure {column!r}: {where} has none; {did_you_mean(column, known)}")
    values = frame[UNIT].copy()
    values["value"] = frame[column].astype("float64")
    for name, source in (("worst", f"{column}_worst"), ("best", f"{column}_best")):
        values[name] = frame[source] if source in frame.columns else float("nan")
    for name, source in (("tied", "n_tied"), ("candidates", "n_candidates")):
        values[name] = frame[source] if source in frame.columns else float("nan")
    return values.sort_values(UNIT, kind="stable").reset_index(drop=True)


def read_file(path: Path, qrels: Path | None) -> Run:
    """Read a run from a file of somebody else's.

    Args:
        path: A parquet file with query_id and a main score (`ndcg_at_10`, say), or a TREC run.
        qrels: Judgements for a TREC run, in TREC's format.

    Raises:
        ConfigError: It is of neither kind, or a TREC run comes without judgements.
        DataError: It cannot be read.
    """
    if path.suffix == ".parquet":
        try:
            frame = read_frame(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not a readable parquet file ({type(error).__name__})") from None
        measure = next((name for name in ("ndcg_at_10", "p_mrr") if name in frame.columns), None)
        if measure is None or not {"query_id", "pair"} & set(frame.columns):
            raise DataError(f"{path}: has no columns query_id and ndcg_at_10; per_query.parquet of a result has them")
        frame = frame.rename(columns={"pair": "query_id"})
        for name in ("subset", "split"):
            if name not in frame.columns:
                frame[name] = "default"
        shown = "p-MRR" if measure == "p_mrr" else measure
        run = TaskRun(path.parent.name or path.stem, shown, _values(frame, measure, path))
    elif qrels is None:
        raise ConfigError(f"{path}: a TREC run needs its judgements; name them with --qrels")
    else:
        judged = metrics.per_query(trec.read_run(path), trec.read_qrels(qrels))
        frame = judged.assign(subset="default", split="default")
        run = TaskRun(qrels.stem, "ndcg_at_10", _values(frame, "ndcg_at_10", path))
    return Run(path.stem, path.stem, "", "", {run.task: run})


def named(rows: Sequence[Stored | Run]) -> Iterator[tuple[str, Stored | Run]]:
    """Give each row a short name that no other has: what differs between them, else the identity's beginning.

    Args:
        rows: What is compared, the baseline first.
    """
    short = [_own_name(row, [other for other in rows if other.label == row.label]) for row in rows]
    for number, (row, name) in enumerate(zip(rows, short, strict=True), start=1):
        unique = short.count(name) == 1
        yield (name if unique else f"{name} [{row.identity[:6] or number}]"), row


def _own_name(row: Stored | Run, alike: Sequence[Stored | Run]) -> str:
    """Name a row by its model, and by the settings and candidates that tell it from others of the model."""
    if len(alike) == 1:
        return row.label if isinstance(row, Stored) else row.name or row.label
    own = _differing([other.detail for other in alike])[[other is row for other in alike].index(True)]
    retrievers = {getattr(other, "retriever", "") for other in alike}
    after = f" after {row.retriever}" if len(retrievers) > 1 and isinstance(row, Stored) else ""
    return f"{row.label}, {own}{after}" if own else f"{row.label}{after}"


def _differing(details: Sequence[str]) -> list[str]:
    """Keep of comma-separated settings those that not all rows share."""
    split = [detail.split(", ") for detail in details]
    shared = set(split[0]).intersection(*split[1:])
    return [", ".join(part for part in parts if part not in shared) for parts in split]
