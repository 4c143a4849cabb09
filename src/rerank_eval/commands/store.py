"""Commands on the score cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import app, console

store = typer.Typer(
    no_args_is_help=True,
    help="""Look after the score cache: every pair that was ever scored, under what it was scored with.

A run reads it and adds to it; nothing has to be done by hand.""",
)
app.add_typer(store, name="store")

ResultsOption = Annotated[Path, typer.Option("--results", "-r", help="A results folder.")]
NameArgument = Annotated[
    str | None, typer.Argument(help="An identity (the beginning is enough) or a model's label; none for all.")
]


@store.command("ls")
def list_(name: NameArgument = None, results_dir: ResultsOption = Path("results")) -> None:
    """List what is stored: identities, tasks, shards, pairs, size."""
    from rerank_eval.store.admin import show

    show(results_dir, name, console)


@store.command()
def verify(name: NameArgument = None, results_dir: ResultsOption = Path("results")) -> None:
    """Read every shard whole and check it; exit code 3 when one is unsound."""
    from rerank_eval.store.admin import verify as check

    check(results_dir, name, console)


@store.command()
def gc(
    name: NameArgument = None,
    results_dir: ResultsOption = Path("results"),
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Drop set-aside files and what killed runs left, and join small shards; no sound score is lost."""
    from rerank_eval.store.admin import collect

    collect(results_dir, name, console, dry_run=dry_run)


@store.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="A file that ends in .parquet or .csv.")],
    name: NameArgument = None,
    results_dir: ResultsOption = Path("results"),
) -> None:
    """Copy stored scores into one file, with model, task, subset and split."""
    from rerank_eval.store.admin import export as copy

    copy(results_dir, name, output, console)
