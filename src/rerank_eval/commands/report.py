"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import MeasureOption, MissingOption, SplitOption, TaskOption, app, console, of_split


@app.command()
def report(
    names: Annotated[
        list[str] | None, typer.Argument(help="Runs as `compare` takes them, the baseline first; none for all.")
    ] = None,
    *,
    task: TaskOption = None,
    split: SplitOption = None,
    results_dir: Annotated[Path | None, typer.Option("--results", "-r", help="A results folder.")] = None,
    against: Annotated[
        str,
        typer.Option("--against", help="`retriever`: each reranker against its own, as without names, not the first."),
    ] = "",
    measure: MeasureOption = None,
    missing: MissingOption = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The page; report.html by default.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the comparisons' draws.")] = 20_250_605,
) -> None:
    """Write one HTML page to read and share: leaderboard, comparison, plots, queries, manifests.

    The page needs no network and no other file.
    """
    from rerank_eval.session.comparison import ComparisonRequest, write_page

    request = ComparisonRequest(
        tuple(names or ()),
        tuple(of_split(task, split)),
        results_dir,
        against=against,
        measure=measure,
        missing=missing,
        seed=seed,
    )
    write_page(request, output, console)
