"""The published results of Qwen3-Embedding-0.6B as files in mteb's layout, rebuilt from `evals/published`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rerank_eval.reproduce.published import load_per_task, load_published
from rerank_eval.reproduce.verdicts import Rules
from rerank_eval.tasks.suites import load_suites

RETRIEVER = "Qwen/Qwen3-Embedding-0.6B"
SPREAD = 0.004


def make_rules() -> Rules:
    published = load_published()
    return Rules(published, load_per_task(published), load_suites())


def task_names() -> dict[str, str]:
    rules = make_rules()
    return {name: task.main_score for name, task in rules.tasks(rules.published.suites).items()}


def write_task(folder: Path, task: str, scores: dict[str, dict[str, Any]], **changes: Any) -> Path:
    """Write one result file: split -> subset -> main_score."""
    content = {
        "dataset_revision": "1",
        "task_name": task,
        "mteb_version": "1.38.9",
        "scores": {
            split: [
                {"main_score": value, "hf_subset": subset, "languages": ["eng-Latn"]}
                for subset, value in subsets.items()
            ]
            for split, subsets in scores.items()
        },
        "evaluation_time": 1.0,
        "kg_co2_emissions": None,
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task}.json"
    path.write_text(json.dumps(content))
    return path


def cells_around(mean: float, splits: tuple[str, ...], subsets: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Scores that differ from cell to cell and whose mean over all cells is exactly the given one."""
    count = len(splits) * len(subsets)
    values = iter([mean + SPREAD * ((index + 0.5) / count - 0.5) for index in range(count)])
    return {split: {subset: next(values) for subset in subsets} for split in splits}


def write_published(root: Path, folder: str = "results") -> Path:
    """Write every published result of the retriever; returns the revision's folder."""
    rules = make_rules()
    revision = root / folder / RETRIEVER.replace("/", "__") / rules.per_task.revision
    for name, task in rules.tasks(rules.published.suites).items():
        known = rules.per_task.tasks[name]
        scores = known.scores or cells_around(known.main_score, task.splits, task.subset_names)
        write_task(revision, name, scores, mteb_version=known.mteb_version, dataset_revision=known.dataset_revision)
    (revision / "model_meta.json").write_text(json.dumps({"name": RETRIEVER, "revision": rules.per_task.revision}))
    return revision


def edit(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
