"""The command `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import SplitOption, TaskOption, app, console, of_split


@app.command()
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Identities, models, or any file or folder of results; none for everything."),
    ] = None,
    *,
    task: TaskOption = None,
    split: SplitOption = None,
    results_dir: Annotated[Path, typer.Option("--results", "-r", help="A results folder.")] = Path("results"),
) -> None:
    """Check that numbers follow from their files: digests, metrics judged again, mteb's file, candidates, the table.

    Examples:
        rerank-eval verify

        rerank-eval verify 3f2a9c --task PyFunctionRetrieval

        rerank-eval verify results/mteb/results/MODEL/REVISION/PyFunctionRetrieval.json

    Exit code 10 when something does not follow. Scores and judgements are those that stand beside the manifest.
    """
    from rerank_eval.analysis.verification import verify as check

    check(names or [], of_split(task, split), results_dir, console)
