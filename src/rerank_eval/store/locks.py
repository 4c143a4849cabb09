"""One process at a time, on one host or on many that share a folder.

A lock is a lease (`filelock.SoftFileLease`): a file that its owner touches every few seconds. A lease whose process is
known to be dead is taken over at once; one whose host has fallen silent, after `LEASE_SECONDS` by the waiting process's
own clock. A process that was only asleep, and finds its lease taken, stops before it writes anything more.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLease, Timeout

from rerank_eval.errors import StorageError
from rerank_eval.files import storage_error

logger = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
_POLL_SECONDS = 0.5


class Held:
    """A lock that this process holds.

    Args:
        lease: The lease.
    """

    def __init__(self, lease: SoftFileLease) -> None:
        self._lease = lease

    def check(self) -> None:
        """Make sure that the lock is still held, before something is written under it.

        Raises:
            StorageError: Another process has taken it over while this one was silent.
        """
        lost = self._lease.compromise
        if lost is not None:
            raise StorageError(
                f"{self._lease.lock_file}: another process has taken this work over ({lost.reason}), as this one was "
                "silent for too long; what it had written is kept, run again to go on"
            )


@contextmanager
def locked(path: Path, *, wait: bool = True, waiting: Callable[[], None] | None = None) -> Iterator[Held | None]:
    """Hold a lock.

    Args:
        path: The lock's file.
        wait: Wait for another process to be done; else give up at once.
        waiting: Told once when there is something to wait for.

    Yields:
        The lock, or None where another process holds it and `wait` is False.

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
            taken = _acquire(lease, -1)
    except OSError as error:
        raise storage_error(error, path) or StorageError(f"{path}: cannot be written ({error.strerror})") from error
    if not taken:
        yield None
        return
    try:
        yield Held(lease)
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
