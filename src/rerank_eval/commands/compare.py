"""The command `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import (
    MeasureOption,
    MissingOption,
    SetOption,
    SplitOption,
    TaskOption,
    app,
    console,
    of_split,
    with_split,
)


@app.command()
def compare(
    names: Annotated[
        list[str],
        typer.Argument(help="Configs, identities, models, results, run files; the first is the baseline."),
    ],
    *,
    task: TaskOption = None,
    set_: SetOption = None,
    split: SplitOption = None,
    results_dir: Annotated[Path | None, typer.Option("--results", "-r", help="A results folder.")] = None,
    run: Annotated[bool, typer.Option("--run", help="First run what the configs lack.")] = False,
    against: Annotated[
        str, typer.Option("--against", help="`retriever`: each reranker against its own retriever, not the first run.")
    ] = "",
    measure: MeasureOption = None,
    missing: MissingOption = "",
    qrels: Annotated[
        Path | None, typer.Option("--qrels", help="Judge all runs by this: TREC's format, or a result's qrels.parquet.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws; the same seed gives the same bytes.")] = 20_250_605,
    name: Annotated[str | None, typer.Option("--name", help="Of the files written under comparisons/.")] = None,
) -> None:
    """Compare runs query by query with the first of them: intervals, tests, corrections, what moved.

    Examples:
        rerank-eval compare ablate-instructions --run --task PyFunctionRetrieval

        rerank-eval compare 3f2a9c 81bd07

        rerank-eval compare offline --against retriever

        rerank-eval compare ours.trec theirs.trec --qrels test.qrels --measure recall_at_100

        rerank-eval compare 3f2a9c theirs.trec.gz --missing zero
    """
    from rerank_eval.config.files import is_config
    from rerank_eval.session.comparison import ComparisonRequest, compare_runs

    in_config = not task and any(is_config(one) for one in names)
    request = ComparisonRequest(
        tuple(names),
        () if in_config else tuple(of_split(task, split)),
        results_dir,
        tuple(with_split(set_, split)),
        run=run,
        against=against,
        measure=measure,
        missing=missing,
        qrels=qrels,
        seed=seed,
        name=name,
    )
    compare_runs(request, console)
