"""A reranker's weights on this very device: known pairs in order, the packed engine equal to the plain one.

That a trained Qwen3-Reranker keeps `relevant > 0 > irrelevant` with a gap of `GAP` is expected from its model card,
whose two example pairs score near 1; it was not measured here, where no trained weights are.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_eval.config import RerankerConfig
from rerank_eval.doctor.checkpoints import Subject
from rerank_eval.doctor.device import GIB, memory
from rerank_eval.doctor.findings import Finding, failure, ok, warning
from rerank_eval.doctor.pairs import PAIRS, PYTHON_PAIRS, KnownPair
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.quantize import weights_dtype
from rerank_eval.models.resolve import DEMO_NAME
from rerank_eval.rerankers.cross_encoder import score_groups
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker
from rerank_eval.typed import command

GAP = 1.0
"""Log-odds by which a published Qwen3-Reranker puts a known relevant document above an irrelevant one, at the least."""
FLOAT32_TOLERANCE = 1e-4
"""Largest difference of two engines' margins in float32, times the largest margin where that is above 1."""
HALF_WARNS, HALF_FAILS = 0.1, 0.5
"""The same in shorter dtypes, as a share of the range of the margins: rounding stays below the first, another attention
or another prompt exceeds the second."""
OVERHEAD = 1.1
"""Memory that a model takes at least, as a multiple of its weights."""
LARGE_ON_CPU = 500_000_000
"""Parameters from which a CPU is called slow."""
LARGEST_ON_CPU = 1_500_000_000
"""Parameters from which a model is not tried on a CPU: the known pairs alone would take longer than the minute that all
checks have."""
RANDOM = "random weights"

Margins = NDArray[np.float64]


@dataclass(frozen=True)
class Expectation:
    """What known pairs have to show.

    Attributes:
        gap: Log-odds between relevant and irrelevant, more than this.
        signs: Whether the relevant one has to lie above 0 and the irrelevant one below.
        strict: Whether a single pair that falls short is a failure, rather than half of them.
        reason: Why this is expected.
    """

    gap: float
    signs: bool
    strict: bool
    reason: str


PUBLISHED = Expectation(GAP, signs=True, strict=True, reason="as its model card's examples lead one to expect")
ANY_RERANKER = Expectation(0.0, signs=False, strict=False, reason="as of any trained reranker")


def expectation(subject: Subject) -> Expectation:
    """Choose what is expected of a reranker."""
    known = subject.ref.published and subject.ref.name.startswith("Qwen/Qwen3-Reranker")
    return PUBLISHED if known else ANY_RERANKER


def known_pairs(subject: Subject) -> tuple[KnownPair, ...]:
    """Choose pairs of the texts that a reranker was made for."""
    return PYTHON_PAIRS if (subject.ref.checkpoint or subject.ref).name == DEMO_NAME else PAIRS


def check_memory(subject: Subject, parameters: int, device: torch.device) -> Iterator[Finding]:
    """Hold a model's weights against the memory that is free, before any is loaded."""
    name = f"memory for {subject.ref.label}"
    free, _ = memory(device)
    needed = int(OVERHEAD * parameters * weights_dtype(subject.config.dtype).itemsize)
    if needed > free:
        found = f"{needed / GIB:.2f} GiB needed in {subject.config.dtype}, {free / GIB:.2f} free on {device}"
        other = "end what holds the memory, take another device (--set device=...)"
        yield failure(name, found, f"{other}, a shorter dtype (--set {subject.role}.dtype=bfloat16) or a smaller model")
    elif device.type == "cpu" and parameters >= LARGE_ON_CPU:
        tried = "" if parameters < LARGEST_ON_CPU else "; too slow even to be tried here"
        found = f"{parameters / 1e9:.1f} G parameters fit, and are slow on a CPU{tried}"
        yield warning(name, found, f"use a GPU; `{command('plan')}` says how long a run takes")


def check_reranker(subject: Subject, device: str) -> Iterator[Finding]:
    """Load a reranker, score the known pairs, and score them again on the other engine."""
    config = subject.config
    assert isinstance(config, RerankerConfig)  # noqa: S101 - the caller's choice
    # torch.compile has a check of its own, and would take most of the minute.
    served = subject.ref.origin == "server"
    plain = config.model_copy(update={"head": "float32", **({} if served else {"compile": False})})
    started = time.monotonic()
    margins, causal = score_pairs(plain, subject, device)
    how = "by the server" if served else config.dtype
    yield judge_order(subject, margins, f"{how} in {time.monotonic() - started:.1f} s")
    if causal:
        other = plain.model_copy(update={"engine": "reference" if plain.engine == "packed" else "packed"})
        again, _ = score_pairs(other, subject, device)
        yield judge_agreement(subject, margins, again)


