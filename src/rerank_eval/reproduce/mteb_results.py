"""Reads result files in mteb's layout: `<org__model>/<revision>[/experiments/<name>]/<Task>.json`.

The layout is that of a clone of the public results repository, of mteb's ResultCache and of this project's
`results/mteb`. Nothing of mteb is imported: the files are read as they are, and a file that is not a result is told in
one line and left out.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rerank_eval.errors import ConfigError
from rerank_eval.files import load_json
from rerank_eval.metrics.registry import agree
from rerank_eval.results.locate import mteb_files
from rerank_eval.visible import one_line

Cell = tuple[str, str]
"""(split, subset)"""

_ROOTS = (".", "results", "mteb/results", "remote/results")
_META = "model_meta.json"
_COMMIT = re.compile("[0-9a-f]{40}")
_EXPERIMENTS = "experiments"
_AGREE = 1e-4  # published files round scores to five decimals


@dataclass(frozen=True)
class TaskFile:
    """One result file.

    Attributes:
        path: The file.
        mteb_version: mteb's version, `unknown` where it is not told.
        dataset_revision: The data's revision, `unknown` where it is not told.
        cells: (split, subset) -> main_score on mteb's scale, finite; not rounded where the result is ours.
        bad: (split, subset) -> why its main_score cannot be used.
        first_stage: Names of the models whose candidates were reranked, where mteb recorded them.
    """

    path: Path
    mteb_version: str
    dataset_revision: str
    cells: Mapping[Cell, float]
    bad: Mapping[Cell, str]
    first_stage: frozenset[str]


@dataclass(frozen=True)
class Experiment:
    """All results of one model under one revision and one set of settings, that is: of one folder.

    Attributes:
        model: Hub name.
        filed: Name under which the results are filed: the hub name, or `local/<name>` for weights from a folder.
        revision: Name of the revision's folder.
        settings: mteb's `experiment_kwargs`, empty for a plain run.
        folder: Where the files are.
        files: Task -> its file.
    """

    model: str
    filed: str
    revision: str
    settings: Mapping[str, Any]
    folder: Path
    files: Mapping[str, TaskFile] = field(repr=False)

    @property
    def label(self) -> str:
        """Revision and settings in one line."""
        shown = [f"{key}={value}" for key, value in sorted(self.settings.items())]
        return one_line(" ".join([self.revision[:12], *shown]))


@dataclass(frozen=True)
class ResultsFolder:
    """What a folder holds.

    Attributes:
        root: The folder.
        experiments: In a fixed order.
        problems: One line for each file that could not be used.
    """

    root: Path
    experiments: tuple[Experiment, ...]
    problems: tuple[str, ...]

    def of(self, model: str) -> list[Experiment]:
        """Return the experiments of one model."""
        return [experiment for experiment in self.experiments if experiment.model == model]


class _NotAResultError(ValueError):
    """A file is not one of mteb's result files."""


def read_results(root: Path, models: Collection[str], tasks: Mapping[str, str]) -> ResultsFolder:
    """Read the results of some models on some tasks.

    Args:
        root: A folder in mteb's layout, or one that holds such a folder as `results`, `mteb/results` or
            `remote/results`.
        models: Hub names.
        tasks: Task -> name of its main score.

    Returns:
        What is there; nothing for a model that has no folder.

    Raises:
        ConfigError: The folder does not exist, or a folder has one model's name and the files in it another's.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder; name a results folder with --results")
    experiments: list[Experiment] = []
    problems: list[str] = []
    exact = _unrounded(root)
    for model in models:
        names = dict.fromkeys((model, f"local/{model.rsplit('/', 1)[-1]}"))
        for name, base in itertools.product(names, _ROOTS):
            for revision in _subfolders(root / base / _folder_name(name)):
                for folder in (revision, *_subfolders(revision / _EXPERIMENTS)):
                    read = _files(folder, tasks, problems)
                    if read:
                        _check_owner((revision, folder), (name, model), problems)
                    files = {task: _exact(file, exact.get(file.path.resolve(), {})) for task, file in read.items()}
                    settings = _settings(folder, len(files), problems) if files else None
                    if settings is not None:
                        experiments.append(Experiment(model, name, revision.name, settings, folder, files))
    return ResultsFolder(root, tuple(experiments), tuple(one_line(problem) for problem in problems))


def models_in(root: Path) -> list[str]:
    """List the models of which a folder holds results, by what their files say, else by their folders' names.

    Args:
        root: As `read_results` takes it.
    """
    found: dict[str, None] = {}
    for base in _ROOTS:
        for folder in _subfolders(root / base):
            for revision in _subfolders(folder):
                if "__" in folder.name and any(path.name != _META for path in revision.rglob("*.json")):
                    found[_told(revision, "name") or one_line(folder.name.replace("__", "/"))] = None
    return list(found)


def _told(folder: Path, key: str) -> str | None:
    """Return what a folder's `model_meta.json` says, or None where it says nothing."""
    try:
        meta = _json(folder / _META)
    except _NotAResultError:
        return None
    value = meta.get(key) if isinstance(meta, dict) else None
    return (one_line(value) or None) if isinstance(value, str) else None


