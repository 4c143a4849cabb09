"""The command `leaderboard`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import app, console


@app.command()
def leaderboard(
    results_dir: Annotated[Path, typer.Option("--results", "-r", help="A results folder.")] = Path("results"),
    insert: Annotated[
        Path | None, typer.Option("--insert", help="Also put the table between the markers in this Markdown file.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option("--format", help="Print only this: md, csv, tex, card (the model card's table), model-index."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only this model; needed for model-index.")] = None,
    *,
    depths: Annotated[
        bool,
        typer.Option("--depths", help="Instead: rerankers at rerank depths 10, 20, 50, ..., from their scores."),
    ] = False,
) -> None:
    """Make the leaderboard again from the files in a results folder.

    Examples:
        rerank-eval leaderboard

        rerank-eval leaderboard --format card

        rerank-eval leaderboard --format model-index --model Qwen3-Reranker-0.6B

        rerank-eval leaderboard --depths
    """
    if depths:
        from rerank_eval.analysis.depths import depth_curves, render_depths

        console.print(render_depths(depth_curves(results_dir)), markup=False)
        return
    from rerank_eval.analysis.leaderboard import print_leaderboard, show_leaderboard

    if layout is None:
        show_leaderboard(results_dir, {}, console, insert)
    else:
        sys.stdout.write(print_leaderboard(results_dir, layout, model))
