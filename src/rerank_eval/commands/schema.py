"""The command `schema`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rerank_eval.commands import app


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
