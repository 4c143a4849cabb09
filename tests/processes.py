"""The command line in real processes, forked from one that has imported the libraries.

What a process of its own is for stays: signals, kills, a full disk, two at one folder. The imports, which take seconds,
are done once. The one that forks has imported and done nothing else, so that a fork loses no thread.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rerank_eval.cli import main

PLUGIN = Path(__file__).parent / "plugin"
"""A package of somebody else's with a part for each door, laid out as an installer leaves it."""
_SOURCES = Path(__file__).parents[1] / "src"
_LIBRARIES = (
    "rerank_eval.cli",
    "rerank_eval.session.start",
    "mteb",
    "sentence_transformers",
    "transformers.models.qwen3.modeling_qwen3",
    "sklearn.metrics",
    "bm25s",
)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(list(_LIBRARIES))


class Forked:
    """A function in a process of its own, under way; what it prints goes to files."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._output = tempfile.TemporaryDirectory(prefix="forked-")
        streams = [str(Path(self._output.name) / name) for name in ("out", "err")]
        self._process = _CONTEXT.Process(
            target=_call, args=(function, arguments, Path.cwd(), dict(os.environ), streams), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended: its exit code, or a signal's number below zero; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for its end and return what it printed, and what it said on the standard error stream."""
        self._process.join(timeout)
        if self.returncode is None:
            self._process.kill()
            raise subprocess.TimeoutExpired("a forked process", timeout)
        out, err = ((Path(self._output.name) / name) for name in ("out", "err"))
        return out.read_text(), err.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._output.cleanup()


def start(arguments: Sequence[str]) -> Forked:
    """Start `rerank-eval` with these arguments in the folder and the environment of this process."""
    return Forked(main, list(arguments))


def run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `rerank-eval` to its end, whatever that is."""
    with start(arguments) as process:
        out, err = process.communicate()
        return subprocess.CompletedProcess(list(arguments), process.returncode or 0, out, err)


def beside_the_plugin(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `rerank-eval` in a folder, with the package `tests/plugin` where an installer would have put it."""
    with Forked(_beside_the_plugin, folder, list(arguments)) as process:
        out, err = process.communicate()
        return subprocess.CompletedProcess(list(arguments), process.returncode or 0, out, err)


def _beside_the_plugin(folder: Path, arguments: Sequence[str]) -> None:
    os.chdir(folder)
    # Workers are processes of their own, which read the path from the environment.
    os.environ |= {"COLUMNS": "200", "PYTHONPATH": os.pathsep.join([str(PLUGIN), str(_SOURCES)])}
    sys.path.insert(0, str(PLUGIN))
    main(arguments)


def _call(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    folder: Path,
    environment: Mapping[str, str],
    streams: Sequence[str],
) -> None:
    """Be a process like one that was started anew: its folder, environment, streams and answer to Ctrl-C."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.freeze()  # the libraries: see `conftest.py`
    try:
        function(*arguments)
    finally:
        atexit._run_exitfuncs()  # which `multiprocessing` leaves out
