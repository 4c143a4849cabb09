"""TREC run and qrels files, which `trec_eval`, `ir_measures` and `pytrec_eval` read back to the same numbers."""

from __future__ import annotations

import gzip
import logging
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from rerank_eval.errors import DataError
from rerank_eval.files import atomic_path
from rerank_eval.metrics.qrels import read_judgements

logger = logging.getLogger(__name__)

_BLANK = re.compile(r"\s")
_RUN_FIELDS = 6
_LARGEST_RANK = 2**63 - 1
_ROW = tuple[str, str, int, float, str]


def as_word(identifier: str) -> str:
    """Write an id as a TREC run holds it, without white space."""
    if not _BLANK.search(identifier):
        return identifier
    escaped = identifier.replace("%", "%25")
    return _BLANK.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), escaped)


def write_run(path: Path, frames: pd.DataFrame | Iterable[pd.DataFrame], tag: str) -> None:
    """Write one cell's ranking as `query Q0 document rank score tag`.

    The format has no place for white space in an id; it is written as `%20` and so on, and `%` as `%25` in such an id.

    Args:
        path: The file, written atomically.
        frames: Columns query_id, doc_id, score, best candidate first within a query; one frame, or several of whole
            queries.
        tag: Name of the run.

    Raises:
        DataError: An id is empty, the tag is empty or holds white space, or a score is not finite.
        StorageError: The disk is full or the folder cannot be written.
    """
    _check_words(path, "tag", [tag])
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as handle:
        for frame in [frames] if isinstance(frames, pd.DataFrame) else frames:
            handle.writelines(_lines(path, frame, tag))


def _lines(path: Path, frame: pd.DataFrame, tag: str) -> Iterator[str]:
    for column in ("query_id", "doc_id"):
        if (frame[column] == "").any():
            raise DataError(f"{path.name}: a {column} is empty, which a TREC run cannot express")
    bad = frame[~np.isfinite(frame["score"].to_numpy(dtype=np.float64))]
    if len(bad):
        query_id, doc_id, score = (bad.iloc[0][column] for column in ("query_id", "doc_id", "score"))
        raise DataError(f"{path.name}: query {query_id!r}, document {doc_id!r}: the score is {score}")
    # trec_eval reads 32-bit floats, so a rank that follows it has to be taken from those.
    ordered = frame.assign(_score=frame["score"].to_numpy(dtype=np.float32))
    ordered["_query"] = pd.factorize(frame["query_id"])[0]
    ordered = ordered.sort_values(["_query", "_score", "doc_id"], ascending=[True, False, False], kind="stable")
    ranks = ordered.groupby("_query", sort=False).cumcount() + 1
    columns = (ordered["query_id"].map(as_word), ordered["doc_id"].map(as_word), ranks, ordered["score"])
    for query_id, document_id, rank, score in zip(*(column.tolist() for column in columns), strict=True):
        yield f"{query_id} Q0 {document_id} {rank} {score!r} {tag}\n"


def _check_words(path: Path, what: str, words: Iterable[str]) -> None:
    for word in words:
        if not word or _BLANK.search(word):
            raise DataError(f"{path.name}: {what} {word!r} is empty or holds white space; rename it")