def _check_owner(folders: Sequence[Path], names: tuple[str, str], problems: list[str]) -> None:
    """Refuse files that say whose they are and stand under another model's name, or another commit's.

    Args:
        folders: The revision's folder and, inside it, the files' own; they may be the same.
        names: The name that the folder stands for, and the model's on the hub: weights from a folder may have either.
        problems: Told of a `model_meta.json` that cannot be read.
    """
    for folder in dict.fromkeys(folders):
        if not (folder / _META).exists():
            continue
        name, revision = _told(folder, "name"), _told(folder, "revision")
        if name is None:
            problems.append(f"{folder / _META}: names no model; whose results these are is the folder's word alone")
        elif name.lower() not in {one.lower() for one in names}:
            raise ConfigError(
                f"{folder}: stands under the name of {names[0]}, and its {_META} says that the results are "
                f"{name}'s; move them to {_folder_name(name)}, or mend the file"
            )
        standing = folders[0].name
        if (
            revision is not None
            and revision != standing
            and _COMMIT.fullmatch(revision)
            and _COMMIT.fullmatch(standing)
        ):
            raise ConfigError(
                f"{folder}: stands under the revision {standing}, and its {_META} says {revision}; move it, or "
                "mend the file"
            )


def _unrounded(root: Path) -> dict[Path, dict[Cell, float]]:
    """Read the scores of our own results, which mteb's files of them have rounded to five digits."""
    found: dict[Path, dict[Cell, float]] = {}
    for _, file, manifest in mteb_files(root):
        scores = {(cell.split, cell.subset): cell.main for cell in manifest.scores.cells}
        # Manifests of older releases have mteb's values, but for the mean of all cells.
        main = manifest.scores.unrounded(manifest.task.main_score)
        found[file] = scores if len(scores) != 1 else dict.fromkeys(scores, main)
    return found


def _exact(file: TaskFile, ours: Mapping[Cell, float]) -> TaskFile:
    cells = {
        cell: ours[cell] if agree(ours.get(cell, math.nan), value) else value for cell, value in file.cells.items()
    }
    return replace(file, cells=cells)


def _folder_name(model: str) -> str:
    return model.replace("/", "__").replace(" ", "_")


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _files(folder: Path, tasks: Mapping[str, str], problems: list[str]) -> dict[str, TaskFile]:
    files: dict[str, TaskFile] = {}
    for task, main_score in tasks.items():
        path = folder / f"{task}.json"
        if not path.is_file():
            continue
        try:
            files[task] = _task_file(path, task, main_score)
        except _NotAResultError as error:
            problems.append(f"{path}: {error}; left out")
    return files


def _settings(folder: Path, count: int, problems: list[str]) -> dict[str, Any] | None:
    """Return an experiment's settings, none for a plain run; without them two experiments could be taken for one."""
    if folder.parent.name != _EXPERIMENTS:
        return {}
    path = folder / _META
    try:
        meta = _json(path)
        settings = meta.get("experiment_kwargs") if isinstance(meta, dict) else None
        if not isinstance(settings, dict) or not settings:
            raise _NotAResultError("says not which settings the experiment had")
    except _NotAResultError as error:
        problems.append(f"{path}: {error}; the folder's {count} result(s) left out")
        return None
    return {one_line(str(key)): _setting(value) for key, value in settings.items()}


def _setting(value: Any) -> Any:
    if isinstance(value, str):
        return one_line(value)
    return value if value is None or isinstance(value, bool | int | float) else f"({type(value).__name__})"


def _json(path: Path) -> Any:
    try:
        return load_json(path)
    except OSError as error:
        raise _NotAResultError(f"cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise _NotAResultError(f"not valid JSON ({type(error).__name__})") from None


def _task_file(path: Path, task: str, main_score: str) -> TaskFile:
    data = _json(path)
    scores = data.get("scores") if isinstance(data, dict) else None
    if not isinstance(scores, dict) or not scores:
        raise _NotAResultError("not one of mteb's result files (no `scores`)")
    if data.get("task_name", task) != task:
        raise _NotAResultError("names another task inside")
    cells: dict[Cell, float] = {}
    bad: dict[Cell, str] = {}
    first_stage: set[str] = set()
    for split, entries in scores.items():
        if not isinstance(entries, list):
            raise _NotAResultError(f"not one of mteb's result files (split {split!r} is no list)")
        for entry in entries:
            if not isinstance(entry, dict) or not isinstance(entry.get("hf_subset"), str):
                raise _NotAResultError(f"not one of mteb's result files (an entry of {split!r} has no hf_subset)")
            cell = (split, entry["hf_subset"])
            if cell in cells or cell in bad:
                raise _NotAResultError(f"split {split!r} holds subset {cell[1]!r} twice")
            value = _value(entry, main_score)
            if isinstance(value, float):
                cells[cell] = value
            else:
                bad[cell] = value
            before = entry.get("previous_results_model_meta")
            if isinstance(before, dict) and isinstance(before.get("model_name"), str):
                first_stage.add(one_line(before["model_name"]))
    return TaskFile(
        path, _text(data.get("mteb_version")), _text(data.get("dataset_revision")), cells, bad, frozenset(first_stage)
    )


def _value(entry: Mapping[str, Any], main_score: str) -> float | str:
    """Return an entry's main score, or why it cannot be used."""
    value = _number(entry.get("main_score"))
    if value is None:
        return "no main_score" if "main_score" not in entry else "main_score is not a finite number"
    if not -1 <= value <= 1:
        return f"main_score {value:g} is not on mteb's scale of 0..1"
    metric = _number(entry.get(main_score))
    if metric is not None and abs(metric - value) > _AGREE:
        return f"main_score is not its {main_score}"
    return value


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str:
    return (one_line(value) if isinstance(value, str) else "") or "unknown"
