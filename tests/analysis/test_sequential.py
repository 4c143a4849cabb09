from __future__ import annotations

import math

import numpy as np
import pytest

from rerank_eval.analysis.sequential import ALPHA, Race

NAMES = ("none", "default", "task", "own")


def race(shifts: tuple[float, ...], seed: int, units: int, names: tuple[str, ...] = NAMES) -> tuple[Race, int]:
    """Score units whose values are nDCG-like: many at 0 and 1, correlated between variants."""
    generator = np.random.default_rng(seed)
    found = Race(names)
    for unit in range(units):
        easy = generator.beta(0.5, 0.5)
        values = np.clip(easy + generator.normal(0, 0.2, len(names)) * (generator.random(len(names)) < 0.6), 0, 1)
        # A shift of the mean that keeps values in 0..1: the unit is a 1 or a 0 instead, now and then.
        turned = generator.random(len(names)) < np.abs(shifts)
        values = np.where(turned, np.sign(shifts) > 0, values)
        found.see({name: float(values[names.index(name)]) for name in found.active})
        if len(found.active) == 1:
            return found, unit + 1
    return found, units


def test_equal_variants_are_hardly_ever_called_different() -> None:
    """The guarantee, by simulation: a false verdict, looked for after each of 300 units, in at most 5% of runs."""
    false = sum(len(race((0, 0, 0, 0), seed, 300)[0].active) < 4 for seed in range(200))
    assert false / 200 <= ALPHA


def test_no_variant_loses_to_one_that_is_not_better() -> None:
    """With true differences: a better variant goes out in at most 5% of runs."""
    shifts = (-0.3, 0.0, 0.0, 0.25)
    rank = {"none": 0, "default": 1, "task": 1, "own": 2}
    wrong = 0
    for seed in range(100):
        found, _ = race(shifts, seed, 300)
        wrong += any(one.out and rank[one.by] <= rank[one.name] for one in found.verdicts())
    assert wrong / 100 <= ALPHA


def test_what_is_clear_is_seen_early_and_what_is_near_takes_longer() -> None:
    clear = [race((-0.6, 0.0), seed, 2_000, ("a", "b"))[1] for seed in range(20)]
    near = [race((-0.2, 0.0), seed, 2_000, ("a", "b"))[1] for seed in range(20)]
    assert np.median(clear) < 60
    assert np.median(clear) < np.median(near) < 1_000


def test_the_estimate_of_what_is_still_needed_is_of_the_right_size() -> None:
    ratios = []
    for seed in range(20):
        before, seen = race((-0.2, 0.0), seed, 60, ("a", "b"))
        needed = before.more()
        if len(before.active) == 2 and needed is not None:
            ratios.append((race((-0.2, 0.0), seed, 5_000, ("a", "b"))[1] - seen) / needed)
    assert len(ratios) > 10
    assert 0.3 < np.median(ratios) < 3


def test_verdicts_in_words_of_numbers() -> None:
    found = Race(["a", "b"])
    assert found.threshold == pytest.approx(math.log(2 / ALPHA))
    assert found.more() is None
    for _ in range(60):
        found.see({name: {"a": 1.0, "b": 0.0}[name] for name in found.active})
    winner, loser = found.verdicts()
    assert (winner.out, winner.mean, winner.units) == (False, 1.0, 60)
    assert (loser.out, loser.by) == (True, "a")
    assert loser.units < 30  # it is not scored any more
    assert found.more() is None
