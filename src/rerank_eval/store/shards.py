"""A shard: one parquet file with the scores of a block of queries, complete or absent.

Rows of one query (with one instruction) stand together. The file's metadata says what it belongs to and its name
carries a checksum of its bytes, so that a torn, altered or foreign shard is noticed. Any parquet reader opens it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rerank_eval.engine.interface import COLUMNS, QueryGroup, Scores
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
        *(pa.field(one.name, pa.type_for_alias(one.stored), nullable=False) for one in COLUMNS),
    ]
)


class ShardError(Exception):
    """A file is no shard of ours, or does not hold what it says; the message says why."""


def query_digest(query: str, instruction: str | None) -> bytes:
    """Digest what a prompt takes from the query's side; no instruction is not the empty one.

    Returns:
        16 bytes: BLAKE2b over the instruction's length and text and the query's text, in UTF-8.
    """
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    if instruction is None:
        hasher.update(b"\xff" * 8)
    else:
        text = instruction.encode("utf-8", "surrogatepass")
        hasher.update(len(text).to_bytes(8, "little") + text)
    hasher.update(query.encode("utf-8", "surrogatepass"))
    return hasher.digest()


def document_digest(text: str) -> bytes:
    """Digest a document's text: 16 bytes of BLAKE2b over its UTF-8."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


class PairDigests(NamedTuple):
    """What identifies the pairs of a query: the digest of query and instruction, and those of the documents."""

    query: bytes
    documents: list[bytes]

    @classmethod
    def of(cls, group: QueryGroup) -> PairDigests:
        """Digest a query, its instruction and its documents."""
        return cls(query_digest(group.query, group.instruction), [document_digest(text) for text in group.documents])

    @classmethod
    def of_list(cls, group: QueryGroup) -> PairDigests:
        """Digest a query whose documents are scored as one list: another list, or another order, is another query.

        A document goes by its place as well: two equal texts have two scores.
        """
        query, documents = cls.of(group)
        parts = b"".join([b"list", query, *documents])
        whole = hashlib.blake2b(parts, digest_size=DIGEST_BYTES).digest()
        places = [place.to_bytes(8, "little") for place in range(len(documents))]
        return cls(whole, [hashlib.blake2b(whole + place, digest_size=DIGEST_BYTES).digest() for place in places])


@dataclass(frozen=True)
class ScoredQuery:
    """A query's scores with their digests, every sequence of the same length; the ids are for people."""

    query_id: str
    doc_ids: Sequence[str]
    query: bytes
    documents: Sequence[bytes]
    scores: Scores


def write_shard(
    folder: Path,
    number: int,
    owner: Mapping[str, Any],
    queries: Sequence[ScoredQuery],
    computed_on: Iterable[str] = (),
) -> Path:
    """Write a shard atomically.

    Args:
        folder: The cell's folder.
        number: Its place among the cell's shards.
        owner: What it belongs to: identity, task, subset, split.
        queries: What it holds; at least one.
        computed_on: Devices and versions that computed it, for people: no part of what it belongs to.

    Raises:
        StorageError: The disk is full or the folder cannot be written.
    """
    return write_table(folder, number, owner, _table(queries), computed_on)


def write_table(
    folder: Path, number: int, owner: Mapping[str, Any], table: pa.Table, computed_on: Iterable[str] = ()
) -> Path:
    """Write a shard from a table with a shard's columns; see `write_shard`."""
    facts: dict[str, Any] = {"format": FORMAT, "owner": dict(owner), "rows": table.num_rows}
    if devices := sorted(set(computed_on)):
        facts["made_by"] = devices
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
    scores = Scores.concat([one.scores for one in queries])
    repeated = b"".join(one.query * length for one, length in zip(queries, lengths, strict=True))
    columns = {
        "query_id": pa.array(
            [_encodable(one.query_id) for one, n in zip(queries, lengths, strict=True) for _ in range(n)]
        ),
        "doc_id": pa.array([_encodable(doc_id) for one in queries for doc_id in one.doc_ids]),
        "query_digest": _digests(repeated, total),
        "document_digest": _digests(documents, total),
        **{one.name: getattr(scores, one.field) for one in COLUMNS},
    }
    return pa.table([pa.array(columns[name], type=_SCHEMA.field(name).type) for name in _SCHEMA.names], schema=_SCHEMA)


def _encodable(identifier: str) -> str:
    """Make an id what parquet takes: lone surrogates, which UTF-8 has no bytes for, are written out."""
    return identifier.encode("utf-8", "backslashreplace").decode()


def _digests(joined: bytes, count: int) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(DIGEST_BYTES), count, [None, pa.py_buffer(joined)])


def as_digests(column: Any) -> NDArray[np.void]:
    """Return a pyarrow column of 16-byte digests as an array of 16-byte items."""
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


def devices_of(facts: Mapping[str, Any]) -> set[str]:
    """Return what a shard was computed on, from what `read_owner` gave; empty for shards of earlier releases."""
    devices = facts.get("made_by")
    return {one for one in devices if isinstance(one, str)} if isinstance(devices, list) else set()


def _seal(facts: dict[str, Any]) -> str | None:
    try:
        return digest(facts)
    except ValueError:  # NaN, which we never write
        return None


def read_shard(path: Path) -> pa.Table:
    """Read a shard whole and check everything in it.

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


def sound_shards(paths: Iterable[Path], bad: dict[Path, str]) -> Iterator[tuple[Path, pa.Table]]:
    """Yield the shards that are sound, read whole; note in `bad` why the others are not."""
    for path in paths:
        try:
            table = read_shard(path)
        except ShardError as error:
            bad[path] = str(error)
        else:
            yield path, table


def read_queries(path: Path) -> NDArray[np.void]:
    """Read the query digest of each row.

    Raises:
        ShardError: It is torn or altered there.
    """
    try:
        table = pq.read_table(path, columns=["query_digest"], page_checksum_verification=True, memory_map=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ShardError(f"is torn or altered ({type(error).__name__})") from None
    return as_digests(table.column("query_digest"))
