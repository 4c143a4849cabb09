"""Which config a run is of, and reading it with what the command line says on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rerank_eval.config import LoadedConfig, load_config
from rerank_eval.config.files import find_config

OFFLINE_CONFIG, HUB_CONFIG = Path("offline"), Path("qwen3-0.6b")


def choose_config(tasks: Sequence[str], config: Path | None) -> tuple[Path, str]:
    """Choose the config, and say why.

    Args:
        tasks: Tasks given on the command line.
        config: The config given on the command line, or None.

    Returns:
        The config, by its file or, where it is a shipped one, by its name; and the reason.

    Raises:
        ConfigError: A task or the config's name is unknown.
    """
    chosen, why = (config, "you named it") if config is not None else _fitting(tasks)
    shown, file = find_config(chosen)
    return shown, why if shown == file else f"{why}; comes with rerank-eval"


def _fitting(tasks: Sequence[str]) -> tuple[Path, str]:
    if not tasks:
        return OFFLINE_CONFIG, "the default: no GPU and no hub needed"
    from rerank_eval.tasks.registry import resolve

    kinds = {ref.kind for ref in resolve(tasks, where="--task")}
    if "mteb" in kinds:
        return HUB_CONFIG, "the task is hub data; name another with --config"
    if "beir" in kinds and _gpu():
        return HUB_CONFIG, "the task is a folder and a GPU is here; name another with --config"
    if "beir" in kinds:
        return OFFLINE_CONFIG, "the task is a folder and no GPU is here; name another with --config"
    return OFFLINE_CONFIG, "the task is embedded: no GPU and no hub needed"


def _gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def read_config(
    path: Path,
    tasks: Sequence[str] = (),
    overrides: Sequence[str] = (),
    results_dir: Path | None = None,
) -> LoadedConfig:
    """Read a config with tasks, results folder and `--set` arguments on top.

    Args:
        path: The config, or the name of a shipped one.
        tasks: In place of the config's; empty keeps them.
        overrides: `--set` arguments.
        results_dir: In place of the config's; None keeps it.

    Raises:
        ConfigError: The file is not there, or something in it is wrong.
    """
    extra: dict[str, object] = {"tasks": list(tasks)} if tasks else {}
    if results_dir is not None:
        extra["results_dir"] = str(results_dir)
    return load_config(path, overrides, extra)


def choose_and_read(
    tasks: Sequence[str], config: Path | None, overrides: Sequence[str], console: Console
) -> LoadedConfig:
    """Choose the config, say which and why, and read it.

    Args:
        tasks: Tasks given on the command line.
        config: The config given on the command line, or None.
        overrides: `--set` arguments.
        console: Where the choice is told.

    Raises:
        ConfigError: A task is unknown, or the config is wrong.
    """
    path, why = choose_config(tasks, config)
    console.print(f"config: {path} ({why})", markup=False)
    return read_config(path, tasks, overrides)
