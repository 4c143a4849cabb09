"""The command `reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import SetOption, app, console


@app.command()
def reproduce(
    *,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="What to run, or whose results to judge; by default the table's own."),
    ] = None,
    published: Annotated[
        str, typer.Option("--published", help="The published table: model-card, jina-reranker-v3, ettin, or a file.")
    ] = "model-card",
    only_judge: Annotated[bool, typer.Option("--only-judge", help="Run nothing; judge what is there.")] = False,
    results_dir: Annotated[
        Path | None,
        typer.Option("--results", "-r", help="Results folder; to judge, any folder in mteb's layout will do."),
    ] = None,
    set_: SetOption = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Only this row; may be given several times.")
    ] = None,
    suite: Annotated[
        list[str] | None, typer.Option("--suite", help="Only this column; may be given several times.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this JSON file.")] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Go on after a wrong retriever or a model that cannot be run.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail also when a cell is incomplete, ambiguous or not run.")
    ] = False,
) -> None:
    """Run what a published table needs, the model card's by default, and judge each cell against its number.

    Examples:
        rerank-eval reproduce --model Qwen3-Reranker-0.6B --suite MTEB-R

        rerank-eval reproduce --only-judge

        rerank-eval reproduce --only-judge --results path/to/clone_of_embeddings-benchmark_results

        rerank-eval reproduce --published jina-reranker-v3 --config mine.yaml

    The retriever comes first, task by task where the table has its tasks: if it is off, nothing is reranked. Exit code
    8 when a cell is off.
    """
    from rerank_eval.reproduce.run import ReproductionRequest
    from rerank_eval.reproduce.run import reproduce as run

    request = ReproductionRequest(
        config,
        results_dir,
        tuple(model or ()),
        tuple(suite or ()),
        json_file,
        only_judge,
        keep_going,
        strict,
        tuple(set_ or ()),
        published,
    )
    run(request, console)
