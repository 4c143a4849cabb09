"""Commands before and during a run: eval, doctor, plan, fetch, tasks, schema, score."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import ConfigOption, SetOption, SplitOption, TaskOption, app, console, of_split, with_split


@app.command("eval")
def evaluate(
    task: TaskOption = None, config: ConfigOption = None, set_: SetOption = None, split: SplitOption = None
) -> None:
    """Retrieve, rerank, score, and write the leaderboard.

    Examples:
        rerank-eval eval

        rerank-eval eval --task PyFunctionRetrieval --set embedded.size=medium

        rerank-eval eval --task SciFact --config qwen3-0.6b

        rerank-eval eval --task path/to/my_beir_folder --split dev

    What is done already is not done again; Ctrl-C loses nothing, a crash the block of queries under way at most.
    """
    from rerank_eval.app import run_eval

    run_eval(task or [], config, with_split(set_, split), console)


@app.command()
def doctor(
    *,
    task: TaskOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    split: SplitOption = None,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Load no model: look at packages, device, disks, data and files alone.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this JSON file.")] = None,
) -> None:
    """Find out what is wrong with the set-up, before a run does: one line a check, with its remedy.

    Examples:
        rerank-eval doctor

        rerank-eval doctor --config qwen3-0.6b --task MTEB-R

        rerank-eval doctor --config model-card --no-weights --json doctor.json

    Models whose weights are here are loaded and tried on known pairs; nothing is downloaded but their small files.
    Exit code 0 when no check failed (warnings are allowed), 9 when one did.
    """
    from rerank_eval.app import run_doctor

    settings = with_split(set_, split)
    run_doctor(task or [], config, settings, console, weights=not no_weights, json_file=json_file)


@app.command()
def plan(
    *,
    task: TaskOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    split: SplitOption = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=1e-6, help="TFLOP/s of useful work on your device, if you know it.")
    ] = None,
    device_name: Annotated[
        str | None, typer.Option("--device-name", help="Reckon for this device, of which results/bench has files.")
    ] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="What an hour of your device costs.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything to this JSON file.")] = None,
) -> None:
    """Say what a run will cost before it starts: pairs, tokens, hours, disk, and what is done already.

    Examples:
        rerank-eval plan --config model-card --price 3

        rerank-eval plan --config model-card --rate 395

    Reckoned for the config's device on this machine: layers of each model's shape are measured for a second. --rate
    reckons for another. Nothing is downloaded and no model is loaded.
    """
    from rerank_eval.app import choose_config
    from rerank_eval.pipeline.estimate_table import show_estimate

    chosen, why = choose_config(task or [], config)
    console.print(f"config: {chosen} ({why})", markup=False)
    told = (task or [], with_split(set_, split))
    flops = None if rate is None else rate * 1e12
    show_estimate(chosen, told, console, rate=flops, device_name=device_name, price=price, json=json_file)


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
    """Print the JSON Schema of a config; editors read it from a file."""
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
        Path | None,
        typer.Option("--config", "-c", help="Fetch what this config needs; with nothing named, what `eval` would run."),
    ] = None,
    set_: SetOption = None,
    split: SplitOption = None,
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
        rerank-eval fetch --config model-card --dry-run

        rerank-eval fetch --task SciFact --model Qwen/Qwen3-Reranker-0.6B

    Only the files that are needed, at the revisions that mteb or the config pins. Sizes first; the same command goes on
    with what is missing.
    """
    from rerank_eval.fetch.run import Request
    from rerank_eval.fetch.run import fetch as run

    tasks, settings = [*(suite or ()), *(task or ())], set_ or []
    if config is None and not tasks and not model:  # what `eval` would run
        from rerank_eval.app import choose_config

        config, why = choose_config([], None)
        console.print(f"config: {config} ({why})", markup=False)
    if config is None:
        tasks = of_split(tasks, split)
    else:
        settings = with_split(set_, split)
    run(Request(tuple(tasks), tuple(model or ()), config, tuple(settings), data_root, model_root, dry_run), console)
