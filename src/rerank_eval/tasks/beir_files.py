"""The files of a folder in BEIR's layout: found, read line by line, and checked with what is wrong named by line.

A line that cannot be read, an id that stands twice and a judgement of what is not there are all told before a model is
loaded. Only ids are kept: a corpus may be larger than memory.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from rerank_eval.analysis.metrics import MAX_GRADE
from rerank_eval.errors import DataError
from rerank_eval.names import digest, slug

_HEADER = re.compile(r"^\s*query[-_ ]?id\b", re.IGNORECASE)
_BLANK = re.compile(r"\s")
_MAX_LINE = 64 * 1024 * 1024
_MAX_EXPANSION = 200  # of a gzip file; JSON lines of real texts come to 3 to 20
_MAX_EMPTY = 1_000_000
_QRELS_COLUMNS = (3, 4)


class LineError(Exception):
    """One malformed line; the caller knows file and number."""


@dataclass
class _Problems:
    """Collects what is wrong, so that one message can say how much there is."""

    first: str | None = None
    count: int = 0

    def add(self, message: str) -> None:
        self.count += 1
        if self.first is None:
            self.first = message

    def raise_if_any(self) -> None:
        if self.first is not None:
            more = f" (and {self.count - 1} more)" if self.count > 1 else ""
            raise DataError(f"{self.first}{more}")


@dataclass(frozen=True)
class FolderFiles:
    """The files of a BEIR folder, known to be there.

    Attributes:
        corpus: corpus.jsonl or corpus.jsonl.gz.
        queries: queries.jsonl or queries.jsonl.gz.
        qrels: The judgements.
        split: The judgements' name without its ending.
    """

    corpus: Path
    queries: Path
    qrels: Path
    split: str


@dataclass
class _Scan:
    """What one pass over the files finds.

    Attributes:
        documents: Document id -> line.
        queries: Query id -> line.
        hasher: Over the files' bytes.
    """

    documents: dict[str, int] = field(default_factory=dict)
    queries: dict[str, int] = field(default_factory=dict)
    hasher: Any = field(default_factory=hashlib.sha256)


def folder_name(path: Path) -> str:
    """Return a folder's name as a task name: safe as a file name and in mteb's layout.

    A name in another script gets a digest, so that two such folders stay apart.
    """
    name = path.resolve().name
    return slug(name) if name.isascii() else f"{slug(name).strip('_')}_{digest(name, 6)}".lstrip("_")


def find_files(path: Path) -> FolderFiles:
    """Find a BEIR folder's files.

    Args:
        path: The folder.

    Returns:
        The files.

    Raises:
        DataError: One is missing, or it is open which judgements count.
    """
    found = []
    for name in ("corpus.jsonl", "queries.jsonl"):
        options = [path / name, path / f"{name}.gz"]
        file = next((option for option in options if option.is_file()), None)
        if file is None:
            raise DataError(
                f"{options[0]}: no such file; a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/test.tsv"
            )
        found.append(file)
    qrels = sorted(file for file in (path / "qrels").glob("*.tsv") if file.is_file())  # a pipe would be waited for
    chosen = next((file for file in qrels if file.stem == "test"), qrels[0] if len(qrels) == 1 else None)
    if chosen is None:
        names = ", ".join(file.name for file in qrels)
        told = f"holds {names}; name the judgements that count test.tsv" if names else "test.tsv is not there"
        raise DataError(f"{path / 'qrels'}: {told}")
    return FolderFiles(found[0], found[1], chosen, slug(chosen.stem))


def _lines(path: Path, hasher: Any = None) -> Iterator[tuple[int, bytes]]:
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


def _decoded(line: bytes) -> str:
    try:
        text = line.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise LineError(f"not UTF-8 text (byte {error.start + 1} of the line)") from None
    if "\x00" in text:
        raise LineError("holds a NUL byte")
    return text


def _identifier(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value == "":
        raise LineError("has no `_id`")
    if not isinstance(value, str):
        raise LineError(f"the `_id` {value!r} is a {type(value).__name__}, not text")
    if _BLANK.search(value):
        raise LineError(f"the id {value!r} holds white space, which a TREC run cannot express")
    return value


def _row(line: bytes) -> dict[str, str]:
    """Parse one line of corpus.jsonl or queries.jsonl into id, title, text and perhaps instruction."""
    text = _decoded(line)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LineError(f"not a JSON object ({getattr(error, 'msg', 'too deeply nested')})") from None
    if not isinstance(value, dict):
        raise LineError("not a JSON object")
    identifier = _identifier(value.get("_id", value.get("id")))
    row = {"id": identifier}
    for key in ("title", "text", "instruction"):
        content = value.get(key)
        if content is None and key == "text":
            raise LineError(f"{identifier!r} has no `text`")
        if content is not None and not isinstance(content, str):
            raise LineError(f"`{key}` of {identifier!r} is a {type(content).__name__}, not text")
        if content is not None:
            row[key] = content
    if "\\u" in text:
        _check_characters(row)
    return row


def _check_characters(row: dict[str, str]) -> None:
    """Refuse half of a surrogate pair, which JSON can spell and nothing else can hold."""
    for key, content in row.items():
        try:
            content.encode()
        except UnicodeEncodeError as error:
            name = "_id" if key == "id" else key
            raise LineError(
                f"`{name}` holds half of a surrogate pair (\\u{ord(content[error.start]):04x}), which is no character; "
                "write \\ufffd in its place"
            ) from None


def _judgement(line: bytes) -> tuple[str, str, int]:
    fields = _decoded(line).rstrip("\r\n").split("\t")
    if len(fields) == 1:
        fields = fields[0].split()
    if len(fields) not in _QRELS_COLUMNS:
        raise LineError(f"{len(fields)} columns; expected query-id, corpus-id, score separated by tabs")
    query_id, document_id, score = fields[0].strip(), fields[-2].strip(), fields[-1].strip()
    try:
        value = float(score)
    except ValueError:
        raise LineError(f"the score {score!r} is not a number") from None
    if not value.is_integer():
        raise LineError(f"the score {score!r} is not a whole number")
    if abs(value) > MAX_GRADE:
        raise LineError(f"the score {score!r} is no grade of relevance; grades lie within {MAX_GRADE}")
    return query_id, document_id, int(value)


def _scan_rows(path: Path, seen: dict[str, int], hasher: Any, problems: _Problems) -> None:
    for number, line in _lines(path, hasher):
        try:
            identifier = _row(line)["id"]
        except LineError as error:
            problems.add(f"{path}:{number}: {error}")
            continue
        if identifier in seen:
            problems.add(f"{path}:{number}: the id {identifier!r} stands in line {seen[identifier]} already")
        seen.setdefault(identifier, number)


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Read a file that `scan` found good.

    Raises:
        DataError: It was altered since.
    """
    for number, line in _lines(path):
        try:
            yield _row(line)
        except LineError as error:
            raise DataError(f"{path}:{number}: {error}; it was altered while it was read") from None


