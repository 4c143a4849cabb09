"""How long workers take for a task's subsets, one after the other: the driver's own cutting against a clock.

A subset is a stream of its own, so each has a beginning, where blocks are small and the first is read before any worker
begins, and an end, where workers wait for the last. Reading and handing out go on in one thread beside the workers.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank_eval.config.schema import WorkersConfig
from rerank_eval.tasks.suites import load_suites
from rerank_eval.workers.blocks import Cutter
from rerank_eval.workers.pool import IN_FLIGHT

_HOUR = 3600.0


@dataclass(frozen=True)
class Rates:
    """Measured rates, pairs a second.

    Attributes:
        read: What one driver reads.
        handed_out: What one driver hands out and takes in.
    """

    read: float
    handed_out: float


@dataclass(frozen=True)
class Subset:
    """One stream.

    Attributes:
        queries: Its queries.
        pairs: Pairs of each query.
        tokens: Tokens of each query with its candidates.
        rate: Pairs a second of one worker.
    """

    queries: int
    pairs: float
    tokens: float
    rate: float


def seconds_of(subset: Subset, workers: int, rates: Rates) -> float:
    """Simulate one subset.

    Args:
        subset: The subset; its queries are taken to be alike.
        workers: How many score it.
        rates: The driver's.

    Returns:
        Seconds from the first reading to the last score.
    """
    now = 0.0

    def items() -> Iterator[int]:
        nonlocal now
        for number in range(subset.queries):
            now += subset.pairs / rates.read
            yield number

    cutter = Cutter(items(), lambda _: subset.tokens, WorkersConfig().block_tokens, workers)
    ends = [0.0] * workers
    places = [(0.0, turn, worker) for turn in range(IN_FLIGHT) for worker in range(workers)]
    while (block := cutter.take()) is not None:
        pairs = len(block.items) * subset.pairs
        since, turn, worker = heapq.heappop(places)
        now = max(now, since) + pairs / rates.handed_out
        ends[worker] = max(ends[worker], now) + pairs / subset.rate
        heapq.heappush(places, (ends[worker], turn, worker))
    return max(ends)


def hours_of(work: Sequence[Mapping[str, Any]], suite: str, workers: int, rates: Rates) -> float:
    """Add up the subsets of a suite's tasks.

    Args:
        work: A reranker's tasks, as the plan has them.
        suite: The suite's name.
        workers: How many score a subset.
        rates: The driver's.
    """
    cells = {task.name: max(1, task.subsets * len(task.splits)) for task in load_suites()[suite].tasks}
    total = 0.0
    for one in work:
        count = cells[one["task"]]
        rate = one["pairs"] / (one["hours"] * _HOUR)
        each, tokens = one["pairs"] / one["queries"], one["prompt_tokens"] / one["queries"]
        subset = Subset(max(1, round(one["queries"] / count)), each, tokens, rate)
        total += count * seconds_of(subset, workers, rates)
    return total / _HOUR
