"""Checks results against a published table, cell by cell.

A suite's score is the mean over its tasks of the mean over all split x subset cells of main_score. A suite that lacks a
task, a split or a subset is incomplete and has no score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rerank_eval.errors import ConfigError
from rerank_eval.names import did_you_mean, some
from rerank_eval.reproduce.choice import Choice, Filter, choose
from rerank_eval.reproduce.footnotes import footnotes
from rerank_eval.reproduce.mteb_results import Cell, Experiment, ResultsFolder, TaskFile
from rerank_eval.reproduce.published import PerTask, Published, PublishedModel, PublishedTask, Tolerance
from rerank_eval.tasks.suites import Suite, SuiteTask
from rerank_eval.visible import one_line

PUBLISHED_FILE = "published file"
"""The very numbers that were published, held against themselves: nothing was run, so nothing is reproduced."""
REPRODUCED, CLOSE, OFF = "reproduced", "close", "off"
BESIDE = "beside"
"""A score stands beside a published one that no single run can be held against. Only such tables have it."""
INCOMPLETE, AMBIGUOUS, NOT_RUN = "incomplete", "ambiguous", "not run"
VERDICTS = (REPRODUCED, PUBLISHED_FILE, CLOSE, OFF, INCOMPLETE, AMBIGUOUS, NOT_RUN)

STEM = "reproduction"
_SLACK = 1e-9  # a difference of exactly the tolerance is within it, whatever floats make of it


@dataclass(frozen=True)
class Verdict:
    """One cell of the table, or one task of the retriever.

    Attributes:
        model: The name in the table.
        name: The suite's or the task's name.
        published: The published score.
        ours: Our score, None unless every cell of it was run.
        tolerance: Largest difference that counts as reproduced.
        verdict: One of `VERDICTS`.
        missing: What keeps it from a score, in words.
        notes: Differences of protocol, in words.
        source: Folder of the result files, empty where there are none.
        settings: Revision and settings of what was compared.
    """

    model: str
    name: str
    published: float
    ours: float | None
    tolerance: Tolerance
    verdict: str
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    source: str = ""
    settings: str = ""

    @property
    def difference(self) -> float | None:
        """Ours less the published, None without a score of ours."""
        return None if self.ours is None else self.ours - self.published


@dataclass(frozen=True)
class Verdicts:
    """A verdict for every cell that was asked for.

    Attributes:
        published: The table.
        cells: One verdict for each model and suite asked for.
        tasks: One verdict for each task of the retriever; empty when the retriever was not asked for.
        problems: Files that could not be used.
        set_aside: Results with other settings than those asked for, which were not compared.
        stem: Name of the files that this is written to.
    """

    published: Published
    cells: tuple[Verdict, ...]
    tasks: tuple[Verdict, ...]
    problems: tuple[str, ...]
    set_aside: tuple[str, ...]
    stem: str = STEM

    def count(self, verdict: str) -> int:
        """Count the table's cells of one verdict."""
        return sum(cell.verdict == verdict for cell in self.cells)