def judgements(path: Path, hasher: Any = None) -> Iterator[tuple[int, tuple[str, str, int] | LineError]]:
    """Read judgements as query, document and grade, or what is wrong with a line, each with its number.

    Args:
        path: The file.
        hasher: Is fed the bytes.
    """
    for number, line in _lines(path, hasher):
        if number == 1 and _HEADER.match(line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")):
            continue
        try:
            yield number, _judgement(line)
        except LineError as error:
            yield number, error


def scan(files: FolderFiles) -> str:
    """Check a folder in one pass, keeping ids only.

    Args:
        files: The folder's files.

    Returns:
        SHA-256 of all bytes, 16 hexadecimal characters.

    Raises:
        DataError: A line is malformed, an id stands twice, a judgement names an unknown id, a file is empty; one line
            that names the first problem by file and line, and counts the others.
    """
    found, problems = _Scan(), _Problems()
    _scan_rows(files.corpus, found.documents, found.hasher, problems)
    _scan_rows(files.queries, found.queries, found.hasher, problems)
    problems.raise_if_any()
    for path, ids, what in ((files.corpus, found.documents, "documents"), (files.queries, found.queries, "queries")):
        if not ids:
            raise DataError(f"{path}: is empty; it holds no {what}")
    positive = 0
    judged: dict[tuple[str, str], int] = {}
    for number, entry in judgements(files.qrels, found.hasher):
        if isinstance(entry, LineError):
            problems.add(f"{files.qrels}:{number}: {entry}")
            continue
        query_id, document_id, score = entry
        positive += score > 0
        if query_id not in found.queries:
            problems.add(f"{files.qrels}:{number}: query {query_id!r} is not in {files.queries.name}")
        elif document_id not in found.documents:
            problems.add(f"{files.qrels}:{number}: document {document_id!r} is not in {files.corpus.name}")
        elif judged.setdefault((query_id, document_id), score) != score:
            problems.add(f"{files.qrels}:{number}: {query_id!r}, {document_id!r} is judged twice, and differently")
    problems.raise_if_any()
    if not positive:
        raise DataError(f"{files.qrels}: judges no document as relevant; every score would be 0")
    return str(found.hasher.hexdigest()[:16])
