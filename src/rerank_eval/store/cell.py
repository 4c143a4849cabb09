"""The cached scores of one cell (a task's subset and split) under one identity: found, added, written in blocks."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rerank_eval.config.schema import StoreConfig
from rerank_eval.engine.interface import COLUMNS, Scores
from rerank_eval.files import set_aside, storage_error, sweep
from rerank_eval.store.shards import (
    SUFFIX,
    ScoredQuery,
    ShardError,
    as_digests,
    devices_of,
    read_owner,
    read_queries,
    read_shard,
    write_shard,
)

logger = logging.getLogger(__name__)

_OPEN_SHARDS = 4
"""Shards held in memory: a run asks for queries in the order in which they were written."""


@dataclass(frozen=True)
class _Span:
    path: Path
    start: int
    stop: int


class ScoreCacheCell:
    """One cell's scores. Opening it reads footers and query digests; scores are read a shard at a time.

    One process at a time may hold it open; see `store.locks`. `settings`, `check` and `computed_on` are those of
    `ScoreCache`.

    Attributes:
        pairs: Pairs in the shards that were there or were written.
        devices: What they were computed on, as far as the shards say it.

    Raises:
        StorageError: A bad shard cannot be set aside.
    """

    def __init__(
        self,
        folder: Path,
        owner: Mapping[str, Any],
        settings: StoreConfig | None = None,
        *,
        check: Callable[[], None] | None = None,
        computed_on: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.folder = folder
        self.owner = dict(owner)
        self._settings = settings or StoreConfig()
        self._check = check
        self._computed_on = computed_on
        self.devices: set[str] = set()
        self.pairs = 0
        self._index: dict[bytes, list[_Span]] = {}
        self._tables: OrderedDict[Path, tuple[pa.Table, NDArray[np.void]]] = OrderedDict()
        self._pending: list[ScoredQuery] = []
        self._pending_pairs = 0
        self._since = 0.0
        self._next = 0
        # On a GPU prompts are read ahead in a thread, which looks up while the main thread adds.
        self._guard = threading.RLock()
        self._scan()

    def _scan(self) -> None:
        sweep(self.folder)
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            with suppress(ValueError):
                self._next = max(self._next, int(path.name.split("-", 1)[0]) + 1)
            try:
                facts = read_owner(path)
                if facts["owner"] != self.owner:
                    raise ShardError("belongs to something else")
                self._note(path, read_queries(path))
                self.devices |= devices_of(facts)
            except ShardError as error:
                self._set_aside(path, str(error))

    def _note(self, path: Path, queries: NDArray[np.void]) -> None:
        """Index a shard: rows of one query stand together."""
        if not len(queries):
            return
        words = queries.view(np.uint64).reshape(len(queries), -1)
        starts = np.flatnonzero(np.r_[True, (words[1:] != words[:-1]).any(axis=1)])
        stops = np.r_[starts[1:], len(queries)]
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            self._index.setdefault(queries[start].tobytes(), []).append(_Span(path, start, stop))
        self.pairs += len(queries)

    def _set_aside(self, path: Path, why: str) -> None:
        aside = set_aside(path)
        self._tables.pop(path, None)
        for key, spans in list(self._index.items()):
            kept = [span for span in spans if span.path != path]
            self.pairs -= sum(span.stop - span.start for span in spans if span.path == path)
            if kept:
                self._index[key] = kept
            else:
                del self._index[key]
        logger.warning("%s %s; kept as %s, its pairs are scored again", path, why, aside.name)

    def find(self, query: bytes, documents: Sequence[bytes]) -> tuple[NDArray[np.bool_], Scores]:
        """Look up a query's n documents by their digests.

        Returns:
            (n,) bool, which are there; and their scores, zeros for the others.
        """
        found, known = np.zeros(len(documents), bool), Scores.empty(len(documents))
        wanted: dict[bytes, list[int]] = {}
        for place, digest in enumerate(documents):
            wanted.setdefault(digest, []).append(place)
        with self._guard:
            for span in list(self._index.get(query, ())):
                opened = self._open(span.path)
                if opened is None:
                    continue
                table, digests = opened
                stored = {digest: row for row, digest in enumerate(digests[span.start : span.stop].tolist())}
                pairs = [(p, stored[d]) for d, places in wanted.items() if d in stored for p in places]
                if not pairs:
                    continue
                places, rows = (np.array(one) for one in zip(*pairs, strict=True))
                part = table.slice(span.start, span.stop - span.start)
                found[places] = True
                for one in COLUMNS:
                    getattr(known, one.field)[places] = part.column(one.name).to_numpy()[rows]
        return found, known

    def _open(self, path: Path) -> tuple[pa.Table, NDArray[np.void]] | None:
        if path in self._tables:
            self._tables.move_to_end(path)
            return self._tables[path]
        try:
            table = read_shard(path)
        except ShardError as error:
            self._set_aside(path, str(error))
            return None
        self._tables[path] = (table, as_digests(table.column("document_digest")))
        while len(self._tables) > _OPEN_SHARDS:
            self._tables.popitem(last=False)
        return self._tables[path]

    def add(self, scored: ScoredQuery) -> None:
        """Take the scores of documents that were not there; their block is written when it is full, old, or flushed.

        Raises:
            StorageError: A block is due and cannot be written.
        """
        if not len(scored.doc_ids):
            return
        with self._guard:
            if not self._pending:
                self._since = time.monotonic()
            self._pending.append(scored)
            self._pending_pairs += len(scored.doc_ids)
            full = self._pending_pairs >= self._settings.block_pairs
            if full or time.monotonic() - self._since >= self._settings.block_seconds:
                self.flush()

    def flush(self) -> None:
        """Write what is waiting.

        Raises:
            StorageError: The disk is full or the folder cannot be written; what waits is kept. Or another process has
                taken the work over.
        """
        with self._guard:
            if not self._pending:
                return
            if self._check is not None:
                self._check()
            try:
                devices = set(self._computed_on())
                path = write_shard(self.folder, self._next, self.owner, self._pending, devices)
                self.devices |= devices
            except pa.ArrowException as error:  # a full disk met inside Arrow
                raise storage_error(OSError(errno.ENOSPC, str(error)), self.folder) or error from error
            self._next += 1
            start = 0
            for one in self._pending:
                stop = start + len(one.doc_ids)
                self._index.setdefault(one.query, []).append(_Span(path, start, stop))
                start = stop
            self.pairs += start
            self._pending, self._pending_pairs = [], 0