@dataclass(frozen=True)
class Rules:
    """A published table, and what is needed to check results against it.

    Attributes:
        published: The table.
        per_task: The retriever's published score on every task, or None where none are published.
        suites: Suite -> its definition.
        stem: Name of the files that the verdicts are written to.
    """

    published: Published
    per_task: PerTask | None
    suites: Mapping[str, Suite]
    stem: str = STEM

    def __post_init__(self) -> None:
        """Check that the data files fit together.

        Raises:
            ConfigError: A suite of the table is not defined, or a task's subsets or published score are missing.
        """
        for name in self.published.suites:
            if name not in self.suites:
                raise ConfigError(f"published suite {name!r} is not defined; {did_you_mean(name, self.suites)}")
            for task in self.suites[name].tasks:
                if not task.subset_names:
                    raise ConfigError(f"suite {name}: {task.name}: subset_names: needs the names of its subsets")
                if self.per_task is not None and task.name not in self.per_task.tasks:
                    raise ConfigError(f"{self.published.per_task}: tasks.{task.name} is missing")

    def tasks(self, suites: Sequence[str]) -> dict[str, SuiteTask]:
        """Return the tasks of some suites, each once."""
        return {task.name: task for suite in suites for task in self.suites[suite].tasks}

    def check(
        self,
        folder: ResultsFolder,
        filters: Mapping[str, Sequence[Filter]],
        models: Sequence[str],
        suites: Sequence[str],
    ) -> Verdicts:
        """Check what a folder holds.

        Args:
            folder: What `read_results` returned.
            filters: Hub name -> which of a model's experiments count, the decisive one first.
            models: Names of the table's rows to check.
            suites: Names of its columns to check.

        Returns:
            A verdict for each of these cells, and for each of their tasks where the retriever is among the rows.
        """
        cells: list[Verdict] = []
        tasks: list[Verdict] = []
        aside: dict[str, None] = {}
        for model in self.published.models:
            if model.name not in models:
                continue
            experiments, of_model = folder.of(model.hub), filters.get(model.hub, ())
            for name in suites:
                choice = choose(experiments, [task.name for task in self.suites[name].tasks], of_model)
                cells.append(self._cell(model, self.suites[name], choice))
                aside.update(dict.fromkeys(f"{model.name}: {one.label}" for one in choice.set_aside))
            if model.hub == self.published.retriever and self.per_task is not None:
                for name, task in self.tasks(suites).items():
                    known = self.per_task.tasks[name]
                    tasks.append(self._task(model, task, known, choose(experiments, [name], of_model)))
        return Verdicts(self.published, tuple(cells), tuple(tasks), folder.problems, tuple(aside), self.stem)

    def _cell(self, model: PublishedModel, suite: Suite, choice: Choice) -> Verdict:
        published, tolerance = model.scores[suite.name], self.published.tolerance(suite.name)
        chosen = choice.experiment
        if chosen is None:
            return Verdict(model.name, suite.name, published, None, tolerance, *_without_score(choice))
        usable = {task.name: usable_file(chosen, task.name, self._first_stage(model, choice)) for task in suite.tasks}
        files = {name: file for name, file in usable.items() if isinstance(file, TaskFile)}
        missing = self._missing(suite, usable)
        ours = None if missing else self.published.scale * self._mean(suite, files)
        notes = footnotes(self.published, self.per_task, model, suite, chosen=chosen, files=files)
        found = Verdict(model.name, suite.name, published, ours, tolerance, INCOMPLETE, tuple(missing), notes)
        return self._compared(found, chosen, files, same=self._same_run(model, chosen, list(files.values())))

    def _task(self, model: PublishedModel, task: SuiteTask, known: PublishedTask, choice: Choice) -> Verdict:
        scale, tolerance = self.published.scale, self.published.task_tolerance(task.queries)
        published, chosen = scale * known.main_score, choice.experiment
        if chosen is None:
            return Verdict(model.name, task.name, published, None, tolerance, *_without_score(choice))
        file = chosen.files[task.name]
        cells = _published_cells(known) or self._cells(task)
        lacking = [cell for cell in cells if cell not in file.cells]
        ours = None if lacking else scale * math.fsum(file.cells[cell] for cell in cells) / len(cells)
        notes = []
        if len(cells) < len(self._cells(task)):
            notes.append(f"published for {len(cells)} of {len(self._cells(task))} cells, judged on these")
        if file.dataset_revision != known.dataset_revision:
            notes.append(f"data revision {file.dataset_revision[:12]}, published {known.dataset_revision[:12]}")
        missing = tuple(_lacking(task, lacking, file))
        found = Verdict(model.name, task.name, published, ours, tolerance, INCOMPLETE, missing, tuple(notes))
        same = self._same_run(model, chosen, [file], known.mteb_version)
        return self._compared(found, chosen, {task.name: file}, same=same)

    def _compared(self, found: Verdict, chosen: Experiment, files: Mapping[str, TaskFile], *, same: bool) -> Verdict:
        """Say how near the score is; of the very files that were published, within the tolerance of the same run."""
        limits = self.published.tolerances
        tolerance = limits.same_run if same and limits is not None else found.tolerance
        verdict = found.verdict
        if found.difference is not None:
            off = abs(found.difference)
            themselves = same and all(self._is_published(name, file) for name, file in files.items())
            reach = tolerance.points * (1 if limits is None else limits.close)
            verdict = CLOSE if off <= reach + _SLACK else OFF
            # Where the protocol is not known, nobody can say that this is a rerun of it.
            if off <= tolerance.points + _SLACK and self.published.known_in_full:
                verdict = PUBLISHED_FILE if themselves else REPRODUCED
            if self.published.retriever is None:
                verdict = BESIDE
        source = one_line(str(chosen.folder))
        return replace(found, tolerance=tolerance, verdict=verdict, source=source, settings=chosen.label)

    def _first_stage(self, model: PublishedModel, choice: Choice) -> str | None:
        """Return whose candidates a plain reranker result must have been made on; ours say so in their settings."""
        return choice.first_stage or self.published.retriever if model.stage == "reranker" else None

    def _same_run(
        self, model: PublishedModel, chosen: Experiment, files: Sequence[TaskFile], mteb: str | None = None
    ) -> bool:
        """Tell whether these are the very files that were published."""
        version = mteb or self.published.mteb
        return (
            version is not None
            and model.stage == "retriever"
            and not chosen.settings
            and chosen.revision == model.revision
            and all(file.mteb_version == version for file in files)
        )

    def _is_published(self, name: str, file: TaskFile) -> bool:
        """Tell whether a file of the published run has the published numbers themselves, to the last digit."""
        if self.per_task is None:
            return False
        known = self.per_task.tasks[name]
        task = next(task for suite in self.suites.values() for task in suite.tasks if task.name == name)
        cells = _published_cells(known) or self._cells(task)
        if any(cell not in file.cells for cell in cells):
            return False
        mean = math.fsum(file.cells[cell] for cell in cells) / len(cells)
        return abs(mean - known.main_score) <= _SLACK

    def _cells(self, task: SuiteTask) -> list[Cell]:
        return [(split, subset) for split in task.splits for subset in task.subset_names]

    def _mean(self, suite: Suite, files: Mapping[str, TaskFile]) -> float:
        means = []
        for task in suite.tasks:
            cells = self._cells(task)
            means.append(math.fsum(files[task.name].cells[cell] for cell in cells) / len(cells))
        return math.fsum(means) / len(means)

    def _missing(self, suite: Suite, usable: Mapping[str, TaskFile | str]) -> list[str]:
        absent = [name for name, file in usable.items() if file == ""]
        missing = [f"no result of {some(absent)} ({len(absent)} of {len(suite.tasks)} tasks)"] if absent else []
        for task in suite.tasks:
            file = usable[task.name]
            if isinstance(file, TaskFile):
                missing += _lacking(task, [cell for cell in self._cells(task) if cell not in file.cells], file)
            elif file:
                missing.append(f"{task.name}: {file}")
        return missing


