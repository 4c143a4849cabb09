"""A shard: one parquet file with the scores of a block of queries, complete or absent.

Rows of one query (with one instruction) stand together. The file's metadata says what it belongs to and its name
carries a checksum of its bytes, so that a torn, altered or foreign shard is noticed. Any parquet reader opens it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rerank_eval.files import atomic_path
from rerank_eval.names import canonical_json, digest

FORMAT = 1
DIGEST_BYTES = 16
SUFFIX = ".parquet"

_KEY = b"rerank_eval"
_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("query_digest", pa.binary(DIGEST_BYTES), nullable=False),
        pa.field("document_digest", pa.binary(DIGEST_BYTES), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("margin", pa.float64(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("overlong", pa.bool_(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
    ]
)


class ShardError(Exception):
    """A file is no shard of ours, or does not hold what it says; the message says why."""


def query_digest(query: str, instruction: str | None) -> bytes:
    """Digest what a prompt takes from the query's side.

    Args:
        query: The query's text as the recipe reads it.
        instruction: The instruction, or None for none (which is not the empty one).

    Returns:
        16 bytes: BLAKE2b over the instruction's length and text and the query's text, in UTF-8.
    """
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    if instruction is None:
        hasher.update(b"\xff" * 8)
    else:
        told = instruction.encode("utf-8", "surrogatepass")
        hasher.update(len(told).to_bytes(8, "little") + told)
    hasher.update(query.encode("utf-8", "surrogatepass"))
    return hasher.digest()


def document_digest(text: str) -> bytes:
    """Digest a document's text: 16 bytes of BLAKE2b over its UTF-8.

    Args:
        text: The document as the recipe reads it.
    """
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True)
class ScoredQuery:
    """Scores of a query's candidates, every sequence of the same length.

    Attributes:
        query_id: The query's id, for people: what identifies a pair are the digests.
        doc_ids: The documents' ids, likewise.
        query: Digest of query and instruction.
        documents: Digests of the documents.
        scores: float64; what ranks.
        margins: float64; log-odds of relevance.
        truncated: bool; whether the prompt was cut.
        overlong: bool; whether the query alone filled the prompt.
        tokens: int32; the prompt's length.
    """

    query_id: str
    doc_ids: Sequence[str]
    query: bytes
    documents: Sequence[bytes]
    scores: NDArray[np.float64]
    margins: NDArray[np.float64]
    truncated: NDArray[np.bool_]
    overlong: NDArray[np.bool_]
    tokens: NDArray[np.int64]


def write_shard(
    folder: Path, number: int, owner: Mapping[str, Any], queries: Sequence[ScoredQuery], makers: Iterable[str] = ()
) -> Path:
    """Write a shard atomically.

    Args:
        folder: The cell's folder.
        number: Its place among the cell's shards.
        owner: What it belongs to: identity, task, subset, split.
        queries: What it holds; at least one.
        makers: Devices and versions that computed it, for people: no part of what it belongs to.

    Returns:
        The file.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    return write_table(folder, number, owner, _table(queries), makers)


def write_table(
    folder: Path, number: int, owner: Mapping[str, Any], table: pa.Table, makers: Iterable[str] = ()
) -> Path:
    """Write a shard from a table with a shard's columns; see `write_shard`."""
    facts: dict[str, Any] = {"format": FORMAT, "owner": dict(owner), "rows": table.num_rows}
    if told := sorted(set(makers)):
        facts["made_by"] = told
    facts["seal"] = digest(facts)
    buffer = pa.BufferOutputStream()
    # Page checksums let a reader of a few columns notice a flipped bit; ids repeat, digests do not.
    pq.write_table(
        table.replace_schema_metadata({_KEY: canonical_json(facts).encode()}),
        buffer,
        compression="zstd",
        compression_level=1,
        use_dictionary=["query_id", "query_digest", "doc_id"],
        write_page_checksum=True,
    )
    content = buffer.getvalue().to_pybytes()
    path = folder / f"{number:06d}-{zlib.crc32(content):08x}{SUFFIX}"
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def _table(queries: Sequence[ScoredQuery]) -> pa.Table:
    lengths = [len(one.doc_ids) for one in queries]
    documents = b"".join(digest for one in queries for digest in one.documents)
    total = sum(lengths)
    repeated = b"".join(one.query * length for one, length in zip(queries, lengths, strict=True))
    columns = {
        "query_id": pa.array([_told(one.query_id) for one, n in zip(queries, lengths, strict=True) for _ in range(n)]),
        "doc_id": pa.array([_told(doc_id) for one in queries for doc_id in one.doc_ids]),
        "query_digest": _digests(repeated, total),
        "document_digest": _digests(documents, total),
        "score": np.concatenate([one.scores for one in queries]).astype(np.float64),
        "margin": np.concatenate([one.margins for one in queries]).astype(np.float64),
        "truncated": np.concatenate([one.truncated for one in queries]).astype(bool),
        "overlong": np.concatenate([one.overlong for one in queries]).astype(bool),
        "tokens": np.concatenate([one.tokens for one in queries]).astype(np.int32),
    }
    return pa.table([pa.array(columns[name], type=_SCHEMA.field(name).type) for name in _SCHEMA.names], schema=_SCHEMA)


