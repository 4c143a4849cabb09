"""Tasks that are means over others: their members are run, and averaged here as mteb does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rerank_eval.reproduce.mteb_results import Cell, Experiment, ResultsFolder, TaskFile
from rerank_eval.tasks.suites import SuiteTask


def main_scores(tasks: Iterable[SuiteTask]) -> dict[str, str]:
    """Return the main score of each task and of its members, by name."""
    return {name: task.main_score for task in tasks for name in (task.name, *task.members)}


def averaged(folder: ResultsFolder, tasks: Iterable[SuiteTask]) -> ResultsFolder:
    """Add the means over members of a task.

    Args:
        folder: What was read, members among it.
        tasks: The tasks.

    Returns:
        The folder with a file of each such task in each experiment that has all its members; where mteb wrote one
        itself, that one stays.
    """
    whole = [task for task in tasks if task.members]
    return (
        replace(folder, experiments=tuple(_with_means(one, whole) for one in folder.experiments)) if whole else folder
    )


def _with_means(experiment: Experiment, tasks: Sequence[SuiteTask]) -> Experiment:
    files = dict(experiment.files)
    for task in tasks:
        members = [files[name] for name in task.members if name in files]
        if task.name not in files and len(members) == len(task.members):
            files[task.name] = _mean(
                members, [(split, subset) for split in task.splits for subset in task.subset_names]
            )
    return replace(experiment, files=files)


def _mean(members: Sequence[TaskFile], cells: Sequence[Cell]) -> TaskFile:
    scores = {
        cell: math.fsum(member.cells[cell] for member in members) / len(members)
        for cell in cells
        if all(cell in member.cells for member in members)
    }
    bad = {cell: f"{one.path.stem}: {one.bad[cell]}" for cell in cells for one in members if cell in one.bad}
    return TaskFile(
        path=members[0].path,
        mteb_version=", ".join(sorted({one.mteb_version for one in members})),
        dataset_revision=", ".join(sorted({one.dataset_revision for one in members})),
        cells=scores,
        bad=bad,
        first_stage=frozenset().union(*(one.first_stage for one in members)),
    )
