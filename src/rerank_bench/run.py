"""The benchmark: peers take turns on the same pairs, ratios are taken turn by turn, results go to one JSON file."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer

from rerank_bench.peers import installed
from rerank_bench.scorer import Scorer
from rerank_bench.shapes import SHAPES
from rerank_bench.workloads import WORKLOADS, Texts
from rerank_eval.engine.prompts import PromptTokenizer
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.engine.shapes import Shape
from rerank_eval.pipeline.estimate_rate import processor

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        shape: Name of the model's shape.
        folder: Its checkpoint.
        dtype: Dtype of weights and activations.
        device: Torch device.
        workloads: Names of the workloads.
        rounds: Turns that each peer takes.
        batch_sizes: For each peer further batch sizes to try, beside its default.
        growth: Numbers of groups over which cost and peak memory are followed.
        threads: CPU threads, 0 for torch's default.
        small: Use the workloads' smaller groups.
        together: Keep all peers loaded and let them take turns; else one after the other, where memory is short.
        pythons: For peers that run in an environment of their own, its interpreter.
        peers: The peers to measure beside ours; None for all that can run.
    """

    shape: str
    folder: Path
    dtype: str
    device: str
    workloads: tuple[str, ...]
    rounds: int = 3
    batch_sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    growth: tuple[int, ...] = (1, 10, 100)
    threads: int = 0
    small: bool = True
    together: bool = True
    pythons: dict[str, str] = field(default_factory=dict)
    peers: tuple[str, ...] | None = None


class Worker(Scorer):
    """A peer in a process of its own, see `worker`."""

    def __init__(self, settings: Settings, peer: str, workload: str, batch_size: int | None) -> None:
        load = WORKLOADS[workload]
        told = {
            "peer": peer,
            "folder": str(settings.folder),
            "dtype": settings.dtype,
            "device": settings.device,
            "workload": workload,
            "group": load.small_group if settings.small else load.group,
            "threads": settings.threads,
            "batch_size": batch_size,
        }
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}  # another environment has not installed us
        env |= {"OMP_NUM_THREADS": str(settings.threads)} if settings.threads else {}
        python = settings.pythons.get(peer, sys.executable)
        super().__init__([python, "-m", "rerank_bench.worker", json.dumps(told)], env)

    def run(self, first: int, groups: int, *, ready: bool = True) -> dict[str, Any]:
        """Score some groups.

        Args:
            first: Number of the first group.
            groups: How many.
            ready: Make the texts beforehand, so that only scoring is timed; else stream them.

        Returns:
            `seconds`, `pairs`, `peak_bytes`, and `p_yes` of the first group.
        """
        return self.ask(json.dumps({"first": first, "groups": groups, "ready": ready}))


def matmul_rate(device: str, dtype: str) -> float:
    """Measure the machine's matmul rate: the best of several square products.

    Args:
        device: Torch device.
        dtype: Dtype of the operands.

    Returns:
        FLOP/s.
    """
    size = 8192 if device.startswith("cuda") else 2048
    left, right = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        started = time.perf_counter()
        torch.mm(left, right)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return float(2 * size**3 / best)


def measure(settings: Settings, say: Say) -> dict[str, Any]:
    """Run the benchmark.

    Args:
        settings: What to measure.
        say: Told of progress, line by line.

    Returns:
        A document for `results/bench`: machine, workloads with each peer's figures, growth.
    """
    rate = matmul_rate(settings.device, settings.dtype)
    say(f"matmul rate: {rate / 1e12:.3f} TFLOP/s in {settings.dtype} on {settings.device}")
    workloads = {name: _workload(settings, name, rate, say) for name in settings.workloads}
    return {
        "shape": settings.shape,
        "dtype": settings.dtype,
        "device": settings.device,
        "machine": machine(settings),
        "matmul_flops": rate,
        "workloads": workloads,
        "growth": _growth(settings, say) if settings.growth else [],
    }


def machine(settings: Settings) -> dict[str, Any]:
    """Say what the figures were measured on."""
    cuda = settings.device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name() if cuda else processor(),
        "threads": settings.threads or torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


Turns = dict[str, list[dict[str, Any]]]
Facts = dict[str, dict[str, Any]]


def _workload(settings: Settings, name: str, rate: float, say: Say) -> dict[str, Any]:
    turns, facts = _take_turns(settings, name, say) if settings.together else _one_by_one(settings, name, say)
    useful, tokens = _useful(settings, name)
    rows = {}
    for label, answers in turns.items():
        rows[label] = {**facts[label], **_figures(answers, turns["ours"], useful, tokens, rate)}
        row = rows[label]
        say(
            f"  {WORKLOADS[name].name}: {label:<32} {row['pairs_per_second']:9.1f} pairs/s "
            f"{row['share_of_matmul_rate']:6.1%} of matmul rate {row['peak_bytes'] / 2**20:8.0f} MB "
            f"{row['times_as_long_as_ours']:6.2f}x ours"
        )
    return {"prompt_tokens": tokens, "useful_flops": useful, "peers": rows}


