"""Reads runs for a comparison: rows of a results folder, files of other people, and what both are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from rerank_eval.analysis import rankings
from rerank_eval.analysis.rankings import Judgements, is_ranking, read_judgements
from rerank_eval.errors import ConfigError, DataError
from rerank_eval.metrics import per_query as metrics
from rerank_eval.metrics import registry
from rerank_eval.metrics.compute import P_MRR, PAIRS, PER_QUERY, QRELS, Cell
from rerank_eval.names import some
from rerank_eval.results.frames import read_frame
from rerank_eval.results.manifest import Manifest
from rerank_eval.results.runs import Run, RunFile, Stored, TaskRun, values_of
from rerank_eval.typed import command

VALUES = tuple(name for name in metrics.COLUMNS if name != "query_id")
"""Columns of per_query.parquet that can be compared."""


def measure_named(measure: str, paths: Sequence[Path]) -> str:
    """Return a measure's own name; columns of numbers that the files hold can be named too.

    Raises:
        ConfigError: There is no such measure; lists the valid ones.
        DataError: A file cannot be read.
    """
    columns = [path for path in paths if path.suffix == ".parquet" and path.is_file() and not is_ranking(path)]
    return registry.named(measure, dict.fromkeys((*VALUES, *(name for path in columns for name in _numbers(path)))))


def _numbers(path: Path) -> list[str]:
    return [str(name) for name, kind in rankings.read_parquet(path).dtypes.items() if kind.kind in "fiu"]


def load_run(row: Stored, name: str, tasks: Sequence[str] | None = None, measure: str | None = None) -> Run:
    """Read a row's values of tasks (None: all), by a measure of `measure_named` or by each task's main score.

    Raises:
        ConfigError: There is no such measure.
        DataError: A result file is missing or torn.
    """
    found = {
        task: _stored(name, folder, task, measure)
        for task, folder in row.tasks.items()
        if tasks is None or task in tasks
    }
    return Run(name, row.label, row.detail, row.identity, found)


def load_runs(
    rows: Sequence[tuple[str, Stored | RunFile]],
    *,
    tasks: Sequence[str] | None = None,
    measure: str | None = None,
    qrels: Path | None = None,
) -> list[Run]:
    """Read several runs, on the same terms.

    A file does not say what it was judged by, or on which task: it takes both from the stored runs beside it. With
    `qrels`, all runs are judged by that file, stored ones too. For the rest see `load_run`.

    Raises:
        ConfigError: A run has no such measure; nothing says what a file is judged by, or of which task or cell it is.
        DataError: A file cannot be read, is empty, or shares no query with the judgements.
    """
    stored = [row for _, row in rows if isinstance(row, Stored)]
    files = [row for _, row in rows if isinstance(row, RunFile)]
    if not files and qrels is None:
        return [load_run(row, name, tasks, measure) for name, row in rows if isinstance(row, Stored)]
    task = _task(stored, files, tasks, qrels)
    judged = _judgements(stored, files, task, qrels)
    chosen = measure or _main(stored, task)
    cells = _cells(files, judged)
    runs = []
    for name, row in rows:
        if isinstance(row, RunFile):
            one = _file(name, row, judged, chosen, task=_folder_name(files), asked=measure is not None)
        else:
            folder = row.tasks[str(task)]
            one = _stored(name, folder, str(task), chosen, judged if qrels is not None else None)
            one = _only(one, cells, judged)
        runs.append(Run(name, row.label, row.detail, row.identity, {one.task: one}))
    return runs


def _stored(
    name: str, folder: Path, task: str, measure: str | None = None, judged: Judgements | None = None
) -> TaskRun:
    """Read a stored run's values, or compute them where no file has them or other judgements are to count."""
    manifest = Manifest.find(folder)
    if manifest is None:
        raise DataError(f"{folder}: its manifest vanished or is torn; run `{command('eval')}` again")
    chosen = measure or manifest.task.main_score
    values = None if judged is not None else _written(folder, task, chosen, asked=measure is not None)
    scores = folder / PAIRS if (folder / PAIRS).is_file() else None
    if values is not None:
        return TaskRun(task, chosen, values, scores, manifest)
    if registry.find(chosen) is None and chosen not in VALUES:
        raise ConfigError(f"{task}: {folder} has no {chosen} of each query; name another with --measure")
    computed = rankings.evaluate_stored(name, folder, task, chosen, judged)
    return replace(computed, scores=scores, ranking=None, manifest=manifest)


def _written(folder: Path, task: str, measure: str, *, asked: bool) -> pd.DataFrame | None:
    """Read a measure's values, or None where the result has no such column."""
    name, column = P_MRR if registry.of_pairs(measure) else PER_QUERY, registry.column(measure)
    if asked and name == P_MRR and not (folder / P_MRR).exists():
        raise ConfigError(f"--measure {measure}: {task} has no pairs of instructions; choose tasks with --task")
    try:
        frame = read_frame(folder / name).rename(columns={"pair": "query_id"})
        return values_of(frame, column) if column in frame.columns else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: cannot be read ({type(error).__name__}); delete the folder and run `{command('eval')}` again"
        ) from None


