"""What a reader has to know of a cell: the differences of protocol between the published number and ours."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rerank_eval.metrics.registry import two_digits
from rerank_eval.reproduce.mteb_results import Experiment, TaskFile
from rerank_eval.reproduce.published import PerTask, Published, PublishedModel
from rerank_eval.tasks.suites import Suite

_P_MRR = "p-MRR"


def footnotes(
    published: Published,
    per_task: PerTask | None,
    model: PublishedModel,
    suite: Suite,
    *,
    chosen: Experiment,
    files: Mapping[str, TaskFile],
) -> tuple[str, ...]:
    """Collect the differences of protocol that apply to a cell.

    Returns:
        Footnotes in words: those that the table's file lists, then those that follow from the results.
    """
    notes = [
        difference.text
        for difference in published.differences
        if (not difference.suites or suite.name in difference.suites)
        and (not difference.models or model.name in difference.models)
    ]
    notes += _versions(published, files)
    if per_task is not None:
        notes += _data(per_task, files)
    notes += _settings(published, model, chosen)
    notes += _instruction(published, suite, model, chosen)
    if any(task.main_score == _P_MRR for task in suite.tasks):
        notes.append(_candidates(published, model, chosen))
    if any(len(task.splits) > 1 for task in suite.tasks):
        notes += _first_splits(published, suite, files)
    return tuple(notes)


def _versions(published: Published, files: Mapping[str, TaskFile]) -> list[str]:
    versions = sorted({file.mteb_version for file in files.values()} - {published.mteb})
    if published.mteb is None:
        return [f"mteb: {', '.join(versions)}, with which version was published is not said"] if versions else []
    return [f"mteb: {', '.join(versions)}, published with {published.mteb}"] if versions else []


def _data(per_task: PerTask, files: Mapping[str, TaskFile]) -> list[str]:
    other = [
        name
        for name, file in files.items()
        if name in per_task.tasks and file.dataset_revision != per_task.tasks[name].dataset_revision
    ]
    return [f"data: another revision than the retriever's published results for {', '.join(other)}"] if other else []


def _settings(published: Published, model: PublishedModel, chosen: Experiment) -> list[str]:
    settings = chosen.settings
    notes = []
    dtype = settings.get("dtype")
    if model.dtype is not None and dtype is not None and dtype != model.dtype:
        notes.append(f"dtype: {dtype}, published with {model.dtype}")
    if chosen.filed != chosen.model:
        notes.append("weights: from a local folder of this name, not known to be the published ones")
    elif model.revision is not None and chosen.revision != model.revision:
        notes.append(f"model revision: {chosen.revision[:12]}, published {model.revision[:12]}")
    if model.stage == "retriever":
        return notes
    return notes + _recipe(published, model, chosen) + _reranked(published, chosen)


def _recipe(published: Published, model: PublishedModel, chosen: Experiment) -> list[str]:
    recipe = chosen.settings.get("recipe")
    if published.recipe is None:
        return [] if recipe is None else [f"recipe: {recipe}, with which prompt was published is not said"]
    if recipe is not None and recipe != published.recipe:
        return [f"recipe: {recipe}, published with {published.recipe}"]
    if recipe is None and model.dtype is not None:
        return [f"recipe: not recorded with the result, published with {published.recipe}"]
    return []


def _reranked(published: Published, chosen: Experiment) -> list[str]:
    """Tell whose candidates were reranked, and how many, where they are others than was published."""
    settings, notes = chosen.settings, []
    if published.retriever is None:
        whose = settings.get("retriever", "a model that is not recorded")
        notes.append(f"candidates: of {whose}, published as a mean over several retrievers, so nothing is judged")
    elif settings.get("retriever", first := published.retriever.rsplit("/", 1)[-1]) != first:
        notes.append(f"candidates: of {settings['retriever']}, published on those of {first}")
    if "top_k" not in settings:
        notes.append(f"candidates: how many were reranked is not recorded, published on the top {published.top_k}")
    elif settings["top_k"] != published.top_k:
        notes.append(f"candidates: top {settings['top_k']}, published on the top {published.top_k}")
    return notes


def _instruction(published: Published, suite: Suite, model: PublishedModel, chosen: Experiment) -> list[str]:
    how, used = suite.published_with, chosen.settings.get("instruction")
    # Sequence classifiers are published without a dtype, and read no instruction.
    if how is None or used is None or model.dtype is None or published.recipe is None:
        return []
    wanted = how.retriever_instruction if model.stage == "retriever" else how.instruction
    name = str(used).partition("@")[0]
    return [] if name == wanted else [f"instruction: {name}, published with the set {wanted}"]


def _candidates(published: Published, model: PublishedModel, chosen: Experiment) -> str:
    if chosen.settings.get("candidates") == "retrieved":
        return (
            f"p-MRR: over the top {chosen.settings.get('top_k', published.top_k)} of the retriever; the card says top "
            f"{published.top_k}, but the retriever's published files are over the task's own 1000"
        )
    note = f"p-MRR: over the task's own 1000 candidates; the card says top {published.top_k}, and cutting moves p-MRR"
    if model.stage == "retriever":
        note += " (the published files behind this row are over the 1000 too)"
    return note


def _first_splits(published: Published, suite: Suite, files: Mapping[str, TaskFile]) -> list[str]:
    """Tell what averaging each task's first split alone would give, when every task has one."""
    means = []
    for task in suite.tasks:
        file = files.get(task.name)
        values = [] if file is None else [value for (split, _), value in file.cells.items() if split == task.splits[0]]
        if len(values) < task.subsets:
            return []
        means.append(math.fsum(values) / len(values))
    return [
        f"averaging: first splits alone would give {two_digits(published.scale * math.fsum(means) / len(means))} here"
    ]
