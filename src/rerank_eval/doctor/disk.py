"""Folders that a run writes to: can files be made and renamed there, and how much room is left?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rerank_eval.doctor.findings import Finding, failure, ok, warning
from rerank_eval.errors import StorageError
from rerank_eval.files import at_home, write_text
from rerank_eval.typed import command

FLOOR = 1 << 30
"""Free bytes without which no run is begun: a large task's scores and the log of a day fit."""
COMFORT = 20 << 30
"""Free bytes below which a large run may stop: five million embeddings of 1,024 float32 numbers take 20 GiB."""
GIB = 1 << 30


def check_folder(
    name: str,
    folder: Path,
    remedy: str,
    *,
    needed: bool = True,
    floor: int = FLOOR,
    comfort: int = COMFORT,
) -> Iterator[Finding]:
    """Write, rename and delete a file in a folder, and ask for the room that is left.

    A folder that is not there yet is made, and removed again.

    Args:
        name: What the folder is for.
        folder: The folder.
        remedy: What to do where it cannot be written.
        needed: Whether the run writes there; where it does not, nothing is worse than a warning.
        floor: Free bytes below which it fails.
        comfort: Free bytes below which it warns.
    """
    bad = failure if needed else warning
    folder = at_home(folder).absolute()
    try:
        _try_writing(folder)
        free = shutil.disk_usage(_nearest(folder)).free
    except StorageError as error:
        cause = error.__cause__
        why = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error)
        yield bad(name, f"{folder} cannot be written: {why}", remedy)
    except OSError as error:
        yield bad(name, f"{folder} cannot be written: {error.strerror or error}", remedy)
    else:
        room = f"{folder} can be written, {free / GIB:.1f} GiB free"
        if free < floor:
            yield bad(name, f"{room}, and {floor / GIB:.1f} are the least", f"free some, or {remedy}")
        elif free < comfort:
            why = f"embeddings of a large suite take more; `{command('plan')}` says how much"
            yield warning(name, room, f"{why}; free some, or {remedy}")
        else:
            yield ok(name, room)


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _try_writing(folder: Path) -> None:
    """Write a file twice under one name, so that the second takes the first one's place; leave nothing behind."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    probe = folder / f".doctor-{os.getpid()}"
    try:
        for text in ("first", "second"):
            write_text(probe, text)
            if probe.read_text(encoding="utf-8") != text:
                raise StorageError(f"{folder}: a file that was written reads otherwise")
    finally:
        with suppress(OSError):
            probe.unlink()
        for path in missing:  # the innermost first
            with suppress(OSError):
                path.rmdir()