def _task(
    stored: Sequence[Stored], files: Sequence[RunFile], tasks: Sequence[str] | None, qrels: Path | None
) -> str | None:
    """Return the one task that files are compared on; None where no stored run names one."""
    if not stored:
        return None
    every = list(dict.fromkeys(task for row in stored for task in row.tasks if tasks is None or task in tasks))
    if qrels is not None and len(every) > 1 and qrels.parent.name in every:
        every = [qrels.parent.name]
    if len(every) != 1:
        what = f"{files[0].path}: a run file does not name its task" if files else f"--qrels {qrels}: is of one task"
        raise ConfigError(f"{what}, and the results have {len(every)} ({some(every)}); choose one with --task")
    for row in stored:
        if every[0] not in row.tasks:
            raise DataError(f"{row.title} has no result of {every[0]}; run it there too, or choose tasks with --task")
    return every[0]


def _judgements(
    stored: Sequence[Stored], files: Sequence[RunFile], task: str | None, qrels: Path | None
) -> Judgements | None:
    if qrels is None and not stored:
        ranking = next((file.path for file in files if is_ranking(file.path)), None)
        if ranking is not None:
            raise ConfigError(
                f"{ranking}: a run file needs its judgements; name them with --qrels FILE, or a stored run of the same "
                "task to compare it with"
            )
        return None
    if task is None:
        return None if qrels is None else read_judgements(qrels)
    theirs = read_judgements(stored[0].tasks[task] / QRELS, task)
    if qrels is None:
        return theirs
    only = next(iter(theirs.cells))
    found = read_judgements(qrels, task, only if len(theirs.cells) == 1 else rankings.ONE_CELL)
    if len(theirs.cells) == len(found.cells) == 1:  # the same, whatever it is called
        return replace(found, cells={only: next(iter(found.cells.values()))})
    if not set(found.cells) <= set(theirs.cells):
        raise ConfigError(
            f"--qrels {qrels}: {task} has {len(theirs.cells)} subsets and splits, and this does not say whose it is; "
            f"name a result's {QRELS}"
        )
    return found


def _folder_name(files: Sequence[RunFile]) -> str:
    """Name the task of files alone: a result's folder is called like its task."""
    names = {file.path.absolute().parent.name for file in files}
    return names.pop() if len(names) == 1 else "run files"


def _main(stored: Sequence[Stored], task: str | None) -> str:
    if task is None:
        return registry.DEFAULT
    manifest = Manifest.find(stored[0].tasks[task])
    return manifest.task.main_score if manifest is not None else registry.DEFAULT


def _cells(files: Sequence[RunFile], judged: Judgements | None) -> list[Cell]:
    """Return the subsets and splits that files are of, where their names say so; empty for all."""
    if judged is None or len(judged.cells) == 1:
        return []
    paths = [one for file in files for one in ([file.path] if file.path.is_file() else rankings.trec_files(file.path))]
    return list(dict.fromkeys(judged.cell_of(path) for path in paths if path.suffix != ".parquet"))


def _only(run: TaskRun, cells: Sequence[Cell], judged: Judgements | None) -> TaskRun:
    """Keep what other people's files are about, and say so."""
    if not cells or judged is None or set(judged.cells) <= set(cells):
        return run
    keys = zip(run.values["subset"], run.values["split"], strict=True)
    values = run.values[[key in cells for key in keys]].reset_index(drop=True)
    note = f"{run.task}: of its {len(judged.cells)} subsets and splits only {some(['/'.join(one) for one in cells])}."
    return replace(run, values=values, notes=(*run.notes, note))


def _file(name: str, file: RunFile, judged: Judgements | None, measure: str, *, task: str, asked: bool) -> TaskRun:
    if is_ranking(file.path):
        assert judged is not None  # noqa: S101 - refused without
        return rankings.evaluate(name, rankings.read_rankings(file.path, judged), judged, measure)
    frame = rankings.read_parquet(file.path).rename(columns={"pair": "query_id"})
    column, pairs = registry.column(measure), registry.column(registry.P_MRR)
    if not asked and column not in frame.columns:
        column = next((one for one in (registry.DEFAULT, pairs) if one in frame.columns), column)
    if "query_id" not in frame.columns:
        raise DataError(f"{file.path}: has no column query_id; per_query.parquet of a result has it")
    if column not in frame.columns:
        known = ", ".join(sorted(_numbers(file.path)))
        raise ConfigError(f"{file.path}: has no column {column}, and not the scores to compute it from; it has {known}")
    try:
        values = values_of(rankings.in_cells_of(frame, judged), column)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file.path}: column {column} holds no numbers ({type(error).__name__})") from None
    largest = float(values["value"].abs().max())
    if largest > 1 and registry.find(column) is not None:
        raise DataError(f"{file.path}: {column} holds {largest:g}, which is not on the scale 0..1; divide it by 100")
    return TaskRun(judged.task if judged is not None else task, registry.P_MRR if column == pairs else column, values)
