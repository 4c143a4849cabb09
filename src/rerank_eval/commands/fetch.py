"""The command `fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import SetOption, SplitOption, TaskOption, app, console, of_split, with_split


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
    from rerank_eval.fetch.run import FetchRequest
    from rerank_eval.fetch.run import fetch as run

    tasks, settings = [*(suite or ()), *(task or ())], set_ or []
    if config is None and not tasks and not model:  # what `eval` would run
        from rerank_eval.session.choice import choose_config

        config, why = choose_config([], None)
        console.print(f"config: {config} ({why})", markup=False)
    if config is None:
        tasks = of_split(tasks, split)
    else:
        settings = with_split(set_, split)
    run(
        FetchRequest(tuple(tasks), tuple(model or ()), config, tuple(settings), data_root, model_root, dry_run), console
    )
