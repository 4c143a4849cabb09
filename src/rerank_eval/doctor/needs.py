"""What a run reads through the hub or its cache, told from names alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rerank_eval.config import LoadedConfig, RunConfig
from rerank_eval.tasks.registry import TaskRef
from rerank_eval.typed import fetch_command


def hub_models(run: RunConfig) -> list[str]:
    """List the hub's models that a run names and no mirror holds."""
    if run.model_root is not None:
        return []
    names = [run.retriever.model, *([run.reranker.model] if run.reranker is not None else [])]
    return [name for name in names if _on_hub(name)]


def needs_hub(loaded: LoadedConfig, tasks: Sequence[TaskRef]) -> list[str]:
    """List what a config's runs read through the hub or its cache.

    Args:
        loaded: The config.
        tasks: Its tasks.

    Returns:
        Model names, each once, and `data sets`.
    """
    found = [name for run in loaded.runs for name in hub_models(run)]
    if loaded.base.data_root is None and any(task.kind == "mteb" for task in tasks):
        found.append("data sets")
    return list(dict.fromkeys(found))


def fetch_needs(loaded: LoadedConfig, roots: Mapping[str, str] | None = None) -> str:
    """Return the command that fetches what a config's runs need.

    Args:
        loaded: The config, or one cut to some of its models.
        roots: `data_root` and `model_root` -> folder to fetch into; None takes the config's, as far as it has any.
    """
    if roots is None:
        own = {"data_root": loaded.base.data_root, "model_root": loaded.base.model_root}
        roots = {key: root for key, root in own.items() if root is not None}
    return fetch_command(loaded.path, (loaded.told_tasks, loaded.told_models), loaded.overrides, roots)


def _on_hub(name: str) -> bool:
    # As `models.resolve.resolve_model` tells folders from hub names; the built-in models have no slash.
    is_folder = name.startswith((".", "/", "~")) or (Path(name) / "config.json").is_file()
    return "/" in name and not is_folder
