"""Commands on candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import ConfigOption, SetOption, SplitOption, TaskOption, app, console, with_split

candidates = typer.Typer(no_args_is_help=True, help="Hand candidates to another machine, and take them from one.")
app.add_typer(candidates, name="candidates")


@candidates.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder.")],
    *,
    task: TaskOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    split: SplitOption = None,
) -> None:
    """Write a retriever's candidates as TREC runs, with digests, settings, data revisions and recall.

    Another machine reads the folder by `retriever: {candidates: FOLDER}`, and has the same candidates to the digest.

    Example:
        rerank-eval candidates export --task NanoSciFact --set retriever.model=bm25 -o bm25-candidates
    """
    from rerank_eval.session.candidates import export_candidates
    from rerank_eval.session.choice import choose_and_read

    export_candidates(choose_and_read(task or [], config, with_split(set_, split), console), output, console)
