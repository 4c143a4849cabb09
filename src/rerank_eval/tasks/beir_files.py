"""The files of a folder in BEIR's layout: found, read line by line, and checked with what is wrong named by line.

A line that cannot be read, an id that stands twice and a judgement of what is not there are all told before a model is
loaded. Only ids are kept: a corpus may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rerank_eval.errors import ConfigError, DataError
from rerank_eval.lines import LineError, Problems, decoded, lines
from rerank_eval.metrics.qrels import Judgements, read_judgements
from rerank_eval.names import digest, slug

_BLANK = re.compile(r"\s")
_END = b"\0"
"""Stands between the files in their digest, and in none of their lines, so that a line that moves on counts."""
_USUAL = "test"
_UNKNOWN = 0.1
"""Share of the judgements that may name an unknown query or document: published data sets have a few such, another
data set's judgements have more."""


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


@dataclass(frozen=True)
class Scanned:
    """A folder that was found good.

    Attributes:
        digest: SHA-256 of all bytes, 16 hexadecimal characters.
        judged: The judgements.
        own_documents: Whether a query has a document's id.
    """

    digest: str
    judged: Judgements
    own_documents: bool


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


def find_files(path: Path, split: str | None = None) -> FolderFiles:
    """Find a BEIR folder's files.

    Args:
        path: The folder.
        split: Whose judgements count; None for `test`, or the only one.

    Returns:
        The files.

    Raises:
        ConfigError: There is no such split.
        DataError: A file is missing, or it is open which judgements count.
    """
    found = []
    for name in ("corpus.jsonl", "queries.jsonl"):
        options = [path / name, path / f"{name}.gz"]
        there = [option for option in options if option.is_file()]
        if not there:
            raise DataError(
                f"{options[0]}: no such file; a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/test.tsv"
            )
        _alone(there[-1], there[0])
        found.append(there[0])
    splits = _splits(path / "qrels")
    usual = _usual(splits)
    if split is None and usual is None:
        problem = f"holds {', '.join(splits)} and no test; choose one by --split" if splits else "test.tsv is not there"
        raise DataError(f"{path / 'qrels'}: {problem}")
    chosen = split or usual or ""
    if chosen not in splits:
        raise ConfigError(f"split: {path / 'qrels'} has no {chosen!r}; valid: {', '.join(splits) or 'none'}")
    return FolderFiles(found[0], found[1], splits[chosen], slug(chosen))


def folder_splits(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Look for a BEIR folder's judgements.

    Returns:
        The split that counts where none is chosen, or nothing where that is open; and the other splits.
    """
    splits = _splits(path / "qrels")
    usual = _usual(splits)
    return () if usual is None else (usual,), tuple(one for one in splits if one != usual)


def _splits(folder: Path) -> dict[str, Path]:
    """Return split -> file of judgements."""
    files = [file for ending in (".tsv", ".tsv.gz") for file in folder.glob(f"*{ending}") if file.is_file()]
    found: dict[str, Path] = {}
    for file in sorted(files):  # and a pipe would be waited for
        _alone(file, found.setdefault(file.name.removesuffix(".gz").removesuffix(".tsv"), file))
    places: dict[str, str] = {}
    for split in found:  # results of both would lie in one place
        if (other := places.setdefault(slug(split), split)) != split:
            raise DataError(f"{folder}: the splits {other!r} and {split!r} come to one name, {slug(split)}; rename one")
    return found


def _usual(splits: Iterable[str]) -> str | None:
    """Return the split that counts where none is chosen: `test`, or the only one."""
    names = list(splits)
    return _USUAL if _USUAL in names else names[0] if len(names) == 1 else None


def _alone(file: Path, other: Path) -> None:
    if file != other:
        raise DataError(f"{file}: {other.name} stands beside it, and may say something else; remove one of the two")


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
    text = decoded(line)
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


def _scan_rows(path: Path, seen: dict[str, int], hasher: Any, problems: Problems) -> None:
    for number, line in lines(path, hasher):
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
    for number, line in lines(path):
        try:
            yield _row(line)
        except LineError as error:
            raise DataError(f"{path}:{number}: {error}; it was altered while it was read") from None


def scan(files: FolderFiles) -> Scanned:
    """Check a folder in one pass, keeping ids and judgements only.

    Returns:
        Digest and judgements.

    Raises:
        DataError: A line is malformed, an id stands twice, more than a tenth of the judgements name an unknown query or
            document, a file is empty; one line that names the first problem by file and line, and counts the others.
    """
    found, problems = _Scan(), Problems()
    _scan_rows(files.corpus, found.documents, found.hasher, problems)
    found.hasher.update(_END)
    _scan_rows(files.queries, found.queries, found.hasher, problems)
    problems.raise_if_any()
    for path, ids, what in ((files.corpus, found.documents, "documents"), (files.queries, found.queries, "queries")):
        if not ids:
            raise DataError(f"{path}: is empty; it holds no {what}")
    found.hasher.update(_END)
    judged = read_judgements(files.qrels, found.hasher)
    if judged.comments and (marked := next((one for one in found.queries if one.startswith("#")), None)):
        raise DataError(
            f"{files.qrels}: query {marked!r} begins with `#`, as the comments here do; rename it or remove them"
        )
    _check_known(files, judged, found)
    if not any(grade > 0 for grades in judged.qrels.values() for grade in grades.values()):
        raise DataError(f"{files.qrels}: judges no document as relevant; every score would be 0")
    shares_ids = not found.queries.keys().isdisjoint(found.documents)
    return Scanned(str(found.hasher.hexdigest()[:16]), judged, shares_ids)


def _check_known(files: FolderFiles, judged: Judgements, found: _Scan) -> None:
    """Refuse judgements too many of which are of something else; `prepare.load` tells of a few."""
    unknown = Problems()
    for (query_id, document_id), line in judged.places.items():
        if query_id not in found.queries:
            unknown.add(f"{files.qrels}:{line}: query {query_id!r} is not in {files.queries.name}")
        elif document_id not in found.documents:
            unknown.add(f"{files.qrels}:{line}: document {document_id!r} is not in {files.corpus.name}")
    if unknown.count > _UNKNOWN * len(judged.places):
        raise DataError(
            f"{unknown.first}; so it is with {unknown.count} of {len(judged.places)} judgements, and at most "
            f"{_UNKNOWN:.0%} may name what is not there: are these the judgements of this folder?"
        )
