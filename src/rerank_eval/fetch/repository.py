"""One repository of the hub: its commit, its files with sizes and hashes, and their way into a folder.

Everything that goes over the network is huggingface_hub's; here its errors become one line each, and every file that
came is held against the hash that the hub lists, which huggingface_hub leaves out for plain HTTP.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rerank_eval.downloads import drop, has_hash, is_whole
from rerank_eval.errors import DataError, ModelError, OfflineError, RerankEvalError, StorageError
from rerank_eval.hub import endpoint, go_offline_if_unreachable, why_unreachable

Kind = Literal["dataset", "model"]

_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
_REFUSED = {401, 403}
_ATTEMPTS = 3
_PAUSE = 2.0
"""Seconds before a file is asked for once more; huggingface_hub itself gave up on it then."""


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it: bytes, and SHA-256 of large files or git's SHA-1 of the others."""

    size: int
    hash: str


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        kind: `dataset` or `model`.
        name: `ORG/NAME`.
        commit: The commit.
        files: Path -> what the hub says of the file.
        folder: Where its files go.
    """

    kind: Kind
    name: str
    commit: str
    files: dict[str, HubFile]
    folder: Path

    def is_whole(self, file: str) -> bool:
        """Tell whether a file is in the folder already."""
        return is_whole(self.folder, file, self.commit)

    def download(self, file: str, folder: Path | None = None) -> Path:
        """Bring one file, unless it is there; what is there and is not the hub's is fetched anew.

        Returns:
            The file.

        Raises:
            OfflineError: The hub cannot be reached, or stopped answering.
            StorageError: The disk is full or the folder cannot be written.
            DataError: What came is not what the hub lists; or it may not be read (ModelError for a model).
        """
        folder = folder or self.folder
        path = folder / file
        if is_whole(folder, file, self.commit):
            return path
        with _one_line(self.kind, self.name, file):
            self._receive(file, folder)
        try:
            right = has_hash(path, self.files[file].hash, path.stat().st_mtime_ns)
        except BaseException:  # not looked at to its end: the next call must not take it for whole
            drop(folder, file)
            raise
        if not right:
            drop(folder, file)
            raise _problem(self.kind)(
                f"{self.name}: {file} came damaged: its hash is not {self.files[file].hash[:12]}..., which the hub "
                "lists; run the same command again, and if that does not help look for a proxy that changes files"
            )
        return path

    def _receive(self, file: str, folder: Path) -> None:
        from huggingface_hub import hf_hub_download

        path = folder / file
        # Left to itself, hf_hub_download takes a file that was changed since for what it was.
        force = path.is_file() and not has_hash(path, self.files[file].hash, path.stat().st_mtime_ns)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                hf_hub_download(
                    self.name,
                    file,
                    repo_type=self.kind,
                    revision=self.commit,
                    local_dir=folder,
                    force_download=force,
                )
            except _failures() as error:
                if attempt == _ATTEMPTS or not _may_pass(error):
                    raise
                time.sleep(_PAUSE)
            else:
                return


def look_up(kind: Kind, name: str, revision: str | None, folder: Path) -> Repository:
    """Ask the hub which commit a revision is, and which files it has.

    Args:
        kind: `dataset` or `model`.
        name: `ORG/NAME`.
        revision: A commit, a branch, a tag, or None for the newest.
        folder: Where its files will go.

    Returns:
        The repository; nothing is downloaded.

    Raises:
        OfflineError: The hub cannot be reached.
        DataError: The hub has no such repository or revision, or it may not be read (ModelError for a model).
    """
    from huggingface_hub import HfApi, RepoFile

    if go_offline_if_unreachable():
        raise OfflineError(f"{name}: {why_unreachable()}; run the same command where there is a network")
    api = HfApi()
    with _one_line(kind, name, f"revision {revision}" if revision else ""):
        commit = revision
        if commit is None or not _COMMIT.match(commit):
            commit = api.repo_info(name, repo_type=kind, revision=revision).sha
        entries = list(api.list_repo_tree(name, recursive=True, revision=commit, repo_type=kind))
    files = {
        entry.path: HubFile(entry.size, entry.lfs.sha256 if entry.lfs is not None else entry.blob_id)
        for entry in entries
        if isinstance(entry, RepoFile)
    }
    return Repository(kind, name, str(commit), files, folder)


def _problem(kind: Kind) -> type[RerankEvalError]:
    return DataError if kind == "dataset" else ModelError


def _failures() -> tuple[type[Exception], ...]:
    """Return what huggingface_hub, its HTTP client and its Xet client raise; their classes' homes differ by release."""
    from huggingface_hub import errors

    found = [getattr(errors, name, None) for name in ("HTTPError", "XetDownloadError")]
    return (OSError, RuntimeError, *(one for one in found if one is not None))


def _may_pass(error: Exception) -> bool:
    """Tell whether asking once more may help: the connection ended early, rather than an answer or the disk."""
    return getattr(error, "errno", None) is None and _status(error) is None


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status behind an error: huggingface_hub wraps it in a "not found locally"."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


@contextmanager
def _one_line(kind: Kind, name: str, what: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one clear line with an exit code."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        yield
    except RevisionNotFoundError as error:
        raise _problem(kind)(f"{name}: the hub has no {what} of it") from error
    except _failures() as error:
        raise _translated(error, kind, name, what) from error


def _translated(error: Exception, kind: Kind, name: str, what: str) -> RerankEvalError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    status = _status(error)
    gated = isinstance(error, GatedRepoError) or isinstance(error.__cause__, GatedRepoError)
    page = f"{endpoint()}/{'datasets/' if kind == 'dataset' else ''}{name}"
    if gated:
        return _problem(kind)(
            f"{name}: gated; accept its terms on {page}, log in with `hf auth login` (or set HF_TOKEN), and run the "
            "same command again"
        )
    if isinstance(error, RepositoryNotFoundError) or status in _REFUSED:
        return _problem(kind)(
            f"{name}: the hub has no {kind} of this name that you may read (HTTP {status}); if it is private or gated, "
            "log in with `hf auth login` (or set HF_TOKEN), and run the same command again"
        )
    if isinstance(error, OSError) and status is None:
        if error.errno in _FULL:
            return StorageError(f"{name}: {what}: no space left on the disk; free some and run the same command again")
        if error.errno in _NOT_WRITABLE:
            return StorageError(
                f"{error.filename or name}: cannot be written; choose another --data-root, --model-root"
            )
    answer = f"the hub answered with HTTP {status}" if status else f"the connection failed ({type(error).__name__})"
    return OfflineError(
        f"{name}: {f'{what}: ' if what else ''}{answer}; run the same command again: what is whole stays"
    )
