"""The command line: parse, call one function, render.

Exit codes: 0 success, 1 a bug, 2 config or command line, 3 data, 4 model, 5 hub out of reach, 6 storage, 7 device,
8 off the published numbers, 9 a broken set-up (`doctor`), 10 a result that does not follow from its files (`verify`),
11 a server that does not answer, 130 Ctrl-C, 143 SIGTERM (`rerank_eval.errors`).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from rich.markup import escape

from rerank_eval import typed
from rerank_eval.commands import app
from rerank_eval.errors import INTERRUPTED, TERMINATED, ConfigError, RerankEvalError
from rerank_eval.files import storage_error
from rerank_eval.visible import make_console

_UNWIND_SECONDS = 20.0
"""After that the process ends as it is: a cluster that was told to end as well may answer no more."""

error_console = make_console(stderr=True, soft_wrap=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error that a user can mend ends in one line and a documented exit code.

    Args:
        arguments: Command-line arguments; None takes the process's own.
    """
    with suppress(ValueError):  # not the main thread: whoever runs us there minds the signals
        signal.signal(signal.SIGTERM, _terminate)
    raise SystemExit(_run(arguments))


def _terminate(number: int, frame: FrameType | None) -> None:
    """Unwind, so that the block under way is written; Slurm and Kubernetes kill half a minute after they ask."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    last = threading.Timer(_UNWIND_SECONDS, _end_as_it_is)
    last.daemon = True
    last.start()
    raise SystemExit(TERMINATED)


def _run(arguments: list[str] | None) -> int:
    code = 0
    typed.remember(sys.argv[1:] if arguments is None else arguments)
    try:
        result: Any = app(args=arguments, prog_name="rerank-eval", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except RerankEvalError as error:
        code = _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        clear = storage_error(error, Path(error.filename or "."))
        if clear is None:
            _log("a bug", exc_info=True)
            raise
        code = _fail(str(clear), clear.exit_code)
    except Exception as error:
        # Typer imports click in some releases and carries a copy in others, so its usage errors have no one class.
        usage = getattr(error, "format_message", None)
        if usage is None:
            _log("a bug", exc_info=True)
            raise
        code = _fail(" ".join(usage().split()), ConfigError.exit_code)
    if code in {INTERRUPTED, TERMINATED}:  # typer turns Ctrl-C inside a command into this code by itself
        _say_interrupted()
    return code


def _say_interrupted() -> None:
    message = "interrupted: what was scored is kept; the same command goes on with what is missing"
    error_console.print(message)
    _log(message)


def _end_as_it_is() -> None:
    _say_interrupted()
    os._exit(TERMINATED)


def _fail(message: str, code: int) -> int:
    error_console.print(f"[bold red]error:[/] {escape(message)}")
    _log(f"error, exit code {code}: {message}")
    return code


def _log(message: str, *, exc_info: bool = False) -> None:
    """Write how a run ended to its log file, where it has one by now; the console has it already."""
    ours = logging.getLogger("rerank_eval")
    record = ours.makeRecord(ours.name, logging.ERROR, __file__, 0, message, (), sys.exc_info() if exc_info else None)
    for handler in ours.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
