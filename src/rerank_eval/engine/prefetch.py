"""Read an iterator ahead in a thread, so that a GPU does not wait for the tokenizer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")

AHEAD = 8
"""Groups that are tokenised before they are needed."""

_LOOK_EVERY = 0.1
"""Seconds after which a waiting thread looks whether it is still wanted."""


def prefetch(items: Iterable[Item], *, ahead: bool) -> Generator[Item, None, None]:
    """Yield an iterable's items, read up to `AHEAD` ahead in a thread; its exceptions are raised here."""
    if not ahead:
        yield from items
        return
    reader = _Reader(items)
    try:
        while (entry := reader.ready.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        reader.stop()


class _Reader(Generic[Item]):
    """A thread that reads items into a queue: each in a tuple, then an exception or None."""

    def __init__(self, items: Iterable[Item]) -> None:
        self.ready: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(AHEAD)
        self._items = items
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._read, name="tokenize-ahead", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, wherever it is."""
        self._abandoned.set()
        self._thread.join()

    def _read(self) -> None:
        try:
            for item in self._items:
                self._put((item,))
                if self._abandoned.is_set():
                    return
        except BaseException as error:
            self._put(error)  # raised again where the items are used
            return
        self._put(None)

    def _put(self, entry: tuple[Item] | BaseException | None) -> None:
        while not self._abandoned.is_set():
            try:
                self.ready.put(entry, timeout=_LOOK_EVERY)
            except queue.Full:
                continue
            return
