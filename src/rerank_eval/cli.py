"""The command line: parse, call one function, render.

Exit codes: 0 success, 1 a bug, 2 config or command line, 3 data, 4 model, 5 hub out of reach, 6 storage, 7 device,
8 off the published numbers, 9 a broken set-up (`doctor`), 130 Ctrl-C (`rerank_eval.errors`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from rerank_eval import __version__
from rerank_eval.errors import INTERRUPTED, ConfigError, RerankEvalError
from rerank_eval.files import storage_error
from rerank_eval.quiet import hush

hush()

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Evaluate rerankers: retrieve the top 100 candidates, rerank them, score with mteb.

Start with `rerank-eval eval`: it needs no GPU and no hub. `rerank-eval tasks` lists what can be evaluated,
`rerank-eval score` shows one pair with its exact prompt.""",
    epilog="Exit codes: 0 ok, 1 bug, 2 config, 3 data, 4 model, 5 hub out of reach, 6 storage, 7 device, "
    "8 off the published numbers, 9 broken set-up (doctor), 130 Ctrl-C.",
)

# Into a file or a pipe a table gets the width it needs rather than rich's 80 columns.
console = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
error_console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

TaskOption = Annotated[
    list[str] | None,
    typer.Option("--task", "-t", help="Suite, task or BEIR folder; may be given several times. Overrides the config."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML config. Without it one is chosen, and the first line says why."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Override a key, such as `reranker.dtype=float16`. May be given several times."),
]


def _version(value: bool) -> None:
    if value:
        console.print(f"rerank-eval {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command("eval")
def evaluate(task: TaskOption = None, config: ConfigOption = None, set_: SetOption = None) -> None:
    """Retrieve, rerank, score, and write the leaderboard.

    Examples:
        rerank-eval eval

        rerank-eval eval --task PyFunctionRetrieval --set embedded.size=medium

        rerank-eval eval --task SciFact --config configs/qwen3-0.6b.yaml

        rerank-eval eval --task path/to/my_beir_folder

    What is done already is not done again; Ctrl-C loses the task under way at most.
    """
    from rerank_eval.app import run_eval

    run_eval(task or [], config, set_ or [], console)


@app.command()
def doctor(
    *,
    task: TaskOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Load no model: look at packages, device, disks, data and files alone.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this JSON file.")] = None,
) -> None:
    """Find out what is wrong with the set-up, before a run does: one line a check, with its remedy.

    Examples:
        rerank-eval doctor

        rerank-eval doctor --config configs/qwen3-0.6b.yaml --task MTEB-R

        rerank-eval doctor --config configs/model-card.yaml --no-weights --json doctor.json

    Models whose weights are here are loaded and tried on known pairs; nothing is downloaded but their small files.
    Exit code 0 when no check failed (warnings are allowed), 9 when one did.
    """
    from rerank_eval.app import run_doctor

    run_doctor(task or [], config, set_ or [], console, weights=not no_weights, json_file=json_file)


@app.command()
def plan(
    *,
    task: TaskOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=1e-6, help="TFLOP/s of useful work on your device, if you know it.")
    ] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="What an hour of your device costs.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this JSON file.")] = None,
) -> None:
    """Say what a run will cost before it starts: pairs, tokens, hours, disk, and what is done already.

    Example:
        rerank-eval plan --config configs/model-card.yaml --price 3

    Nothing is downloaded and no model is loaded.
    """
    from rerank_eval.app import choose_config
    from rerank_eval.pipeline.estimate_table import show_estimate

    chosen, why = choose_config(task or [], config)
    console.print(f"config: {chosen} ({why})", markup=False)
    told = (task or [], set_ or [])
    show_estimate(chosen, told, console, rate=None if rate is None else rate * 1e12, price=price, json=json_file)


@app.command()
def tasks(
    suite: Annotated[str | None, typer.Argument(help="Show this suite's tasks; without it, all suites.")] = None,
) -> None:
    """List every suite and task with splits, subsets, queries and pairs at 100 candidates."""
    from rerank_eval.app import show_tasks

    show_tasks(suite, console)


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file instead.")] = None,
) -> None:
    """Print the JSON Schema of a config; editors read it through `configs/schema.json`."""
    import json

    from rerank_eval.config import json_schema
    from rerank_eval.files import write_text

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        write_text(output, text)


