"""The command `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import SplitOption, app, console, of_split


@app.command()
def inspect(
    run: Annotated[
        str, typer.Argument(help="An identity (`runs` lists them), a model, or any file or folder of a result.")
    ],
    *,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Only this task; a BEIR folder by its path.")] = None,
    split: SplitOption = None,
    query: Annotated[str | None, typer.Option("--query", "-q", help="Show this query and its candidates.")] = None,
    worst: Annotated[int, typer.Option("--worst", min=1, help="How many queries are shown.")] = 10,
    missed: Annotated[bool, typer.Option("--missed", help="Relevant documents that were not retrieved.")] = False,
    render: Annotated[
        int | None, typer.Option("--render", min=1, help="With --query: render the prompt of this rank.")
    ] = None,
    cell: Annotated[
        str | None, typer.Option("--cell", help="With --query: only this SUBSET/SPLIT, where ids repeat.")
    ] = None,
    results_dir: Annotated[Path, typer.Option("--results", "-r", help="A results folder.")] = Path("results"),
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Mirror from which the run read its data sets, if it did.")
    ] = None,
    model_root: Annotated[Path | None, typer.Option("--model-root", help="The same for models; for --render.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this JSON file.")] = None,
) -> None:
    """Show where a run fails: its worst queries, one query in full, what retrieval missed.

    Examples:
        rerank-eval inspect 3f2a9c

        rerank-eval inspect 3f2a9c --task PyFunctionRetrieval --query csv.Sniffer.sniff --render 1

        rerank-eval inspect BM25 --missed
    """
    from rerank_eval.pipeline.inspection import InspectionRequest, inspect_run

    task = next(iter(of_split([task] if task else [], split)), None)
    request = InspectionRequest(
        run, task, query, worst, missed, render, cell, results_dir, data_root, model_root, json_file
    )
    inspect_run(request, console)
