"""Puts runs side by side on the same queries of a task, or says which of them lack some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from rerank_eval.errors import DataError
from rerank_eval.metrics.registry import of_pairs
from rerank_eval.names import some
from rerank_eval.results.runs import UNIT, Run, TaskRun

ZERO, INTERSECTION = "zero", "intersection"
"""What is done about queries that a run lacks: they count 0, as in `trec_eval -c`; or only what all have counts."""


@dataclass(frozen=True)
class Aligned:
    """Runs on the same units of a task.

    Attributes:
        parts: The runs' values and candidates of these units.
        table: Columns subset, split, query_id, value_0, value_1, ...; one row a unit.
        notes: What was done about units that a run lacks, and what each run has to tell.
    """

    parts: tuple[TaskRun, ...]
    table: pd.DataFrame
    notes: tuple[str, ...]


def align(task: str, runs: Sequence[Run], missing: str) -> Aligned:
    """Put the runs' values of a task, which all of them have, side by side.

    Args:
        task: The task.
        runs: The runs.
        missing: `zero`, `intersection`, or empty to refuse that a run lacks queries.

    Raises:
        DataError: Runs are of other data or measures; a query stands twice; a value is not a number; a run lacks
            queries that another or the judgements have, and nothing says what is to be done about it.
    """
    parts = [run.tasks[task] for run in runs]
    first = parts[0]
    for run, part in zip(runs, parts, strict=True):
        if part.measure != first.measure:
            raise DataError(f"{task}: {runs[0].name} was judged by {first.measure}, {run.name} by {part.measure}")
        _same_data(task, runs[0], run, first, part)
    units = [_units(task, run, part) for run, part in zip(runs, parts, strict=True)]
    every = units[0]
    for index, part in zip(units, parts, strict=True):
        every = every.append(index.difference(every))
        every = every.append(pd.MultiIndex.from_frame(part.missing[UNIT]).difference(every))
    lacking = {run.name: every.difference(index) for run, index in zip(runs, units, strict=True)}
    notes = [note for part in parts for note in part.notes]
    if any(map(len, lacking.values())):
        gaps = [_lacks(name, index, len(every)) for name, index in lacking.items() if len(index)]
        shared = every
        for index in units:
            shared = shared.intersection(index, sort=False)
        if not missing:
            raise DataError(_refusal(task, gaps, len(shared)))
        if not len(shared):
            raise DataError(
                f"{task}: the runs have no query in common: {'; '.join(gaps)}; compare runs of the same data"
            )
        every = every if missing == ZERO else shared
        done = "counted 0" if missing == ZERO else f"left out, so that {len(every)} are compared"
        notes.append(f"{task}: {'; '.join(gaps)}: {done} (--missing {missing}).")
        parts = [_restricted(part, every) for part in parts]
    table = every.to_frame(index=False)
    for number, part in enumerate(parts):
        table[f"value_{number}"] = part.values.set_index(UNIT)["value"].reindex(every).to_numpy()
    if table.isna().any(axis=None):
        query = table.loc[table.isna().any(axis=1), "query_id"].iloc[0]
        raise DataError(f"{task}: query {query!r} has a value that is not a number; write that file again")
    return Aligned(tuple(parts), table, tuple(notes))


def _units(task: str, run: Run, part: TaskRun) -> pd.MultiIndex:
    index = pd.MultiIndex.from_frame(part.values[UNIT])
    if index.has_duplicates:
        raise DataError(f"{run.name}, {task}: query {index[index.duplicated()][0][-1]!r} stands twice")
    return index


def _lacks(name: str, missing: pd.MultiIndex, whole: int) -> str:
    names = [
        repr(query) if subset == "default" else f"{query!r} ({subset}/{split})" for subset, split, query in missing
    ]
    return f"{name} lacks {len(names)} of {whole} queries ({some(names)})"


def _refusal(task: str, gaps: Sequence[str], shared: int) -> str:
    if not shared:
        return f"{task}: {'; '.join(gaps)}: no query is in all runs; compare runs of the same data"
    return (
        f"{task}: {'; '.join(gaps)}; choose --missing {ZERO} (they count 0, as in trec_eval -c) or --missing "
        f"{INTERSECTION} (only the {shared} that all runs have)"
    )


def _restricted(part: TaskRun, units: pd.MultiIndex) -> TaskRun:
    """Keep these units of a run; what it lacks of them counts 0, whatever the order of ties."""
    values = part.values.set_index(UNIT).reindex(units)
    lost = ~units.isin(pd.MultiIndex.from_frame(part.values[UNIT]))
    values.loc[lost, :] = 0.0
    values = values.rename_axis(UNIT).reset_index()
    kept = part.candidates()
    if kept is not None and not of_pairs(part.measure):
        kept = kept[pd.MultiIndex.from_frame(kept[UNIT]).isin(units)].reset_index(drop=True)
    return replace(part, values=values, scores=None, ranking=kept)


def _same_data(task: str, first: Run, other: Run, one: TaskRun, two: TaskRun) -> None:
    revisions = [part.manifest.task.revision if part.manifest else None for part in (one, two)]
    if None not in revisions and revisions[0] != revisions[1]:
        raise DataError(f"{task}: {first.name} is of data revision {revisions[0]}, {other.name} of {revisions[1]}")
