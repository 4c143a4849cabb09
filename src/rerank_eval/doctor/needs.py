"""What a run reads through the hub or its cache, told from names alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rerank_eval.config import LoadedConfig, RunConfig
from rerank_eval.tasks.registry import TaskRef


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


def fetch_command(loaded: LoadedConfig) -> str:
    """Return the command that fetches what a config's runs need."""
    return f"rerank-eval fetch --config {loaded.path}"


def _on_hub(name: str) -> bool:
    # As `models.resolve.resolve_model` tells folders from hub names; the built-in models have no slash.
    is_folder = name.startswith((".", "/", "~")) or (Path(name) / "config.json").is_file()
    return "/" in name and not is_folder
