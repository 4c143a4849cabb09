"""The command `plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import ConfigOption, SetOption, SplitOption, TaskOption, app, console, with_split


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
    from rerank_eval.pipeline.estimate_table import show_estimate
    from rerank_eval.session.choice import choose_and_read

    loaded = choose_and_read(task or [], config, with_split(set_, split), console)
    flops = None if rate is None else rate * 1e12
    show_estimate(loaded, console, rate=flops, device_name=device_name, price=price, json=json_file)