@app.command()
def score(
    query: Annotated[str, typer.Option("--query", "-q", help="The query.")],
    document: Annotated[str, typer.Option("--document", "-d", help="The document.")],
    instruction: Annotated[
        str | None, typer.Option("--instruction", "-i", help="The instruction; without it, what the config says.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Score one pair: the exact rendered prompt, its token count, the margin and P(yes).

    Example:
        rerank-eval score -q "What is the capital of China?" -d "The capital of China is Beijing."
    """
    from rerank_eval.app import score_pair

    score_pair((query, document), instruction, config, set_ or [], console)


@app.command()
def fetch(
    *,
    task: TaskOption = None,
    suite: Annotated[list[str] | None, typer.Option("--suite", help="The same, for suites.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="ORG/NAME, or ORG/NAME@REVISION; several times. Overrides the config."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Fetch what this config's tasks and models need.")
    ] = None,
    set_: SetOption = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder for data sets; else the config's, else mirror/data.")
    ] = None,
    model_root: Annotated[
        Path | None, typer.Option("--model-root", help="Folder for models; else the config's, else mirror/models.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell sizes, download nothing.")] = False,
) -> None:
    """Download what a run reads, for `data_root` and `model_root`: where there is no network it runs on that.

    Examples:
        rerank-eval fetch --config configs/model-card.yaml --dry-run

        rerank-eval fetch --task SciFact --model Qwen/Qwen3-Reranker-0.6B

    Only the files that are needed, at the revisions that mteb or the config pins. Sizes first; the same command goes on
    with what is missing.
    """
    from rerank_eval.fetch.run import Request
    from rerank_eval.fetch.run import fetch as run

    tasks = (*(suite or ()), *(task or ()))
    run(Request(tasks, tuple(model or ()), config, tuple(set_ or ()), data_root, model_root, dry_run), console)


@app.command()
def leaderboard(
    results_dir: Annotated[Path, typer.Option("--results", "-r", help="A results folder.")] = Path("results"),
    insert: Annotated[
        Path | None, typer.Option("--insert", help="Also put the table between the markers in this Markdown file.")
    ] = None,
) -> None:
    """Make the leaderboard again from the files in a results folder."""
    from rerank_eval.app import show_leaderboard

    show_leaderboard(results_dir, {}, console, insert)


@app.command()
def compare(
    names: Annotated[
        list[str],
        typer.Argument(help="Configs, identities, models, result folders or files; the first is the baseline."),
    ],
    *,
    task: TaskOption = None,
    set_: SetOption = None,
    results_dir: Annotated[Path | None, typer.Option("--results", "-r", help="A results folder.")] = None,
    run: Annotated[bool, typer.Option("--run", help="First run what the configs lack.")] = False,
    against: Annotated[
        str, typer.Option("--against", help="`retriever` makes a config's retriever the baseline.")
    ] = "",
    measure: Annotated[
        str | None, typer.Option("--measure", help="Compare this column of per_query.parquet, such as mrr_at_10.")
    ] = None,
    qrels: Annotated[Path | None, typer.Option("--qrels", help="Judgements for TREC runs.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws; the same seed gives the same bytes.")] = 20_250_605,
    name: Annotated[str | None, typer.Option("--name", help="Of the files written under comparisons/.")] = None,
) -> None:
    """Compare runs query by query with the first of them: intervals, tests, corrections, what moved.

    Examples:
        rerank-eval compare configs/ablate-instructions.yaml --run --task PyFunctionRetrieval

        rerank-eval compare 3f2a9c 81bd07

        rerank-eval compare configs/offline.yaml --against retriever

        rerank-eval compare ours.trec theirs.trec --qrels test.qrels
    """
    from rerank_eval.pipeline.comparison import Request, compare_runs

    request = Request(
        tuple(names),
        tuple(task or ()),
        results_dir,
        tuple(set_ or ()),
        run=run,
        against=against,
        measure=measure,
        qrels=qrels,
        seed=seed,
        name=name,
    )
    compare_runs(request, console)


@app.command()
def lab(
    *,
    task: Annotated[str, typer.Option("--task", "-t", help="One task, or a BEIR folder.")],
    instruction: Annotated[
        list[str],
        typer.Option("--instruction", "-i", help="none, default, task, a set, a file or a text; two or more."),
    ],
    config: Annotated[Path, typer.Option("--config", "-c", help="Whose models are used.")] = Path("configs/base.yaml"),
    set_: SetOption = None,
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
            tuple(set_ or ()),
            first=first,
            most=most,
            alpha=alpha,
            seed=seed,
        ),
        console,
    )


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
        typer.Option(
            "--config", "-c", help="What to run, or whose results to judge; configs/model-card.yaml by default."
        ),
    ] = None,
    only_judge: Annotated[bool, typer.Option("--only-judge", help="Run nothing; judge what is there.")] = False,
    results_dir: Annotated[
        Path | None,
        typer.Option("--results", "-r", help="Results folder; to judge, any folder in mteb's layout will do."),
    ] = None,
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
    from rerank_eval.pipeline.reproduce import Request
    from rerank_eval.pipeline.reproduce import reproduce as run

    request = Request(
        config, results_dir, tuple(model or ()), tuple(suite or ()), json_file, only_judge, keep_going, strict
    )
    run(request, console)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error that a user can mend ends in one line and a documented exit code.

    Args:
        arguments: Command-line arguments; None takes the process's own.
    """
    raise SystemExit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    code = 0
    try:
        result: Any = app(args=arguments, prog_name="rerank-eval", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except RerankEvalError as error:
        code = _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        clear = storage_error(error, Path(error.filename or "."))
        if clear is None:
            raise
        code = _fail(str(clear), clear.exit_code)
    except Exception as error:
        # Typer imports click in some releases and carries a copy in others, so its usage errors have no one class.
        usage = getattr(error, "format_message", None)
        if usage is None:
            raise
        code = _fail(usage(), ConfigError.exit_code)
    if code == INTERRUPTED:  # typer turns Ctrl-C inside a command into this code by itself
        error_console.print("interrupted: finished tasks are kept; the same command goes on with what is missing")
    return code


def _fail(message: str, code: int) -> int:
    error_console.print(f"[bold red]error:[/] {escape(message)}")
    return code
