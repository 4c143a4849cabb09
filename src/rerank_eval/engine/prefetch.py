"""Read an iterator ahead in a thread, so that a GPU does not wait for the tokenizer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")

AHEAD = 8
"""Groups that are tokenised before they are needed."""

_Entries = queue.Queue[tuple[Any] | BaseException | None]
"""Items, each in a tuple, then an exception or None."""

_LOOK_EVERY = 0.1
"""Seconds after which a waiting thread looks whether it is still wanted."""


def prefetch(items: Iterable[Item], *, ahead: bool) -> Generator[Item, None, None]:
    """Yield an iterable's items, read up to `AHEAD` ahead in a thread; its exceptions are raised here."""
    if not ahead:
        yield from items
        return
    ready, abandoned = _Entries(AHEAD), threading.Event()
    thread = threading.Thread(target=_read, args=(items, ready, abandoned), name="tokenize-ahead", daemon=True)
    thread.start()
    try:
        while (entry := ready.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        abandoned.set()
        thread.join()


def _read(items: Iterable[Any], ready: _Entries, abandoned: threading.Event) -> None:
    try:
        for item in items:
            _put((item,), ready, abandoned)
            if abandoned.is_set():
                return
    except BaseException as error:
        _put(error, ready, abandoned)  # raised again where the items are used
    else:
        _put(None, ready, abandoned)


def _put(entry: tuple[Any] | BaseException | None, ready: _Entries, abandoned: threading.Event) -> None:
    while not abandoned.is_set():
        try:
            ready.put(entry, timeout=_LOOK_EVERY)
        except queue.Full:
            continue
        return
