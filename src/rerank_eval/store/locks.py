"""One process at a time, on one host or on many that share a folder.

A lock is a lease (`filelock.SoftFileLease`): a file that its owner touches every few seconds. A lease whose process is
known to be dead is taken over at once; one whose host has fallen silent, after `LEASE_SECONDS` by the waiting process's
own clock. A process that was only asleep, and finds its lease taken, stops before it writes anything more.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLease, Timeout

from rerank_eval.errors import StorageError
from rerank_eval.files import storage_error

logger = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
_POLL_SECONDS = 0.5
_LOOKS = 3
"""How often a lease is looked at before it counts as lost: who examines it moves it aside for a moment."""


class HeldLock:
    """A lock that this process holds."""

    def __init__(self, lease: SoftFileLease) -> None:
        self._lease = lease

    def check(self) -> None:
        """Raise a StorageError if another process has taken the lock over while this one was silent."""
        lost = self._lease.compromise
        reason = lost.reason if lost is not None else self._not_ours()
        if reason is not None:
            raise StorageError(
                f"{self._lease.lock_file}: another process has taken this work over ({reason}), as this one was "
                "silent for too long; what it had written is kept, run again to go on"
            )

    def _not_ours(self) -> str | None:
        """Look at the file itself: after a sleep the lease's own thread takes up to two of its turns to notice."""
        for _ in range(_LOOKS):
            try:
                record = Path(self._lease.lock_file).read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:
                record = ""
            except OSError:  # a file server that does not answer now has not given the lease to another
                return None
            if f"token={self._lease.token}\n" in record:
                return None
            time.sleep(_POLL_SECONDS / _LOOKS)
        return "owner-changed"


@contextmanager
def locked(path: Path, *, wait: bool = True, waiting: Callable[[], None] | None = None) -> Iterator[HeldLock | None]:
    """Hold a lock; yield None where another process holds it and `wait` is False.

    Args:
        path: The lock's file.
        wait: Wait for another process to be done; else give up at once.
        waiting: Called once when there is something to wait for.

    Raises:
        StorageError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lease = SoftFileLease(path, lease_duration=LEASE_SECONDS, thread_local=False, is_singleton=False)
        taken = _acquire(lease, 0)
        if not taken and wait:
            if waiting is not None:
                waiting()
            _drop_empty(path)
            taken = _acquire(lease, -1)
    except OSError as error:
        raise storage_error(error, path) or StorageError(f"{path}: cannot be written ({error.strerror})") from error
    if not taken:
        yield None
        return
    try:
        yield HeldLock(lease)
    finally:
        try:
            lease.release()
        except OSError as error:
            if error.errno != errno.ENOENT:
                logger.warning("%s: the lock cannot be given back (%s)", path, error.strerror)


def _acquire(lease: SoftFileLease, seconds: float) -> bool:
    try:
        lease.acquire(timeout=seconds, poll_interval=_POLL_SECONDS)
    except Timeout:
        return False
    return True


def _drop_empty(path: Path) -> None:
    """Wait while a lock's file is empty, and remove it when its owner has been silent for a lease.

    A host that crashes leaves such files: the record was never written to the disk. filelock waits for them for ever.
    """
    seen: tuple[int, int, int] | None = None
    since = 0.0
    with suppress(OSError):  # gone, and all is well; what else is wrong, the lock itself will meet
        while (found := path.stat()).st_size == 0:
            key = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
            if key != seen:
                seen, since = key, time.monotonic()
            elif time.monotonic() - since >= LEASE_SECONDS:
                logger.warning("%s: names no owner, and nobody has touched it for %.0f s; removed", path, LEASE_SECONDS)
                path.unlink()
                return
            time.sleep(_POLL_SECONDS)
