"""Lines of a text file that may be gzipped, within bounds; what is wrong with one is told by file and line."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from rerank_eval.errors import DataError

_MAX_LINE = 64 * 1024 * 1024
_MAX_EXPANSION = 200  # of a gzip file; JSON lines of real texts come to 3 to 20
_MAX_EMPTY = 1_000_000


class LineError(Exception):
    """One malformed line; the caller knows file and number."""


@dataclass
class Problems:
    """Collects what is wrong, so that one message can say how much there is."""

    first: str | None = None
    count: int = 0

    def add(self, message: str) -> None:
        """Note a problem, with file and line."""
        self.count += 1
        if self.first is None:
            self.first = message

    def raise_if_any(self) -> None:
        """Raise the first problem as a DataError, whose line counts the others."""
        if self.first is not None:
            more = f" (and {self.count - 1} more)" if self.count > 1 else ""
            raise DataError(f"{self.first}{more}")


def lines(path: Path, hasher: Any = None) -> Iterator[tuple[int, bytes]]:
    """Yield number, from 1, and bytes of each line that is not blank; unpacks a file whose name ends in `.gz`.

    `hasher` is fed the bytes, unpacked.

    Raises:
        DataError: The file cannot be read, or no text is like it.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as handle:
            stream = cast("BinaryIO", handle)
            number = read = empty = 0
            most = _MAX_EXPANSION * path.stat().st_size + _MAX_LINE
            while line := stream.readline(_MAX_LINE + 1):
                number += 1
                read += len(line)
                if read > most:
                    raise DataError(
                        f"{path}:{number}: expands to more than {_MAX_EXPANSION} times its size, which no text does; "
                        "unpack it by hand if it is meant to"
                    )
                if len(line) > _MAX_LINE:
                    raise DataError(f"{path}:{number}: the line is longer than 64 MB; is this one JSON object a line?")
                if hasher is not None:
                    hasher.update(line)
                empty = 0 if line.strip() else empty + 1
                if empty > _MAX_EMPTY:
                    raise DataError(f"{path}:{number}: {_MAX_EMPTY:,} empty lines in a row; is this a corpus?")
                if not empty:
                    yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def decoded(line: bytes) -> str:
    """Return a line's text, without a byte order mark.

    Raises:
        LineError: It is not UTF-8, or holds a NUL.
    """
    try:
        text = line.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise LineError(f"not UTF-8 text (byte {error.start + 1} of the line)") from None
    if "\x00" in text:
        raise LineError("holds a NUL byte")
    return text
