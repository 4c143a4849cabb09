"""A folder for a corpus that is mapped, not read: a process's own, cleared away by the next one if it was killed."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

_IN_USE = "in-use"


def own_folder(place: Path) -> tuple[tempfile.TemporaryDirectory[str], IO[bytes]]:
    """Make a folder for a mapped corpus, and remove those that killed processes left behind.

    Returns:
        The folder, and the file whose lock says that it is in use; the system gives it back when the process is gone.
    """
    with (place / ".lock").open("ab") as gate:  # a folder that is just being made is nobody's yet
        _lock(gate, wait=True)
        for mark in place.glob(f"beir-*/{_IN_USE}"):
            with suppress(OSError), mark.open("ab") as handle:
                if _lock(handle, wait=False):
                    shutil.rmtree(mark.parent, ignore_errors=True)
        made = tempfile.TemporaryDirectory(prefix="beir-", dir=place)
        in_use = (Path(made.name) / _IN_USE).open("ab")
        _lock(in_use, wait=False)
    return made, in_use


def _lock(handle: IO[bytes], *, wait: bool) -> bool:
    """Lock a file for as long as it is open; False where another process has, or where there are no such locks."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True
