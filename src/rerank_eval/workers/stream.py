"""A stream of items through a pool, results in order, memory bounded; whoever is lost, its blocks are done again."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rerank_eval.errors import DeviceError
from rerank_eval.workers.blocks import Block, Cutter
from rerank_eval.workers.pool import DEATHS, BlockResult, Lost, Pool, describe

logger = logging.getLogger(__name__)

_AHEAD = 8
"""Blocks for each worker that may be under way or wait for an earlier one, so that a lost or slow one holds up none."""

_TELL_EVERY = 60.0


class _Stream:
    """One stream: what is cut, what is under way, what waits for its turn to come out."""

    def __init__(self, pool: Pool, cutter: Cutter, name: Callable[[Any], str]) -> None:
        self._pool = pool
        self._cutter = cutter
        self._name = name
        self._again: deque[Block] = deque()
        self._open = 0
        self._done: dict[int, list[Any]] = {}
        self._next = 0
        self._first = cutter.take()  # an empty stream waits for no worker
        self._ended = self._first is None
        self._limit = _AHEAD * pool.settings.workers

    @property
    def finished(self) -> bool:
        return self._ended and not self._open

    def feed(self) -> None:
        """Give out blocks while there are workers to take them."""
        while (member := self._pool.free()) is not None:
            if self._again:
                if self._again[0].failures and member.sent:
                    return  # what others were lost with is done by a worker that does nothing else
                self._pool.send(member, self._again.popleft())
                continue
            if self._ended or self._open + len(self._done) >= self._limit:
                return
            block, self._first = self._first or self._cutter.take(), None
            if block is None:
                self._ended = True
                return
            self._open += 1
            self._pool.send(member, block)

    def take_in(self) -> None:
        """Wait for what happens next and note it."""
        for event in self._pool.wait():
            if isinstance(event, BlockResult):
                self._open -= 1
                self._done[event.block.start] = self._pool.spec.unpack(event.answer)
            else:
                self._lost(event)

    def results(self) -> Iterator[Any]:
        """Yield what is next in order."""
        while (found := self._done.pop(self._next, None)) is not None:
            self._next += len(found)
            yield from found

    def _lost(self, event: Lost) -> None:
        if not event.blocks:
            return
        blamed, *others = event.blocks
        self._again.extendleft(reversed(others))
        blamed.failures += 1
        if len(blamed.items) > 1 and blamed.failures >= DEATHS - 1:
            halves = blamed.halves()  # it is the block and not the host: close in on the item
            self._open += len(halves) - 1
            self._again.extendleft(reversed(halves))
            return
        if blamed.failures >= DEATHS:
            names = ", ".join(self._name(item) for item in blamed.items)
            raise DeviceError(
                f"{names}: {blamed.failures} workers were lost with it, one after the other, the last one with: "
                f"{event.why}; what was done before is kept"
            )
        self._again.appendleft(blamed)


def stream(
    pool: Pool, items: Iterable[Any], *, weigh: Callable[[Any], float], name: Callable[[Any], str]
) -> Iterator[Any]:
    """Send items through a pool; yield one result an item, in their order.

    Args:
        pool: The workers.
        items: What `Spec`'s handler takes; read ahead by a few blocks a worker.
        weigh: Estimates an item's tokens.
        name: Names an item in an error.

    Raises:
        RerankEvalError: A worker met an error that a user can mend, or an item that workers die of, named; or workers
            cannot be started.
    """
    started = reported = time.monotonic()
    cutter = Cutter(items, weigh, pool.settings.block_tokens, pool.settings.workers)
    under_way = _Stream(pool, cutter, name)
    if under_way.finished:
        return
    pool.count_anew()
    try:
        while True:
            under_way.feed()
            if under_way.finished:
                break
            under_way.take_in()
            under_way.feed()  # before the caller takes its time with the results
            yield from under_way.results()
            if time.monotonic() - reported > _TELL_EVERY:
                reported = time.monotonic()
                logger.info("%s", describe(pool.tallies, reported - started))
    finally:
        if not under_way.finished:
            pool.abandon()
    logger.info("%s", describe(pool.tallies, time.monotonic() - started))