def _told(identifier: str) -> str:
    """Make an id what parquet takes: lone surrogates, which UTF-8 has no bytes for, are written out."""
    return identifier.encode("utf-8", "backslashreplace").decode()


def _digests(joined: bytes, count: int) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIGEST_BYTES), count, [None, pa.py_buffer(joined)])


def as_digests(column: Any) -> NDArray[np.void]:
    """Return a column of digests as an array of 16-byte items.

    Args:
        column: A pyarrow chunked array of fixed-size binaries.
    """
    array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    buffer = array.buffers()[1]
    if not len(array) or buffer is None:
        return np.zeros(0, dtype=f"V{DIGEST_BYTES}")
    return np.frombuffer(buffer, dtype=f"V{DIGEST_BYTES}", count=len(array), offset=array.offset * DIGEST_BYTES)


def read_owner(path: Path) -> dict[str, Any]:
    """Read what a shard says it belongs to, from its footer alone.

    Args:
        path: The file.

    Returns:
        `format`, `owner` and `rows`, and `made_by` where the shard says it.

    Raises:
        ShardError: It is no shard of this format, or it is torn.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("not a file")  # a pipe would be waited for
        # Opening checks the magic bytes at both ends and the footer's length: a file cut anywhere fails here.
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        facts = json.loads((schema.metadata or {})[_KEY])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ShardError(f"is torn or no shard ({type(error).__name__})") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT or not schema.equals(_SCHEMA, check_metadata=False):
        raise ShardError("is of another format")
    if facts.pop("seal", None) != _seal(facts) or facts.get("rows") != rows or not isinstance(facts.get("owner"), dict):
        raise ShardError("does not hold what it says")
    return facts


def makers_of(facts: Mapping[str, Any]) -> set[str]:
    """Return who computed a shard, from what `read_owner` gave; empty for shards of earlier releases."""
    told = facts.get("made_by")
    return {one for one in told if isinstance(one, str)} if isinstance(told, list) else set()


def _seal(facts: dict[str, Any]) -> str | None:
    try:
        return digest(facts)
    except ValueError:  # NaN, which we never write
        return None


def read_shard(path: Path) -> pa.Table:
    """Read a shard whole and check everything in it.

    Args:
        path: The file.

    Returns:
        Its table.

    Raises:
        ShardError: It is torn, altered, or holds a score that is not finite.
    """
    read_owner(path)
    try:
        content = path.read_bytes()
        if path.stem.partition("-")[2] != f"{zlib.crc32(content):08x}":
            raise ShardError("does not hold what the checksum in its name says")
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(f"is torn or altered ({type(error).__name__})") from None
    if not np.isfinite(table.column("score").to_numpy()).all():
        raise ShardError("holds a score that is not finite")
    return table


def read_queries(path: Path) -> NDArray[np.void]:
    """Read the query digest of each row.

    Args:
        path: The file.

    Raises:
        ShardError: It is torn or altered there.
    """
    try:
        table = pq.read_table(path, columns=["query_digest"], page_checksum_verification=True, memory_map=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(f"is torn or altered ({type(error).__name__})") from None
    return as_digests(table.column("query_digest"))