def _contenders(settings: Settings) -> list[tuple[str, str, int | None]]:
    """Return label, peer and batch size; None is the peer's default."""
    tried: list[tuple[str, str, int | None]] = []
    for peer in dict.fromkeys([*installed(), *settings.pythons]):
        if settings.peers is not None and peer not in {"ours", *settings.peers}:
            continue
        tried.append((peer, peer, None))
        tried += [(f"{peer}, batch {size}", peer, size) for size in settings.batch_sizes.get(peer, ())]
    return tried


def _take_turns(settings: Settings, name: str, say: Say) -> tuple[Turns, Facts]:
    """Keep all peers loaded; a machine that slows down for a while then slows all of them."""
    turns: Turns = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for label, peer, size in _contenders(settings):
            worker = _started(settings, name, peer, size, say)
            if worker is not None:
                workers[label] = stack.enter_context(worker)
                worker.run(0, 1)
        for number in range(settings.rounds):
            for label, worker in workers.items():
                turns.setdefault(label, []).append(worker.run(number + 1, 1))
        return turns, {label: worker.facts for label, worker in workers.items()}


def _one_by_one(settings: Settings, name: str, say: Say) -> tuple[Turns, Facts]:
    """Hold one peer at a time, where memory does not suffice for all; one that runs out of it is left out."""
    turns: Turns = {}
    facts: Facts = {}
    for label, peer, size in _contenders(settings):
        worker = _started(settings, name, peer, size, say)
        if worker is None:
            continue
        with worker:
            try:
                worker.run(0, 1)
                turns[label] = [worker.run(number + 1, 1) for number in range(settings.rounds)]
            except RuntimeError as error:
                say(f"  {label}: {error}")
                continue
            facts[label] = worker.facts
    return turns, facts


def _figures(
    answers: list[dict[str, Any]], ours: list[dict[str, Any]], useful: float, tokens: float, rate: float
) -> dict[str, Any]:
    seconds = median(answer["seconds"] for answer in answers)
    ratios = [answer["seconds"] / our["seconds"] for answer, our in zip(answers, ours, strict=True)]
    differences = [
        float(np.abs(np.array(answer["p_yes"]) - np.array(our["p_yes"])).max())
        for answer, our in zip(answers, ours, strict=True)
    ]
    return {
        "pairs_per_second": answers[0]["pairs"] / seconds,
        "tokens_per_second": tokens / seconds,
        "share_of_matmul_rate": useful / seconds / rate,
        "peak_bytes": max(answer["peak_bytes"] for answer in answers),
        "times_as_long_as_ours": median(ratios),
        "times_as_long_range": [min(ratios), max(ratios)],
        "largest_difference_in_p_yes": max(differences),
    }


def _started(settings: Settings, name: str, peer: str, size: int | None, say: Say) -> Worker | None:
    try:
        return Worker(settings, peer, name, size)
    except RuntimeError as error:
        say(f"  {peer}: does not start: {error}")
        return None


def _useful(settings: Settings, name: str) -> tuple[float, float]:
    """Return useful FLOP and prompt tokens of a turn, the mean over the turns' groups."""
    tokenizer = AutoTokenizer.from_pretrained(settings.folder)
    load = WORKLOADS[name]
    texts = Texts(tokenizer, load, load.small_group if settings.small else load.group)
    prompts = PromptTokenizer(tokenizer, RECIPES["card"], 8192)
    shape: Shape = SHAPES[settings.shape]
    flops, tokens = [], []
    for group in texts.groups(1, settings.rounds):
        made = prompts.factored(group)
        flops.append(shape.useful_flops(len(made.shared), [len(ids) for ids in made.own]))
        tokens.append(int(made.lengths.sum()))
    return float(np.mean(flops)), float(np.mean(tokens))


def _growth(settings: Settings, say: Say) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with Worker(settings, "ours", next(iter(settings.workloads or WORKLOADS)), None) as worker:
        worker.run(0, 2)
        for groups in settings.growth:
            answer = worker.run(1, groups, ready=False)
            row = {key: answer[key] for key in ("pairs", "seconds", "peak_bytes")}
            rows.append(row)
            say(
                f"  {row['pairs']:>9,} pairs: {row['seconds'] / row['pairs'] * 1e3:8.3f} ms a pair, "
                f"peak {row['peak_bytes'] / 2**20:.0f} MB above the loaded model"
            )
    return rows