def score_pairs(config: RerankerConfig, subject: Subject, device: str) -> tuple[Margins, bool]:
    """Score the known pairs.

    Returns:
        (pairs, 2) float64, margins of the relevant and of the irrelevant document; whether the reranker is causal.

    Raises:
        ModelError: It cannot be loaded, or a score is not finite.
        DeviceError: The device's memory does not suffice.
    """
    prepared = prepare_reranker(config, subject.ref)
    engine = load_reranking_engine(config, subject.ref, device, prepared.prompting)
    _, instruction = prepared.policy.choose(None, None)
    groups = [QueryGroup(pair.query, instruction, [pair.relevant, pair.irrelevant]) for pair in known_pairs(subject)]
    margins = np.array([result.margins for result in score_groups(engine, groups)])
    causal = engine.causal
    del engine
    release()
    return margins, causal


def release() -> None:
    """Free what the last model held, before the next one is loaded."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def judge_order(subject: Subject, margins: Margins, how: str) -> Finding:
    """Judge whether known relevant documents lie above irrelevant ones."""
    name = f"pairs by {subject.ref.label}"
    if not np.isfinite(margins).all():
        bad = int((~np.isfinite(margins)).sum())
        remedy = f"--set reranker.dtype=float32, or bfloat16; if it stays, fetch {subject.ref.name} again"
        return failure(name, f"{bad} of {margins.size} margins are NaN or infinite", remedy)
    if any(RANDOM in note for note in subject.ref.notes):
        return ok(name, f"{margins.size} finite margins ({how}); their order is not applicable: {RANDOM}")
    expected = expectation(subject)
    gaps = margins[:, 0] - margins[:, 1]
    short = (gaps <= expected.gap) | (expected.signs & ((margins[:, 0] <= 0) | (margins[:, 1] >= 0)))
    worst, pairs = int(gaps.argmin()), known_pairs(subject)
    found = f"{int((~short).sum())} of {len(pairs)} pairs as expected ({how}), {_closest(pairs[worst], margins[worst])}"
    if not short.any():
        return ok(name, found)
    wanted = f"relevant above irrelevant by more than {expected.gap:g}" + (
        ", on either side of 0" if expected.signs else ""
    )
    remedy = (
        f"compare `{command('score')}` with the model card; fetch {subject.ref.name} again if its files may be "
        "damaged, and check reranker.recipe and reranker.instruction"
    )
    serious = expected.strict or 2 * int(short.sum()) >= len(pairs)
    level = failure if serious else warning
    return level(name, f"{found}; {wanted} is expected, {expected.reason}", remedy)


def _closest(pair: KnownPair, margins: Margins) -> str:
    return f"closest: {margins[0]:+.2f} and {margins[1]:+.2f} for {pair.query!r}"


def judge_agreement(
    subject: Subject, margins: Margins, again: Margins, *, tolerance: float = FLOAT32_TOLERANCE
) -> Finding:
    """Judge whether both engines say the same on this device.

    Args:
        subject: The reranker.
        margins: (pairs, 2) of one engine.
        again: (pairs, 2) of the other.
        tolerance: For float32.
    """
    name, dtype = f"engines of {subject.ref.label}", subject.config.dtype
    difference = float(np.abs(margins - again).max())
    spread = float(again.max() - again.min()) or 1.0
    found = f"packed and reference differ by {difference:.1e} at most in {dtype}, of margins over {spread:.1f}"
    remedy = "use reranker.engine=reference on this device, and report this line with the device's"
    if dtype == "float32":
        wrong = difference > tolerance * max(1.0, float(np.abs(again).max()))
        return failure(name, found, remedy) if wrong else ok(name, found)
    if not difference <= HALF_FAILS * spread:
        return failure(name, found, remedy)
    if difference > HALF_WARNS * spread:
        return warning(name, found, "use reranker.dtype=float32, or compare a task in both dtypes first")
    return ok(name, found)