def read_run(path: Path) -> pd.DataFrame:
    """Read a TREC run.

    Returns:
        Columns query_id, doc_id, rank (int64), score (float64), tag, in the file's order. Blank lines are skipped, and
        so are comments: lines that begin with `#` and are no row. Scores give the order, as in trec_eval; ranks that
        say otherwise are told in a warning.

    Raises:
        DataError: The file cannot be read; a line has not six fields; a rank is no whole number or a score no finite
            one; a document stands twice in a query's ranking. Names the line.
    """
    # Ids come by the million but few are distinct: each is kept once.
    kept: dict[str, str] = {}
    columns: tuple[list[str], list[str], list[int], list[float], list[str]] = ([], [], [], [], [])
    lines: list[int] = []
    try:
        for number, (query_id, doc_id, rank, score, tag) in _rows(path):
            lines.append(number)
            columns[0].append(kept.setdefault(query_id, query_id))
            columns[1].append(kept.setdefault(doc_id, doc_id))
            columns[2].append(rank)
            columns[3].append(score)
            columns[4].append(kept.setdefault(tag, tag))
    except FileNotFoundError:
        raise DataError(f"{path}: no such run") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    frame = pd.DataFrame(dict(zip(("query_id", "doc_id", "rank", "score", "tag"), columns, strict=True)))
    frame = frame.astype({"rank": "int64", "score": "float64"})
    twice = np.flatnonzero(frame.duplicated(["query_id", "doc_id"]).to_numpy())
    if len(twice):
        first = frame.iloc[twice[0]]
        raise DataError(
            f"{path}:{lines[twice[0]]}: document {first['doc_id']!r} stands twice for {first['query_id']!r}"
        )
    _tell_ranks(path, frame)
    return frame


def _tell_ranks(path: Path, frame: pd.DataFrame) -> None:
    """Tell of scores that rise while ranks do, as distances and scores that were left at 0 by some tools do."""
    ordered = frame.sort_values(["query_id", "rank"], kind="stable")
    same = ordered["query_id"].to_numpy()[1:] == ordered["query_id"].to_numpy()[:-1]
    later = np.diff(ordered["rank"].to_numpy()) > 0
    rising = same & later & (np.diff(ordered["score"].to_numpy().astype(np.float32)) > 0)
    if rising.any():
        queries = ordered["query_id"].to_numpy()[1:][rising]
        logger.warning(
            "%s: the ranks of %d of %d queries, such as %r, are not those of their scores; scores give the order, as "
            "in trec_eval",
            path,
            len(set(queries)),
            frame["query_id"].nunique(),
            str(queries[0]),
        )


def _fields(path: Path, number: int, line: str) -> list[str]:
    if "\0" in line:
        raise DataError(f"{path}:{number}: holds a NUL; no id may")
    return line.split()


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _rows(path: Path) -> Iterator[tuple[int, _ROW]]:
    with _opened(path) as handle:
        for number, line in enumerate(handle, start=1):
            fields = _fields(path, number, line)
            # A line of six fields is a row, whatever its query is called.
            if not fields or (fields[0].startswith("#") and len(fields) != _RUN_FIELDS):
                continue
            if len(fields) != _RUN_FIELDS:
                raise DataError(f"{path}:{number}: {len(fields)} fields; a run has `query Q0 document rank score tag`")
            try:
                rank, score = int(fields[3]), float(fields[4])
                if "_" in fields[3] + fields[4]:  # Python reads 1_0 as 10, and nobody else does
                    raise ValueError(fields[4])
            except ValueError:
                raise DataError(f"{path}:{number}: rank or score is not a number") from None
            if not -_LARGEST_RANK <= rank <= _LARGEST_RANK:
                raise DataError(f"{path}:{number}: rank {fields[3][:20]}... has more than 64 bits")
            if not math.isfinite(score):
                raise DataError(f"{path}:{number}: the score is {score}")
            yield number, (fields[0], fields[2], rank, score, fields[5])


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgements as `query 0 document relevance`.

    Args:
        path: The file, written atomically.
        qrels: query id -> document id -> relevance.

    Raises:
        DataError: An id is empty or holds white space, which the format cannot express.
        StorageError: The disk is full or the folder cannot be written.
    """
    _check_words(path, "query_id", qrels)
    _check_words(path, "doc_id", (document_id for documents in qrels.values() for document_id in documents))
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(
            f"{query_id} 0 {document_id} {value}\n"
            for query_id, documents in qrels.items()
            for document_id, value in documents.items()
        )


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Read judgements, BEIR's or TREC's, as the BEIR folders' are read; see `qrels.read_judgements`.

    Returns:
        query id -> document id -> relevance.

    Raises:
        DataError: The file cannot be read, or a line of it; names the line.
    """
    found = read_judgements(path)
    found.tell()
    return found.qrels
