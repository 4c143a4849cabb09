"""The command `lab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import SetOption, SplitOption, app, console, with_split


@app.command()
def lab(
    *,
    task: Annotated[str, typer.Option("--task", "-t", help="One task, or a BEIR folder.")],
    instruction: Annotated[
        list[str],
        typer.Option("--instruction", "-i", help="none, default, task, a set, a file or a text; two or more."),
    ],
    config: Annotated[Path, typer.Option("--config", "-c", help="Whose models are used.")] = Path("base"),
    set_: SetOption = None,
    split: SplitOption = None,
    first: Annotated[int, typer.Option("--first", min=2, help="Queries of the first sample.")] = 30,
    most: Annotated[int | None, typer.Option("--most", min=2, help="Queries at most.")] = None,
    alpha: Annotated[float, typer.Option("--alpha", min=1e-6, max=0.5, help="Chance of any false verdict.")] = 0.05,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of queries.")] = 20_250_605,
) -> None:
    """Find out which instruction is best on as few queries as that takes.

    Example:
        rerank-eval lab --task PyFunctionRetrieval -i none -i task -i "Judge whether the code does this"

    A variant is dropped as soon as a sequential test calls it worse; the rest go on to more queries.
    """
    from rerank_eval.session.lab import LabRequest, run_lab

    run_lab(
        LabRequest(
            config,
            task,
            tuple(instruction),
            tuple(with_split(set_, split)),
            first=first,
            most=most,
            alpha=alpha,
            seed=seed,
        ),
        console,
    )
