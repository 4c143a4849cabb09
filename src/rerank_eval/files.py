"""Atomic writes: a file is whole or absent, whatever happens to the process."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rerank_eval.errors import ConfigError, StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_LARGEST_JSON = 2**30  # candidates of a million queries; what holds more is not ours
_UNUSABLE = {errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


def at_home(path: str | Path) -> Path:
    """Expand a leading `~` or `~user`.

    Raises:
        ConfigError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: there is no such user's home; give the whole path") from None


def is_folder(path: str | Path) -> bool:
    """Tell whether a text names a folder; one that no file system can hold, such as one too long, does not."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def storage_error(error: OSError, path: Path) -> StorageError | None:
    """Translate an operating-system error into one clear line, if it is one that a user can mend.

    Returns:
        The error to raise instead, or None when it is something else.
    """
    if error.errno in _FULL:
        return StorageError(f"{path}: no space left on the disk; free some and run the same command again")
    if error.errno in _READ_ONLY:
        return StorageError(f"{path}: the folder cannot be written; choose another with --set results_dir=DIR")
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return StorageError(
            f"{path}: a file stands where a folder is needed; move it away or choose another results_dir"
        )
    if error.errno == errno.EISDIR:
        return StorageError(f"{path}: a folder stands where a file is needed; name another file")
    if error.errno in _UNUSABLE:
        return StorageError(f"{path}: no usable path ({os.strerror(error.errno)}); name another")
    return None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, renamed to `path` when the block ends without an error.

    Yields:
        The path to write to.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        clear = storage_error(error, path)
        if clear is None:
            raise
        raise clear from error
    finally:
        with suppress(OSError):  # what went wrong before is the news, not the cleaning up
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder; only its one writer, under its lock, may do so."""
    for left in folder.glob(".*.tmp"):
        with suppress(OSError):
            left.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a file that is not ours to trust; it is never deleted and never read again.

    Returns:
        Where it stands now.

    Raises:
        StorageError: The folder cannot be written.
    """
    number = 1
    while (aside := path.with_name(f"{path.name}.set-aside-{number}")).exists():
        number += 1
    try:
        path.replace(aside)
    except OSError as error:
        raise storage_error(error, path) or error from error
    return aside


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8 with Unix line ends.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not UTF-8, not JSON, larger than 1 GB, nested deeper than Python's parser goes, or holds half
            of a surrogate pair; or it is a device or a pipe, which may have no end.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError("not a file")
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"larger than {_LARGEST_JSON // 2**20} MB")
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        if "\\ud" in text.lower():  # half of a surrogate pair is no character, and nothing that writes text takes it
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented, with sorted keys and no NaN.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
        ValueError: The value holds NaN or an infinity.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")
