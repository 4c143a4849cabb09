"""Judgements as files: BEIR's columns by their header, TREC's by their place, plain or gzipped.

A header may name the columns in any order; `query-id`, `corpus-id` and `score` have the names below as well, whatever
their case and whether `-`, `_` or a blank joins them. Without a header three columns are query, document and grade;
four are TREC's query, iteration, document and grade.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rerank_eval.errors import DataError
from rerank_eval.lines import LineError, Problems, decoded, lines
from rerank_eval.metrics.per_query import MAX_GRADE

logger = logging.getLogger(__name__)

_QUERY, _DOCUMENT, _GRADE, _ITERATION = "query", "document", "grade", "iteration"
_NAMES = {
    _QUERY: ("query-id", "qid", "query", "topic-id", "topic"),
    _DOCUMENT: (
        *("corpus-id", "cid", "pid", "doc-id", "document-id", "passage-id"),
        *("docno", "doc", "document", "passage", "corpus"),
    ),
    _GRADE: ("score", "rel", "relevance", "label", "grade", "judgement", "judgment"),
    _ITERATION: ("iteration", "iter", "q0"),
}
_JOINTS = re.compile(r"[-_\s]+")
_KINDS = {_JOINTS.sub("", name): kind for kind, names in _NAMES.items() for name in names}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)
_PLAIN = (3, 4)
"""Columns of a file without a header: BEIR's, TREC's."""
_TREC_ITERATION = re.compile(r"[+-]?\d+(\.\d+)?|q0", re.IGNORECASE | re.ASCII)  # TREC-COVID counts by halves
_BLANK = re.compile(r"\s")
_LONGEST = 40


@dataclass(frozen=True)
class Judgements:
    """What a file of judgements says.

    Attributes:
        path: The file.
        qrels: query id -> document id -> grade.
        places: (query id, document id) -> line.
        left_out: Columns of the header that say nothing about relevance.
        repeated: Lines that repeat another one.
        comments: Whether there are lines that begin with `#`.
    """

    path: Path
    qrels: dict[str, dict[str, int]] = field(default_factory=dict)
    places: dict[tuple[str, str], int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    repeated: int = 0
    comments: bool = False

    def tell(self) -> None:
        """Warn of what the file holds and nothing reads."""
        if self.left_out:
            names = ", ".join(map(repr, self.left_out))
            logger.warning("%s: the column(s) %s are left out: they say nothing about relevance", self.path, names)
        if self.repeated:
            logger.warning("%s: %d line(s) repeat a judgement, and count once", self.path, self.repeated)


def read_judgements(path: Path, hasher: Any = None) -> Judgements:
    """Read a file of judgements, gzipped where its name ends in `.gz`; `hasher` is fed the bytes, unpacked.

    Raises:
        DataError: The file cannot be read, its header names no known columns, a line lacks a column, a grade is no
            whole number or beyond `MAX_GRADE`, or a pair is judged twice and differently. Names the first such line,
            and counts the others.
    """
    problems, reader = Problems(), _Reader()
    qrels: dict[str, dict[str, int]] = {}
    places: dict[tuple[str, str], int] = {}
    repeated = 0
    for number, line in lines(path, hasher):
        try:
            for query_id, document_id, grade in reader.judgements(decoded(line)):
                before = qrels.setdefault(query_id, {}).setdefault(document_id, grade)
                first = places.setdefault((query_id, document_id), number)
                if before != grade:
                    raise LineError(
                        f"{query_id!r}, {document_id!r} is judged twice, and differently: {before} in line {first}, "
                        f"{grade} here"
                    )
                repeated += first != number
        except LineError as error:
            problems.add(f"{path}:{number}: {error}")
            if not reader.begun:  # a header that cannot be read makes every line wrong
                break
    problems.raise_if_any()
    documents = {document_id for grades in qrels.values() for document_id in grades}
    if len(reader.iterations) > max(len(documents), 1):
        raise DataError(
            f"{path}: four columns without a header are TREC's, whose second is the iteration and whose third is the "
            f"document; here the second has {len(reader.iterations)} values and the third {len(documents)}; name the "
            "columns in a header"
        )
    return Judgements(path, qrels, places, reader.left_out, repeated, reader.comments)


class _Reader:
    """Reads line after line, by the columns that the first of them names."""

    def __init__(self) -> None:
        self.begun = False
        self.left_out: tuple[str, ...] = ()
        self.comments = False
        self.iterations: set[str] = set()
        self._names: list[str] | None = None
        self._columns: dict[str, int] = {}

    def judgements(self, text: str) -> Iterator[tuple[str, str, int]]:
        """Yield what a line says: one judgement, or none where it is a comment or the header."""
        comment = text.lstrip().startswith("#")
        self.comments |= comment
        if not self.begun and self._is_header(text, comment):
            return
        if comment:
            return
        self.begun = True
        query_id, document_id, grade = self._split(text)
        for what, identifier in (("query", query_id), ("document", document_id)):
            if not identifier:
                raise LineError(f"names no {what}")
            if _BLANK.search(identifier):
                raise LineError(f"the id {identifier!r} holds white space, which a TREC run cannot express")
        yield query_id, document_id, _grade(grade)

    def _is_header(self, text: str, comment: bool) -> bool:
        """Take a line that names the columns as the header.

        A line in which anything is a number is a judgement, also of a query that is called `qid`.
        """
        fields = _by_tabs(text.lstrip("# \t") if comment else text)
        kinds = [_KINDS.get(_JOINTS.sub("", one).lower()) for one in fields]
        whole = {_QUERY, _DOCUMENT, _GRADE} <= set(kinds)
        if comment and None in kinds:  # prose that happens to name them
            return False
        if not whole and (comment or any(_NUMBER.fullmatch(one) for one in fields)):
            return False
        if not whole:
            unknown = [one for one, kind in zip(fields, kinds, strict=True) if kind is None]
            problem = (
                f"the header has the unknown {_quoted(unknown)} and no column" if unknown else "the header has none"
            )
            missing = [kind for kind in (_QUERY, _DOCUMENT, _GRADE) if kind not in kinds]
            raise LineError(
                f"{problem} for the {', the '.join(missing)}; name the columns query-id, corpus-id and score, or write "
                "three columns (query, document, grade) or TREC's four without a header"
            )
        for kind in (_QUERY, _DOCUMENT, _GRADE):
            named = [one for one, column in zip(fields, kinds, strict=True) if column == kind]
            if len(named) > 1:
                raise LineError(f"the header has {len(named)} columns for the {kind}, {_quoted(named)}; rename one")
        self._names, self.begun = fields, True
        self._columns = {kind: kinds.index(kind) for kind in (_QUERY, _DOCUMENT, _GRADE)}
        self.left_out = tuple(one for one, kind in zip(fields, kinds, strict=True) if kind is None)
        return True

    def _split(self, text: str) -> tuple[str, str, str]:
        if self._names is None:
            query_id, iteration, document_id, grade = _plain(text)
            if iteration:
                self.iterations.add(iteration)
            return query_id, document_id, grade
        fields = _by_tabs(text)
        if len(fields) != len(self._names):
            raise LineError(f"{len(fields)} columns; the header has {len(self._names)}: {', '.join(self._names)}")
        query_id, document_id, grade = (fields[self._columns[kind]] for kind in (_QUERY, _DOCUMENT, _GRADE))
        return query_id, document_id, grade


def _by_tabs(text: str) -> list[str]:
    """Split at tabs, or at white space where there is no tab."""
    return [one.strip() for one in text.rstrip("\r\n").split("\t")] if "\t" in text.strip() else text.split()


def _plain(text: str) -> tuple[str, str, str, str]:
    """Split a line of a file without a header into query, iteration (empty for three columns), document and grade."""
    readings = {tuple(fields) for fields in (_by_tabs(text), text.split()) if len(fields) in _PLAIN}
    if len(readings) > 1:
        raise LineError("can be read in two ways, by its tabs and by its blanks; separate columns by one of them")
    if not readings:
        raise LineError(
            f"{len(_by_tabs(text))} columns; expected query-id, corpus-id, score separated by tabs or blanks"
        )
    fields = readings.pop()
    if len(fields) == max(_PLAIN) and not _TREC_ITERATION.fullmatch(fields[1]):
        raise LineError(
            f"four columns without a header are TREC's, whose second is the iteration (0 or Q0), not "
            f"{fields[1][:_LONGEST]!r}; name the columns in a header"
        )
    return fields[0], fields[1] if len(fields) == max(_PLAIN) else "", fields[-2], fields[-1]


def _grade(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise LineError(f"the score {text[:_LONGEST]!r} is not a number")
    value = float(text)
    if not value.is_integer():
        raise LineError(f"the score {text[:_LONGEST]!r} is not a whole number")
    if abs(value) > MAX_GRADE:
        raise LineError(f"the score {text[:_LONGEST]!r} is no grade of relevance; grades lie within {MAX_GRADE}")
    return int(value)


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(one[:_LONGEST]) for one in names)
