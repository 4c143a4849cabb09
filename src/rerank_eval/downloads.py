"""Folders as `rerank-eval fetch` and `hf download ORG/NAME --local-dir DIR/ORG/NAME` leave them: whole? which commit?

huggingface_hub notes beside the files, in `.cache/huggingface/download/FILE.metadata`, of which commit each is and
what its hash is (https://huggingface.co/docs/huggingface_hub/guides/download). A file counts as that commit's when it
has not been touched since, or when its hash still is the noted one. Nothing but `drop` changes such a folder.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rerank_eval.typed import command

_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_SHARD = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<rest>\D.*)$")
_NOTES = Path(".cache", "huggingface", "download")
_NOTE_LINES = 3
_SHA256 = 64
_SHA1 = 40
_CLOCK = 1.0
"""Seconds by which a file may look newer than its note, as huggingface_hub allows it."""


class DownloadError(Exception):
    """A folder is not a whole copy of a revision; the message is a clause without folder and remedy."""


class _Note(NamedTuple):
    commit: str
    etag: str
    time: float


def files_in(folder: Path) -> list[str]:
    """List a repository's files, those that were downloaded once and are gone among them.

    What huggingface_hub and git keep in the folder is left out.
    """
    found: set[str] = set()
    for path, folders, files in os.walk(folder):
        inside = Path(path).relative_to(folder)
        folders[:] = [name for name in folders if inside.parts or name not in {".cache", ".git"}]
        found.update((inside / name).as_posix() for name in files)
    notes = folder / _NOTES
    found.update(note.relative_to(notes).as_posix().removesuffix(".metadata") for note in notes.rglob("*.metadata"))
    return sorted(found)


def verify(folder: Path, files: Sequence[str], revision: str | None) -> tuple[str, dict[str, str]]:
    """Check that files are whole and all of one commit: the pinned one, or any where `revision` is a branch or None.

    Returns:
        The commit, and the hash of each file as the hub noted it.

    Raises:
        DownloadError: Names the first file that is missing, torn, changed or of another commit.
    """
    pinned = revision if revision is not None and _COMMIT.match(revision) else None
    commit = pinned
    etags: dict[str, str] = {}
    _check_shards(files)
    for file in files:
        note = _note(folder, file)
        if note is None:
            raise DownloadError(
                f"{file} has no note of its commit under .cache/huggingface, so that its revision is unknown; was the "
                f"folder made by `{command('fetch')}`, and copied with its hidden folders?"
            )
        if commit is not None and note.commit != commit:
            other = "the other files are" if pinned is None else "the pinned revision is"
            raise DownloadError(
                f"{file} is of commit {note.commit}, {other} {commit}; delete the folder and fetch it again"
            )
        commit = note.commit
        _check_content(folder / file, file, note)
        etags[file] = note.etag
    if commit is None:
        raise DownloadError("holds no files")
    return commit, etags


def is_whole(folder: Path, file: str, commit: str) -> bool:
    """Tell whether one file is there, of a commit, and as it was downloaded; see `verify`."""
    note = _note(folder, file)
    if note is None or note.commit != commit:
        return False
    try:
        _check_content(folder / file, file, note)
    except DownloadError:
        return False
    return True


def drop(folder: Path, file: str) -> None:
    """Delete a file of a download and its note, so that the next download starts anew."""
    (folder / file).unlink(missing_ok=True)
    (folder / _NOTES / f"{file}.metadata").unlink(missing_ok=True)


def _check_shards(files: Sequence[str]) -> None:
    """Refuse `x-00001-of-00003` without its siblings: a pattern would match what is there and read part of the data."""
    shards = filter(None, map(_SHARD.match, files))
    present = Counter((shard["stem"], shard["count"], shard["rest"]) for shard in shards)
    for (stem, count, rest), number in present.items():
        if number < int(count):
            raise DownloadError(f"only {number} of the {int(count)} files {stem}-*-of-{count}{rest} are there")


def _note(folder: Path, file: str) -> _Note | None:
    try:
        lines = (folder / _NOTES / f"{file}.metadata").read_text(encoding="utf-8").splitlines()
        return _Note(lines[0].strip(), lines[1].strip(), float(lines[2])) if len(lines) >= _NOTE_LINES else None
    except (OSError, ValueError):
        return None


def _check_content(path: Path, file: str, note: _Note) -> None:
    try:
        stat = path.stat()
        # A copy of the mirror made without its times looks changed; only then is reading it all worth the time.
        if stat.st_mtime - _CLOCK > note.time and not has_hash(path, note.etag, stat.st_mtime_ns):
            raise DownloadError(f"{file} was changed after its download: its hash is not {note.etag[:12]}...")
    except FileNotFoundError:
        raise DownloadError(f"{file} is missing") from None
    except OSError as error:
        raise DownloadError(f"{file} cannot be read ({error.strerror})") from None


@functools.lru_cache(maxsize=4096)
def has_hash(path: Path, etag: str, _mtime_ns: int) -> bool:
    """Tell whether a file's content has the hash that the hub noted; one that cannot be checked counts as right.

    The hash is a SHA-256, or git's SHA-1 of a blob. A file that changes, which `_mtime_ns` tells, is read again.
    """
    if len(etag) not in {_SHA1, _SHA256}:
        return True
    hasher = hashlib.sha256() if len(etag) == _SHA256 else hashlib.sha1(usedforsecurity=False)
    if len(etag) == _SHA1:
        hasher.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest() == etag
