"""The command `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import ConfigOption, SetOption, SplitOption, TaskOption, app, console, with_split
from rerank_eval.config import LoadedConfig


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
    from rerank_eval.doctor.case import Case
    from rerank_eval.doctor.report import doctor as examine
    from rerank_eval.session.choice import choose_config, read_config

    def load() -> tuple[LoadedConfig, str]:
        path, why = choose_config(task or [], config)
        return read_config(path, task or [], with_split(set_, split)), f"{path} ({why})"

    examine(Case(load, weights=not no_weights), console, json_file)
