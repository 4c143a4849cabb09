"""Runs as a comparison reads them: per-query values and candidates of one row, task by task, from its result files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from rerank_eval.errors import ConfigError, DataError
from rerank_eval.files import at_home, is_folder
from rerank_eval.names import did_you_mean
from rerank_eval.results.frames import read_frame
from rerank_eval.results.locate import result_folders
from rerank_eval.results.manifest import MANIFEST, Manifest
from rerank_eval.typed import command

UNIT = ["subset", "split", "query_id"]
"""What a value belongs to; for p-MRR `query_id` names a pair of queries."""

_ENDINGS = {".trec", ".run", ".txt", ".tsv", ".qrels", ".gz", ".parquet"}


@dataclass(frozen=True)
class TaskRun:
    """One run on one task.

    Attributes:
        task: The task's name.
        measure: mteb's name of the main score, or of another column of `per_query.parquet`.
        values: Columns subset, split, query_id, value (float64, on mteb's scale), worst, best (under ties; NaN where
            they are not known), tied and candidates (int64, NaN where not known); one row a unit, sorted.
        scores: File with every candidate's score (parquet), or None.
        manifest: What stands beside the result; None for a file of somebody else's.
        ranking: Every candidate, where no such file of ours has them; columns as `candidates` returns.
        missing: Columns subset, split, query_id: what is judged and the run has not.
        notes: What a reader has to know of how the values came about.
    """

    task: str
    measure: str
    values: pd.DataFrame
    scores: Path | None = None
    manifest: Manifest | None = None
    ranking: pd.DataFrame | None = None
    missing: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=UNIT))
    notes: tuple[str, ...] = ()

    def candidates(self) -> pd.DataFrame | None:
        """Read subset, split, query_id, doc_id, rank and score of every candidate, or None where there is no file.

        Raises:
            DataError: The file is torn.
        """
        if self.scores is None:
            return self.ranking
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
        candidates: Identity of the retriever whose candidates it has; its own for a retriever.
    """

    folder: Path
    label: str
    detail: str
    identity: str
    retriever: str
    tasks: Mapping[str, Path]
    candidates: str = ""

    @property
    def title(self) -> str:
        """Label, settings and candidates in words."""
        after = "" if self.retriever == self.label else f" after {self.retriever}"
        return f"{self.label} ({self.detail}){after}" if self.detail else f"{self.label}{after}"

    @property
    def root(self) -> Path:
        """The results folder that it stands in."""
        return self.folder.parents[2]


@dataclass(frozen=True)
class RunFile:
    """A run that stands in a file of somebody else's.

    Attributes:
        path: A TREC run, a folder of them, or a parquet file.
        label: What tables call it.
    """

    path: Path
    label: str
    detail: str = ""
    identity: str = ""


def stored_rows(results_dir: Path) -> list[Stored]:
    """List the rows of a results folder, by model and identity."""
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
    first: Manifest | None = None
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        manifest = Manifest.find(path)
        if manifest is not None:
            found[manifest.task.name] = path.parent
            first = first or manifest
    if first is None:
        return None
    run, identity = first.row, first.identity
    return Stored(folder, run.label, run.detail, identity.digest, first.retriever.label, found, identity.candidates)


def find_run(name: str, results_dir: Path) -> list[Stored | RunFile]:
    """Find what a name on the command line stands for.

    Args:
        name: The beginning of an identity, a model's label, a row's folder or any file of a result, or a run in a file
            of somebody else's.
        results_dir: Where rows are looked for.

    Returns:
        The rows or the one file; several rows where a label or a folder has several.

    Raises:
        ConfigError: It stands for nothing, or for an identity of two rows.
    """
    path = at_home(name)
    if is_folder(path) or path.is_file():
        stored = _stored_at(path)
        if stored:
            return list(stored)
        if path.is_file() or any(one.name.endswith((".trec", ".trec.gz")) for one in path.iterdir()):
            return [RunFile(path, stem(path))]
        raise ConfigError(
            f"{name}: holds no complete result; name a results folder, one of its files or folders "
            "(results/runs/<model>/<identity>), or a folder of TREC runs"
        )
    rows = stored_rows(results_dir)
    exact: list[Stored | RunFile] = [row for row in rows if row.label.lower() == name.lower()]
    if exact:
        return exact
    by_identity: list[Stored | RunFile] = [
        row for row in rows if len(name) >= _SHORTEST and row.identity.startswith(name)
    ]
    if len(by_identity) > 1:
        raise ConfigError(f"{name}: {len(by_identity)} rows of {results_dir} begin so; write more of the identity")
    if by_identity:
        return by_identity
    if "/" in name or path.suffix in _ENDINGS:
        raise ConfigError(f"{name}: no such file or folder")
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


def _stored_at(path: Path) -> list[Stored]:
    """Return the rows that a file or a folder is of, each with those of its tasks alone."""
    chosen: dict[Path, list[Path]] = {}
    for folder in result_folders(path):
        chosen.setdefault(folder.parent, []).append(folder)
    found = []
    for folder, folders in chosen.items():
        row = read_stored(folder)
        tasks = {} if row is None else {task: one for task, one in row.tasks.items() if one in folders}
        if row is not None and tasks:
            found.append(replace(row, tasks=tasks))
    return found


def stem(path: Path, *more: str) -> str:
    """Return a file's name without its endings, those of runs and `more`: `ours` for `ours.trec.gz`."""
    name = path.name
    while Path(name).suffix.lower() in {*_ENDINGS, *more}:
        name = Path(name).stem
    return name or path.name


def values_of(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Take a measure's values, with what ties leave open of it, out of per-query metrics.

    Args:
        frame: Columns subset, split, query_id, the measure's, and perhaps what ties and candidates say.
        column: The measure's.

    Returns:
        What `TaskRun.values` holds.
    """
    values = frame[UNIT].copy()
    values["value"] = frame[column].astype("float64")
    sources = {"worst": f"{column}_worst", "best": f"{column}_best", "tied": "n_tied", "candidates": "n_candidates"}
    for name, source in sources.items():
        values[name] = frame[source] if source in frame.columns else float("nan")
    return values.sort_values(UNIT, kind="stable").reset_index(drop=True)


def named(rows: Sequence[Stored | RunFile]) -> Iterator[tuple[str, Stored | RunFile]]:
    """Give each row a short name that no other has: what differs between them, else the identity's beginning."""
    short = [_own_name(row, [other for other in rows if other.label == row.label]) for row in rows]
    for number, (row, name) in enumerate(zip(rows, short, strict=True), start=1):
        unique = short.count(name) == 1
        yield (name if unique else f"{name} [{row.identity[:6] or number}]"), row


def _own_name(row: Stored | RunFile, alike: Sequence[Stored | RunFile]) -> str:
    """Name a row by its model, and by the settings and candidates that tell it from others of the model."""
    if len(alike) == 1:
        return row.label
    settings = _differing([other.detail for other in alike])[[other is row for other in alike].index(True)]
    retrievers = {getattr(other, "retriever", "") for other in alike}
    after = f" after {row.retriever}" if len(retrievers) > 1 and isinstance(row, Stored) else ""
    return f"{row.label}, {settings}{after}" if settings else f"{row.label}{after}"


def _differing(details: Sequence[str]) -> list[str]:
    """Keep of comma-separated settings those that not all rows share."""
    split = [detail.split(", ") for detail in details]
    shared = set(split[0]).intersection(*split[1:])
    return [", ".join(part for part in parts if part not in shared) for parts in split]
