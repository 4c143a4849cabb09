"""The command `parity`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import SetOption, SplitOption, app, console, with_split


@app.command()
def parity(
    a: Annotated[str, typer.Argument(help="A config, by file or name; the side that is trusted.")],
    b: Annotated[
        str | None,
        typer.Argument(help="Another config, or a server's address: A's model there. None: A's config with --set-b."),
    ] = None,
    *,
    task: Annotated[str | None, typer.Option("--task", "-t", help="One task, or a BEIR folder.")] = None,
    split: SplitOption = None,
    set_: SetOption = None,
    set_b: Annotated[list[str] | None, typer.Option("--set-b", help="Override a key of B's config alone.")] = None,
    queries: Annotated[int, typer.Option("--queries", min=0, help="How many are sampled; 0 for all.")] = 20,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.0, help="Largest difference of margins that counts as the same.")
    ] = 1e-3,
    results_dir: Annotated[Path | None, typer.Option("--results", "-r", help="A results folder.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this JSON file.")] = None,
) -> None:
    """Score the same pairs in two ways, and say why they differ: prompt, cut, head, number format, order.

    Examples:
        rerank-eval parity offline --task PyFunctionRetrieval --set-b reranker.engine=reference

        rerank-eval parity qwen3-0.6b http://localhost:8000 --task SciFact

        rerank-eval parity ours.yaml theirs.yaml --task ./my-data --queries 0 --json parity.json

    Exit code 12 where they differ by more than the tolerance.
    """
    from rerank_eval.session.parity import run_parity
    from rerank_eval.session.parity_sides import ParityRequest

    request = ParityRequest(
        a,
        b,
        task,
        tuple(with_split(set_, split)),
        tuple(set_b or []),
        queries=queries,
        tolerance=tolerance,
        results=results_dir,
        json=json_file,
    )
    run_parity(request, console)
