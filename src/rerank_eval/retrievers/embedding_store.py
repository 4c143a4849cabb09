"""A corpus's embeddings on disk: written block by block, continued after an interruption, reused across runs.

A folder `<store>/<model>/<digest of model and texts>/` holds `embeddings.npy` (float32, one row a text, in the texts'
order) and `manifest.json`. While it is being made it holds `embeddings.npy.partial` and `progress.json`, which names
the blocks that are on the disk. Every block has a checksum, so a file that a crash has torn is noticed.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from rerank_eval.errors import StorageError
from rerank_eval.files import load_json, set_aside, storage_error, sweep, write_json
from rerank_eval.names import digest, slug
from rerank_eval.store import LOCK
from rerank_eval.store.locks import HeldLock, locked

logger = logging.getLogger(__name__)

BLOCK = 1024
"""Texts embedded between two notes of progress: sorted by length among themselves, and all that is held in memory."""

_SCHEMA = 1
_WAITING = "%s: another run is embedding this corpus; waiting for it"
_NO_SUCH_CALL = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}

Embed = Callable[[Iterable[Sequence[str]]], Iterable[NDArray[np.float32]]]
"""Blocks of texts to blocks of vectors, float32 of shape (n, dim), in order; blocks may be read ahead."""


class Texts(Protocol):
    """Texts that are read a block at a time, and more than once."""

    def __len__(self) -> int:
        """How many there are."""

    def block(self, start: int, stop: int) -> Sequence[str]:
        """Return the texts from `start` to before `stop`."""


class StoredVectors:
    """Rows of a finished file of float32, shape (rows, dim); a file of no rows is not read.

    Only what is asked for is mapped, and only while it is copied, so memory stays flat.
    """

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        self.path = path
        self.shape: tuple[int, ...] = shape

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Return rows as an array of shape (n, dim)."""
        if not self.shape[0]:
            return np.zeros((0, self.shape[1]), dtype=np.float32)
        return np.array(np.load(self.path, mmap_mode="r")[rows])


class _Entry:
    """One file to be: where it lies and what it holds."""

    def __init__(self, folder: Path, facts: dict[str, Any], rows: int, dim: int) -> None:
        self.folder, self.facts, self.rows, self.dim = folder, facts, rows, dim
        self.final = folder / "embeddings.npy"
        self.partial = folder / "embeddings.npy.partial"
        self.manifest = folder / "manifest.json"
        self.progress = folder / "progress.json"
        self.blocks = -(-rows // BLOCK)

    def bounds(self, block: int) -> tuple[int, int]:
        return block * BLOCK, min((block + 1) * BLOCK, self.rows)

    def checksums(self, note: Path) -> list[int] | None:
        """Return the checksums in a note of ours about this very content, else None."""
        try:
            content = load_json(note)
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict) or any(content.get(key) != value for key, value in self.facts.items()):
            return None
        found = content.get("checksums")
        if not isinstance(found, list) or not all(isinstance(one, int) for one in found) or len(found) > self.blocks:
            return None
        return found

    def note(self, path: Path, checksums: Sequence[int]) -> None:
        """Write such a note."""
        write_json(path, {**self.facts, "checksums": list(checksums)})


