"""The driver's own limit: the real driver, the real object store and calls, and workers that only sleep.

Each simulated worker answers its blocks one after the other, each after as long as its tokens would take, with scores
of the right size. Many of them live in one process, on the driver's machine: what 256 hosts would do at the same time
(reading a block, making an answer) is done by two processes on the driver's own cores, which makes the figures lower
than real ones. Transfers between hosts are not in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from rerank_bench import say
from rerank_eval.engine.interface import EngineStats, QueryGroup, Scores
from rerank_eval.workers.blocks import tokens_of
from rerank_eval.workers.messages import BlockDone, Loaded
from rerank_eval.workers.pool import Pool, PoolSettings
from rerank_eval.workers.stream import stream

SPEEDS = {"8B": 149.0, "0.6B": 2240.0}
"""Pairs a second of one worker: half of what one H200 could do at its matrix rate on 110 + 189 tokens, the share of
that rate which `plan` assumes."""

WORKERS = (1, 8, 64, 256)
DOCUMENTS = 100
CHARACTERS = 756
"""Of a document: 189 tokens at four characters."""
HOSTS = 2
"""Processes in which the simulated workers live."""


class Sleepers:
    """Many simulated workers in one process.

    Args:
        rate: Pairs a second of each.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._turns: dict[int, asyncio.Lock] = {}

    async def load(self, number: int) -> Loaded:
        """Become ready."""
        self._turns[number] = asyncio.Lock()
        return Loaded("simulated", str(number), 0, "none", 0.0)

    async def run(self, number: int, items: Sequence[QueryGroup]) -> BlockDone:
        """Answer a block once its time has passed; one block after the other, as a process with a model does."""
        async with self._turns[number]:
            pairs = sum(len(group.documents) for group in items)
            seconds = pairs / self._rate
            await asyncio.sleep(seconds)
        answer = [Scores.empty(len(group.documents)) for group in items]
        return BlockDone(answer, EngineStats(pairs=pairs), seconds)


@dataclass(frozen=True)
class _Method:
    method: Any
    number: int

    def remote(self, argument: Any) -> Any:
        return self.method.remote(self.number, argument)


class _Sleeper:
    """One of the simulated workers, as the pool sees it."""

    def __init__(self, host: Any, number: int) -> None:
        self._host, self._number = host, number
        self.run = _Method(host.run, number)

    @property
    def load(self) -> Any:
        host, number = self._host, self._number

        class Load:
            def remote(self, _: Any) -> Any:
                return host.load.remote(number)

        return Load()


@dataclass(frozen=True)
class _NoModel:
    key: str = field(default="none")

    def load(self) -> Any:
        raise NotImplementedError

    def unpack(self, answer: list[Scores]) -> list[Scores]:
        return [scores.take(slice(None)) for scores in answer]


def groups() -> Iterator[QueryGroup]:
    """Yield query groups of short passages without end."""
    generator = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz     ", dtype=np.uint8)
    texts = [generator.choice(letters, CHARACTERS).tobytes().decode() for _ in range(1000)]
    while True:
        # New strings each time, as they come from a data set: what was pickled before would be a reference in a block.
        chosen = generator.integers(0, len(texts), DOCUMENTS)
        yield QueryGroup("how are search results ordered?", None, [texts[i] + str(i) for i in chosen])


def measure(seconds: float) -> dict[str, Any]:
    """Run the driver against growing numbers of simulated workers.

    Args:
        seconds: Length of each run.

    Returns:
        For each speed and number of workers: pairs a second, the share of what the workers could do, and the driver's
        processor time a pair.
    """
    rows = []
    for name, rate in SPEEDS.items():
        for workers in WORKERS:
            rows.append({"speed": name, "rate": rate} | _run(rate, workers, seconds))
            say(f"driver: {rows[-1]}")
    return {"rows": rows, "block_tokens": PoolSettings(1).block_tokens, "making_a_pair_seconds": _making()}


def _making() -> float:
    """Return the seconds that the benchmark itself takes to make a pair, which are not the driver's."""
    started = time.process_time()
    made = sum(len(group.documents) for group in islice(groups(), 200))
    return (time.process_time() - started) / made


def _run(rate: float, workers: int, seconds: float) -> dict[str, Any]:
    import ray

    actor = ray.remote(Sleepers).options(num_cpus=0, max_concurrency=4096)
    hosts = [actor.remote(rate) for _ in range(min(HOSTS, workers))]
    pool = Pool(_NoModel(), PoolSettings(workers), lambda number: _Sleeper(hosts[number % len(hosts)], number))
    while not all(member.loaded for member in pool.members):
        pool.wait()
    pairs = 0
    started, cpu = time.monotonic(), time.process_time()

    def until() -> Iterator[QueryGroup]:
        for group in groups():
            if time.monotonic() - started > seconds:
                return
            yield group

    def weigh(group: QueryGroup) -> float:
        return sum(tokens_of(text) for text in group.documents)

    for result in stream(pool, until(), weigh=weigh, name=lambda group: group.query):
        pairs += len(result.scores)
    cpu = time.process_time() - cpu
    wall = time.monotonic() - started
    for host in hosts:
        ray.kill(host)
    busy = sum(tally.busy for tally in pool.tallies)
    return {
        "workers": workers,
        "pairs": pairs,
        "seconds": wall,
        "pairs_per_second": pairs / wall,
        "possible_pairs_per_second": rate * workers,
        "share_busy": busy / (wall * workers),
        "driver_cpu_seconds_per_pair": cpu / pairs,
        "driver_cpu_share": cpu / wall,
        "blocks": sum(tally.blocks for tally in pool.tallies),
    }
