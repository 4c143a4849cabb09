"""Commands on results: leaderboard, compare, report, lab, inspect, runs, reproduce."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import SetOption, SplitOption, TaskOption, app, console, of_split, with_split

MeasureOption = Annotated[
    str | None,
    typer.Option("--measure", help="Compare this instead of main scores: map_at_100, nDCG@20, mrr, recall_at_1000."),
]
MissingOption = Annotated[
    str,
    typer.Option(
        "--missing", help="Queries that a run lacks: `zero`, or `intersection` for what all have; else refused."
    ),
]


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
) -> None:
    """Make the leaderboard again from the files in a results folder.

    Examples:
        rerank-eval leaderboard

        rerank-eval leaderboard --format card

        rerank-eval leaderboard --format model-index --model Qwen3-Reranker-0.6B
    """
    from rerank_eval.app import print_leaderboard, show_leaderboard

    if layout is None:
        show_leaderboard(results_dir, {}, console, insert)
    else:
        sys.stdout.write(print_leaderboard(results_dir, layout, model))


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
    from rerank_eval.config.loading import is_config
    from rerank_eval.pipeline.comparison import Request, compare_runs

    in_config = not task and any(is_config(one) for one in names)
    request = Request(
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
    from rerank_eval.pipeline.comparison import Request, write_page

    request = Request(
        tuple(names or ()),
        tuple(of_split(task, split)),
        results_dir,
        against=against,
        measure=measure,
        missing=missing,
        seed=seed,
    )
    write_page(request, output, console)


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
    from rerank_eval.pipeline.lab import Request, run_lab

    run_lab(
        Request(
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
    from rerank_eval.pipeline.inspection import Request, inspect_run

    task = next(iter(of_split([task] if task else [], split)), None)
    request = Request(run, task, query, worst, missed, render, cell, results_dir, data_root, model_root, json_file)
    inspect_run(request, console)


@app.command()
def runs(
    results_dir: Annotated[Path, typer.Option("--results", "-r", help="A results folder.")] = Path("results"),
) -> None:
    """List the runs of a results folder with the identities that `compare` takes."""
    from rerank_eval.pipeline.comparison import show_runs

    show_runs(results_dir, console)


@app.command()
def reproduce(
    *,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="What to run, or whose results to judge; model-card by default."),
    ] = None,
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
    """Run what the model card's table needs, and judge each cell against the published number.

    Examples:
        rerank-eval reproduce --model Qwen3-Reranker-0.6B --suite MTEB-R

        rerank-eval reproduce --only-judge

        rerank-eval reproduce --only-judge --results path/to/clone_of_embeddings-benchmark_results

    The retriever comes first and is judged task by task: if it is off, nothing is reranked. Exit code 8 when a cell is
    off.
    """
    from rerank_eval.reproduce.run import Request
    from rerank_eval.reproduce.run import reproduce as run

    request = Request(
        config,
        results_dir,
        tuple(model or ()),
        tuple(suite or ()),
        json_file,
        only_judge,
        keep_going,
        strict,
        tuple(set_ or ()),
    )
    run(request, console)


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
    from rerank_eval.pipeline.verification import verify as check

    check(names or [], of_split(task, split), results_dir, console)
