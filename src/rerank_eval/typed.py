"""Commands as a reader can type them again: the program by the name it was started by, arguments quoted."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

NAME = "rerank-eval"
_began = time.monotonic()
_started: list[str] | None = None
"""Arguments of the command line, once it runs."""


def remember(arguments: Sequence[str]) -> None:
    """Note what the command line was given, for `again`."""
    global _started  # noqa: PLW0603 - a process has one command line
    _started = list(arguments)


def started() -> float:
    """Return when the command line began, on the clock of `time.monotonic`: when this module was imported."""
    return _began


def program() -> str:
    """Return what a reader types to start this program.

    `rerank-eval` where that name alone finds the program that runs; else its path as it was typed, such as
    `.venv/bin/rerank-eval`, or `python -m rerank_eval` where it was started so. In a program that uses the package as
    a library, the script beside its Python, where there is one.
    """
    started = Path(sys.argv[0] or NAME)
    if started.name == "__main__.py" and started.parent.name == "rerank_eval":
        return f"{_shortest(Path(sys.executable))} -m rerank_eval"
    script = started if started.stem == NAME else Path(sys.executable).parent / NAME
    return _shortest(script) if script.is_file() else NAME


def _shortest(path: Path) -> str:
    """Return a program's name where PATH leads to it, else its path, from here where it is below."""
    found = shutil.which(path.name)
    if found is not None and os.path.realpath(Path(found).parent) == os.path.realpath(path.parent):
        return path.name
    absolute, here = path.absolute(), Path.cwd()
    below = absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
    return shlex.quote(str(below if len(below.parts) > 1 or below.is_absolute() else f"./{below}"))


def command(*arguments: str | Path) -> str:
    """Return a command of this program, its arguments quoted."""
    return " ".join([program(), *(shlex.quote(str(one)) for one in arguments)])


def again(*more: str) -> str | None:
    """Return the command that runs, with further arguments; None in a program that uses the package as a library."""
    return None if _started is None else command(*_started, *more)
