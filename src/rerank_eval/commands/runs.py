"""The command `runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import app, console


@app.command()
def runs(
    results_dir: Annotated[Path, typer.Option("--results", "-r", help="A results folder.")] = Path("results"),
) -> None:
    """List the runs of a results folder with the identities that `compare` takes."""
    from rerank_eval.session.comparison import show_runs

    show_runs(results_dir, console)
