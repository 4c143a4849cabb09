"""Which config a run is of, and reading it with what the command line says on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rerank_eval.config import LoadedConfig, load_config
from rerank_eval.errors import ConfigError

CONFIGS = Path("configs")
OFFLINE_CONFIG = CONFIGS / "offline.yaml"
HUB_CONFIG = CONFIGS / "qwen3-0.6b.yaml"


def choose_config(tasks: Sequence[str], config: Path | None) -> tuple[Path, str]:
    """Choose the config, and say why.

    Args:
        tasks: Tasks given on the command line.
        config: The config given on the command line, or None.

    Returns:
        The file and the reason.

    Raises:
        ConfigError: A task is unknown.
    """
    if config is not None:
        return config, "you named it"
    if not tasks:
        return OFFLINE_CONFIG, "the default: no GPU and no hub needed"
    from rerank_eval.tasks.registry import resolve

    kinds = {ref.kind for ref in resolve(tasks, where="TASK")}
    if "mteb" in kinds:
        return HUB_CONFIG, "TASK names hub data; name another with CONFIG="
    if "beir" in kinds and _gpu():
        return HUB_CONFIG, "TASK is a folder and a GPU is here; name another with CONFIG="
    if "beir" in kinds:
        return OFFLINE_CONFIG, "TASK is a folder and no GPU is here; name another with CONFIG="
    return OFFLINE_CONFIG, "TASK is embedded: no GPU and no hub needed"


def _gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def read_config(
    path: Path,
    tasks: Sequence[str] = (),
    overrides: Sequence[str] = (),
    results_dir: Path | None = None,
    *,
    named: bool = True,
) -> LoadedConfig:
    """Read a config with tasks, results folder and `--set` arguments on top.

    Args:
        path: The config.
        tasks: In place of the config's; empty keeps them.
        overrides: `--set` arguments.
        results_dir: In place of the config's; None keeps it.
        named: Whether the user named the config; one that was chosen may not be in reach.

    Raises:
        ConfigError: The file is not there, or something in it is wrong.
    """
    if not named and not path.is_file():
        raise ConfigError(f"{path}: not here; run from the project's folder, or name a config with --config")
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
    return read_config(path, tasks, overrides, named=config is not None)