class EmbeddingStore:
    """Embeddings of whole corpora, each in a file of its own below a folder that is created when needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def vectors(
        self,
        label: str,
        identity: Mapping[str, Any],
        texts: Texts,
        *,
        dim: int,
        embed: Embed,
        advance: Callable[[int], None] = lambda _: None,
    ) -> StoredVectors:
        """Return a corpus's embeddings in the texts' order, computing what is not there yet.

        Args:
            label: The model's short name, for the folder.
            identity: All that can change a vector besides the text; JSON-serialisable.
            texts: The texts, read twice: for their digest, and to embed them.
            dim: Length of a vector.
            embed: Embeds a stream of blocks.
            advance: Told how many texts are done since the last call, those found done among them.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        facts = {
            "schema": _SCHEMA,
            "model": dict(identity),
            "texts": texts_digest(texts),
            "rows": len(texts),
            "dim": dim,
            "block": BLOCK,
        }
        folder = self.folder / slug(label) / digest([facts["model"], facts["texts"]])
        entry = _Entry(folder, facts, len(texts), dim)
        if entry.rows:
            try:
                with locked(folder / LOCK, waiting=lambda: logger.warning(_WAITING, folder)) as lock:
                    assert lock is not None  # noqa: S101 - it waited
                    self._ensure(entry, texts, embed, advance, lock)
            except OSError as error:
                raise storage_error(error, folder) or StorageError(
                    f"{folder}: embeddings cannot be written ({error.strerror})"
                ) from error
        return StoredVectors(entry.final, (entry.rows, dim))

    def _ensure(
        self, entry: _Entry, texts: Texts, embed: Embed, advance: Callable[[int], None], lock: HeldLock
    ) -> None:
        sweep(entry.folder)
        if entry.final.exists():
            checksums = entry.checksums(entry.manifest)
            if checksums is not None and len(checksums) == _sound(entry, entry.final, checksums) == entry.blocks:
                advance(entry.rows)
                return
            _set_aside(entry.final, "does not hold what its manifest says")
        done = _resumable(entry)
        if done:
            advance(entry.bounds(len(done) - 1)[1])
        todo = [entry.bounds(block) for block in range(len(done), entry.blocks)]
        for (start, stop), found in zip(todo, embed(texts.block(*bounds) for bounds in todo), strict=True):
            vectors = np.ascontiguousarray(found, dtype=np.float32)
            if vectors.shape != (stop - start, entry.dim):
                raise ValueError(f"embedding gave {vectors.shape}, expected {(stop - start, entry.dim)}")
            lock.check()  # who slept must not write into a file that another one is at, or has finished
            _write(entry.partial, start, vectors)
            done.append(zlib.crc32(vectors.data))
            entry.note(entry.progress, done)
            advance(stop - start)
        # The manifest first: without the file it counts for nothing, and what is there is continued.
        entry.note(entry.manifest, done)
        entry.partial.replace(entry.final)
        entry.progress.unlink(missing_ok=True)


class TemporaryStore(EmbeddingStore):
    """A store in a folder of its own that goes when the store does."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="rerank-eval-")
        super().__init__(Path(self._temporary.name))


def texts_digest(texts: Texts) -> str:
    """Digest texts in order, without holding them.

    The first 32 hexadecimal characters of a SHA-256 over each text's length in bytes and its bytes.
    """
    hasher = hashlib.sha256()
    for start in range(0, len(texts), BLOCK):
        for text in texts.block(start, min(start + BLOCK, len(texts))):
            data = text.encode("utf-8", "surrogatepass")
            hasher.update(len(data).to_bytes(8, "little"))
            hasher.update(data)
    return hasher.hexdigest()[:32]


def _resumable(entry: _Entry) -> list[int]:
    """Return the checksums of the blocks that need not be done again, and make sure that the partial file stands."""
    done = entry.checksums(entry.progress)
    if done is None and entry.checksums(entry.manifest) is not None:
        done = entry.checksums(entry.manifest)  # ended between the manifest and the renaming
    if done == []:  # nothing to lose, and perhaps not yet of its full size
        entry.partial.unlink(missing_ok=True)
    if entry.partial.exists():
        sound = _sound(entry, entry.partial, done or [])
        if done is not None and sound is not None:
            if sound < len(done):
                logger.warning("%s: block %d is torn; embedding again from there", entry.partial, sound)
            return done[:sound]
        _set_aside(entry.partial, "is not what its progress note says")
    # The note first: without it, what a kill leaves of a file being made would look like somebody else's.
    entry.note(entry.progress, [])
    created = open_memmap(entry.partial, mode="w+", dtype=np.float32, shape=(entry.rows, entry.dim))
    created.flush()
    del created
    _reserve(entry.partial)
    return []


def _sound(entry: _Entry, path: Path, checksums: Sequence[int]) -> int | None:
    """Count the blocks from the first on that have their checksum; None for a file of another shape or kind."""
    try:
        vectors = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if vectors.shape != (entry.rows, entry.dim) or vectors.dtype != np.float32 or not vectors.flags.c_contiguous:
        return None
    stored = StoredVectors(path, (entry.rows, entry.dim))
    for block, expected in enumerate(checksums):
        if zlib.crc32(stored[slice(*entry.bounds(block))].data) != expected:
            return block
    return len(checksums)


def _write(path: Path, start: int, vectors: NDArray[np.float32]) -> None:
    """Write rows and wait until they are on the disk."""
    mapped = np.load(path, mmap_mode="r+")
    mapped[start : start + len(vectors)] = vectors
    mapped.flush()


def _reserve(path: Path) -> None:
    """Reserve the file's blocks: on a full disk, writing to a map of a file with holes would kill the process."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in _NO_SUCH_CALL:
                path.unlink(missing_ok=True)
                raise


def _set_aside(path: Path, why: str) -> None:
    aside = set_aside(path)
    logger.warning("%s %s; kept as %s, embedding again", path, why, aside.name)
