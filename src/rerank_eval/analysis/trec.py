"""TREC run and qrels files, which `trec_eval`, `ir_measures` and `pytrec_eval` read back to the same numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from rerank_eval.errors import DataError
from rerank_eval.files import atomic_path

_BLANK = re.compile(r"\s")
_RUN_FIELDS = 6


def write_run(path: Path, frame: pd.DataFrame, tag: str) -> None:
    """Write one cell's ranking as `query Q0 document rank score tag`.

    Args:
        path: The file, written atomically.
        frame: Columns query_id, doc_id, score, best candidate first within a query.
        tag: Name of the run.

    Raises:
        DataError: An id holds white space, which the format cannot express.
    """
    for column in ("query_id", "doc_id"):
        for identifier in frame[column].unique():
            if not identifier or _BLANK.search(identifier):
                raise DataError(f"{path.name}: {column} {identifier!r} is empty or holds white space; rename it")
    # trec_eval reads 32-bit floats, so a rank that follows it has to be taken from those.
    ordered = frame.assign(_score=frame["score"].to_numpy(dtype=np.float32))
    ordered["_query"] = pd.factorize(frame["query_id"])[0]
    ordered = ordered.sort_values(["_query", "_score", "doc_id"], ascending=[True, False, False], kind="stable")
    ranks = ordered.groupby("_query", sort=False).cumcount() + 1
    columns = (ordered["query_id"], ordered["doc_id"], ranks, ordered["score"])
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(
            f"{query_id} Q0 {document_id} {rank} {score!r} {tag}\n"
            for query_id, document_id, rank, score in zip(*(column.tolist() for column in columns), strict=True)
        )


def read_run(path: Path) -> pd.DataFrame:
    """Read a TREC run.

    Args:
        path: The file.

    Returns:
        Columns query_id, doc_id, rank, score, tag, in the file's order.

    Raises:
        DataError: The file is missing, a line has not six fields, or a rank or score is no number; names the line.
    """
    rows: list[tuple[str, str, int, float, str]] = []
    try:
        with path.open(encoding="utf-8") as handle:
            for number, line in enumerate(handle, start=1):
                fields = line.split()
                if not fields:
                    continue
                if len(fields) != _RUN_FIELDS:
                    raise DataError(
                        f"{path}:{number}: {len(fields)} fields; a run has `query Q0 document rank score tag`"
                    )
                rows.append((fields[0], fields[2], int(fields[3]), float(fields[4]), fields[5]))
    except FileNotFoundError:
        raise DataError(f"{path}: no such run") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    except ValueError:
        raise DataError(f"{path}:{number}: rank or score is not a number") from None
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "rank", "score", "tag"])


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgements as `query 0 document relevance`.

    Args:
        path: The file, written atomically.
        qrels: query id -> document id -> relevance.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(
            f"{query_id} 0 {document_id} {value}\n"
            for query_id, documents in qrels.items()
            for document_id, value in documents.items()
        )