def usable_file(chosen: Experiment, task: str, first_stage: str | None) -> TaskFile | str:
    """Return a task's file, or why it does not count: empty when there is none.

    Args:
        chosen: The experiment.
        task: The task.
        first_stage: Whose candidates it must have reranked; None for a retriever. Only what mteb recorded in the file
            of a plain run is held against it, since an experiment's settings were compared before.
    """
    file = chosen.files.get(task)
    if file is None:
        return ""
    if first_stage is not None and "retriever" not in chosen.settings:
        others = sorted(name for name in file.first_stage if _label(name) != _label(first_stage))
        if others:
            return f"made on candidates of {others[0]}"
    return file


def _label(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _without_score(choice: Choice) -> tuple[str, tuple[str, ...]]:
    """Return verdict and reason where there is no one experiment to compare."""
    if choice.rivals:
        labels = [one.label for one in choice.rivals]
        return AMBIGUOUS, (f"{len(labels)} results with different settings: {some(labels, separator='; ')}",)
    if choice.set_aside:
        return NOT_RUN, (f"{len(choice.set_aside)} result(s) with other settings, which are not judged",)
    return NOT_RUN, ()


def _published_cells(known: PublishedTask) -> list[Cell]:
    return [(split, subset) for split, subsets in known.scores.items() for subset in subsets]


def _lacking(task: SuiteTask, lacking: Sequence[Cell], file: TaskFile) -> list[str]:
    """Say in a few words which cells are missing or unusable."""
    lines = []
    for split in task.splits:
        gone = [subset for where, subset in lacking if where == split and (split, subset) not in file.bad]
        present = any(where == split for where, _ in [*file.cells, *file.bad])
        if gone and not present:
            lines.append(f"{task.name}: no split {split}")
        elif gone:
            lines.append(f"{task.name}: {split} lacks {len(gone)} of {task.subsets} subset(s): {some(gone)}")
    bad = [cell for cell in lacking if cell in file.bad]
    if bad:
        (split, subset), reason = bad[0], file.bad[bad[0]]
        lines.append(f"{task.name}: {len(bad)} cell(s) unusable, the first {split}/{subset}: {reason}")
    return lines
