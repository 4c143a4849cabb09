"""Two workers of one thread each against one, and against one process, on the same pairs, in turns."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from rerank_bench import say
from rerank_bench.shapes import SHAPES, write_checkpoint
from rerank_bench.workloads import WORKLOADS, Texts
from rerank_eval.config.schema import RerankerConfig, WorkersConfig
from rerank_eval.engine.interface import Engine, QueryGroup
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker
from rerank_eval.workers.cluster import Cluster
from rerank_eval.workers.scoring import RayEngine, RerankerSpec

PRESET = "tiny"
DOCUMENTS = 20
BLOCK_TOKENS = 8_000
"""Small, as the runs are short: some three blocks a worker before the end comes in sight."""


def measure(checkpoints: Path, rounds: int, groups: int) -> dict[str, Any]:
    """Time one process, one worker and two workers in turns.

    Args:
        checkpoints: Folder for the checkpoint.
        rounds: Turns.
        groups: Queries of a turn.

    Returns:
        Pairs a second of each turn, their median, and the efficiency of two workers turn by turn: their rate over
        twice that of one. On a machine that others use as well that says as much of them as of us; so for each turn
        also the share of its time that workers had something to do, and their processor time a pair, which others
        hardly change.
    """
    folder = write_checkpoint(checkpoints / PRESET, SHAPES[PRESET], "float32", "cpu")
    config = RerankerConfig(model=str(folder.absolute()))
    ref = resolve_model(config.model, None, "reranker.model")
    prepared = prepare_reranker(config, ref)
    work = list(Texts(AutoTokenizer.from_pretrained(folder), WORKLOADS["short"], DOCUMENTS).groups(0, groups))
    pairs = sum(len(group.documents) for group in work)
    cluster = Cluster(WorkersConfig(block_tokens=BLOCK_TOKENS), "cpu")
    spec = RerankerSpec(config, ref, "cpu", prepared.prompting.recipe)
    engines: dict[str, Any] = {"process, 1 thread": load_reranking_engine(config, ref, "cpu", prepared.prompting)}
    for workers in (1, 2):
        pool = cluster.new_pool(spec, workers)
        while not all(member.loaded for member in pool.members):
            pool.wait()
        engines[f"{workers} worker(s), 1 thread each"] = RayEngine(pool, prepared)
    torch.set_num_threads(1)
    rates: dict[str, list[float]] = {name: [] for name in engines}
    busy: dict[str, list[float]] = {name: [] for name in engines}
    cpu: dict[str, list[float]] = {name: [] for name in engines}
    kept: dict[str, list[bytes]] = {}
    for turn in range(-1, rounds):  # the first is for warming up
        for name, engine in engines.items():
            told = _turn(engine, work)
            kept[name] = told.scores
            if turn >= 0:
                rates[name].append(pairs / told.seconds)
                busy[name].append(told.busy)
                cpu[name].append(told.cpu / pairs)
        say(f"workers: turn {turn}: " + ", ".join(f"{name} {values[-1:]}" for name, values in rates.items()))
    first, *others = kept.values()
    one, two = rates["1 worker(s), 1 thread each"], rates["2 worker(s), 1 thread each"]
    alone = rates["process, 1 thread"]
    return {
        "preset": PRESET,
        "pairs": pairs,
        "block_tokens": BLOCK_TOKENS,
        "pairs_per_second": rates,
        "median": {name: statistics.median(values) for name, values in rates.items()},
        "efficiency_of_two": [b / (2 * a) for a, b in zip(one, two, strict=True)],
        "share_of_time_with_work": busy,
        "cpu_seconds_per_pair": cpu,
        "one_worker_to_one_process": [b / a for a, b in zip(alone, one, strict=True)],
        "bitwise_equal": all(other == first for other in others),
    }


@dataclass(frozen=True)
class _Turn:
    """What a turn took: wall seconds, the share of them with work, processor seconds; and what came out."""

    seconds: float
    busy: float
    cpu: float
    scores: list[bytes]


def _turn(engine: Engine, work: Sequence[QueryGroup]) -> _Turn:
    pool = engine.pool if isinstance(engine, RayEngine) else None
    pids = [os.getpid()] if pool is None else [member.loaded.pid for member in pool.members if member.loaded]
    cpu = sum(_processor_seconds(pid) for pid in pids)
    started = time.perf_counter()
    results = list(engine.score_groups(work))
    seconds = time.perf_counter() - started
    cpu = sum(_processor_seconds(pid) for pid in pids) - cpu
    busy = 1.0 if pool is None else sum(tally.busy for tally in pool.tallies) / (seconds * len(pids))
    return _Turn(seconds, busy, cpu, [result.scores.tobytes() for result in results])


def _processor_seconds(pid: int) -> float:
    """Return the user's and the system's time of a process of this machine (Linux)."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
