"""What all commands share: the application, its console, options that several take."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from rerank_eval import __version__
from rerank_eval.engine.quiet import hush
from rerank_eval.errors import ConfigError
from rerank_eval.names import SPLIT_MARK
from rerank_eval.visible import make_console

_COMMANDS = (
    *("eval", "doctor", "plan", "tasks", "schema", "configs", "recipes", "score", "fetch"),
    *("leaderboard", "compare", "parity", "report", "lab", "inspect", "runs", "reproduce", "verify"),
    *("store", "candidates"),
)
"""In the order in which `--help` lists them."""

hush()

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Evaluate rerankers: retrieve the top 100 candidates, rerank them, score with mteb.

Start with `rerank-eval eval`: it needs no GPU and no hub. `rerank-eval tasks` lists what can be evaluated,
`rerank-eval score` shows one pair with its exact prompt.""",
    epilog="Exit codes: 0 ok, 1 bug, 2 config, 3 data, 4 model, 5 hub out of reach, 6 storage, 7 device, "
    "8 off the published numbers, 9 broken set-up (doctor), 10 altered result (verify), 11 silent server, "
    "12 two sides differ (parity), 130 Ctrl-C, 143 SIGTERM.",
)

# Into a file or a pipe a table gets the width it needs rather than rich's 80 columns.
console = make_console(soft_wrap=True, width=None if sys.stdout.isatty() else 140)

TaskOption = Annotated[
    list[str] | None,
    typer.Option("--task", "-t", help="Suite, task or BEIR folder; may be given several times. Overrides the config."),
]
SplitOption = Annotated[
    str | None,
    typer.Option("--split", help="Split of every task, such as dev; of one task it is TASK@dev. Overrides the config."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="YAML config, or a name that `configs` lists. Without it one is chosen, and the first line says why.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Override a key, such as `reranker.dtype=float16`. May be given several times."),
]
MeasureOption = Annotated[
    str | None,
    typer.Option("--measure", help="Compare this instead of main scores: map_at_100, nDCG@20, mrr, recall_at_1000."),
]
MissingOption = Annotated[
    str,
    typer.Option(
        "--missing", help="Queries that a run lacks: `zero`, or `intersection` for what all have; else refused."
    ),
]


def with_split(settings: list[str] | None, split: str | None) -> list[str]:
    """Return the `--set` arguments with that of `--split` behind them."""
    return [*(settings or []), *([] if split is None else [f"split={json.dumps(split)}"])]


def of_split(tasks: list[str] | None, split: str | None) -> list[str]:
    """Return the tasks with their split behind them, where there is no config to say so."""
    if split is not None and not tasks:
        raise ConfigError(f"--split {split}: name its task with --task")
    return list(tasks or []) if split is None else [f"{task}{SPLIT_MARK}{split}" for task in tasks or []]


def _version(value: bool) -> None:
    if value:
        console.print(f"rerank-eval {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


for _name in _COMMANDS:
    importlib.import_module(f"rerank_eval.commands.{_name}")  # each adds itself to the application
