"""The property that every fuzzed input is held to, and the guard that watches a call."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rerank_eval.errors import RerankEvalError

SECONDS = 10
"""A call that takes longer hangs: nothing here is larger than some kilobytes."""

_CODES = {2, 3, 4, 5, 6, 7, 8, 9, 10}
_RUNS_CODE = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "subprocess.Popen",
    "pty.spawn",
    "socket.connect",
    "socket.getaddrinfo",
    "ctypes.dlopen",
    "webbrowser.open",
}
_CHANGES = {"os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.mkdir": 2, "os.symlink": 2, "os.link": 2}
"""Event -> which of its arguments is the folder (a descriptor) that the path is relative to."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Violation(AssertionError):  # noqa: N818 - what is asserted is violated
    """An input did what no input may."""


class _Hang(BaseException):
    """Raised into a call that takes too long; no handler of ours takes a BaseException for an answer."""


class _Watch:
    """Notes what a call does beyond computing, by Python's audit events."""

    def __init__(self) -> None:
        self.inside: Path | None = None
        self.thread = 0
        self.broken: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.inside is None or threading.get_ident() != self.thread:
            return
        if event in _RUNS_CODE:
            self.broken.append(f"{event}{arguments!r:.100}")
        elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            if arguments[2] & _WRITES and not self._is_ours(arguments[0]):
                self.broken.append(f"writes {arguments[0]!r:.100}")
        elif event in _CHANGES and not self._is_ours(_whole(arguments[0], arguments[_CHANGES[event]])):
            self.broken.append(f"{event} {arguments[0]!r:.100}")

    def _is_ours(self, path: Any) -> bool:
        real = os.path.realpath(os.fsdecode(path))
        allowed = (str(self.inside), os.devnull)
        return real.startswith(allowed) or "__pycache__" in real


def _whole(path: Any, folder: Any) -> str:
    name = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0 and not name.startswith("/"):
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)  # noqa: PTH115, PTH118
    return name


_watch = _Watch()
sys.addaudithook(_watch)


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    temporary = folder / "results" / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    before, tempfile.tempdir = tempfile.tempdir, str(temporary)
    cache = os.environ.get("RERANK_EVAL_CACHE", "")
    os.environ["RERANK_EVAL_CACHE"] = str(temporary)  # where what is built for a run may lie
    alarm = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    _watch.broken, _watch.thread = [], threading.get_ident()
    _watch.inside = (folder / "results").resolve()
    try:
        yield
    finally:
        _watch.inside = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        tempfile.tempdir = before
        os.environ["RERANK_EVAL_CACHE"] = cache


def _place(error: BaseException) -> str:
    """Say where in our code an error passed last."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "rerank_eval" in one.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise _Hang


def _tree(folder: Path) -> dict[str, Any]:
    """Everything outside `results`: names, and what files hold."""
    found: dict[str, Any] = {}
    for place, folders, files in os.walk(folder):
        if place == str(folder):
            folders[:] = [name for name in folders if name != "results"]
        for name in files:
            path = Path(place, name)
            found[str(path)] = str(path.readlink()) if path.is_symlink() else path.read_bytes()
        found |= {str(Path(place, name)): None for name in folders}
    return found


def held(run: Callable[[], object], folder: Path) -> str:
    """Call something on hostile input and hold it to the property.

    Args:
        run: The call.
        folder: Where the input lies; only its subfolder `results` may be written.

    Returns:
        `ok`, or the error's class.

    Raises:
        Violation: It ended in another way than success or one clear line; it took too long, ran code, spoke to a
            network, or wrote where it may not.
    """
    before = _tree(folder)
    ended = "ok"
    try:
        with _watched(folder):
            run()
    except RerankEvalError as error:
        ended = type(error).__name__
        line = str(error)
        if not line or "\n" in line or "\r" in line or error.exit_code not in _CODES:
            raise Violation(f"not one clear line with an exit code: {error.exit_code}, {line!r}") from error
    except _Hang as error:
        raise Violation(f"took longer than {SECONDS} s") from error
    except (Exception, SystemExit) as error:
        raise Violation(f"{type(error).__name__} at {_place(error)}: {error}") from error
    if _watch.broken:
        raise Violation(_watch.broken[0])
    if _tree(folder) != before:
        raise Violation("something was written outside results/")
    return ended
