"""What a config's runs read from the hub, by name alone, and the command that fetches it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from rerank_eval.config import LoadedConfig, RunConfig
from rerank_eval.models.resolve import on_hub
from rerank_eval.typed import command

_READ_BY_FETCH = {"retriever", "reranker", "grid", "tasks"}


def hub_models(run: RunConfig) -> list[str]:
    """List the hub's models that a run names and no mirror holds."""
    if run.model_root is not None:
        return []
    names = [run.retriever.model, *([run.reranker.model] if run.reranker is not None else [])]
    return [name for name in names if on_hub(name)]


def fetch_command(loaded: LoadedConfig, roots: Mapping[str, str] | None = None) -> str:
    """Return the one command that fetches all that a config's runs read, with what the command line changed of it.

    Args:
        loaded: The config, or one cut to some of its models.
        roots: `data_root` and `model_root` -> folder to fetch into; None takes the config's, as far as it has any.
    """
    if roots is None:
        configured = {"data_root": loaded.base.data_root, "model_root": loaded.base.model_root}
        roots = {key: root for key, root in configured.items() if root is not None}
    arguments: list[str | Path] = ["fetch", "--config", loaded.path]
    for option, names in (("--task", loaded.given_tasks), ("--model", loaded.given_models)):
        for name in names:
            arguments += [option, name]
    for override in loaded.overrides:  # those that change nothing about what is read are left out
        if re.split("[.=]", override)[0].strip() in _READ_BY_FETCH:
            arguments += ["--set", override]
    for key, root in roots.items():
        arguments += [f"--{key.replace('_', '-')}", root]
    return command(*arguments)
