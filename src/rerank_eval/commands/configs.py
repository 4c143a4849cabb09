"""Configs that come with the package: list them, copy one to edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml
from tabulate import tabulate

from rerank_eval.commands import app, console
from rerank_eval.config.loading import find_config, flattened
from rerank_eval.config.yaml_files import read_yaml
from rerank_eval.errors import ConfigError
from rerank_eval.files import write_text
from rerank_eval.names import did_you_mean
from rerank_eval.shipped import config_names, shipped_config
from rerank_eval.typed import command

_DESCRIPTION_WIDTH = 90


@app.command()
def configs() -> None:
    """List the configs that come with the package; `--config NAME` runs one, `init NAME` copies it here to edit.

    A file of that name in this folder, or in its folder `configs`, is read instead.
    """
    rows = []
    for name in config_names():
        shown, file = find_config(Path(name))
        description = " ".join(str(read_yaml(file).get("description") or "").split())
        rows.append([name, description, "" if shown == Path(name) else shown])
    heads = ["config", "what it is for", "read from"]
    widths = [None, _DESCRIPTION_WIDTH, None]
    if not any(row[2] for row in rows):
        heads, widths, rows = heads[:2], widths[:2], [row[:2] for row in rows]
    console.print(tabulate(rows, headers=heads, tablefmt="simple", maxcolwidths=widths), markup=False)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="A config that `configs` lists.")] = "offline",
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it is there.")] = False,
) -> None:
    """Write a copy of a shipped config into this folder, to edit and run; what it extends is written into it.

    Examples:
        rerank-eval init

        rerank-eval init qwen3-8b
    """
    if name not in config_names():
        raise ConfigError(f"{name}: no such config; {did_you_mean(name, config_names())}")
    target = Path(f"{name}.yaml")
    if target.exists() and not force:
        raise ConfigError(f"{target}: is here already; --force overwrites it")
    head = f"# A copy of rerank-eval's config {name}. `rerank-eval schema` prints every key with its meaning.\n"
    settings = flattened(shipped_config(name))
    write_text(target, head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=110))
    console.print(f"written: {target}; run it: {command('eval', '--config', target)}", markup=False)
