"""Paired statistics over queries: bootstrap intervals, a randomisation test, corrections for many comparisons.

Every figure is about the mean difference between two systems on the same queries. Queries may be stratified (a task's
splits and subsets, a suite's tasks): then the mean is a weighted one of the strata's means, and both procedures work
inside strata, as the sampling did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK = 2_000_000  # indices drawn at a time: some 80 MB with all that is made of them
_SAME = 1e-12  # sums of the same numbers in another order differ by less
_LARGEST_16_BIT = 1 << 16


@dataclass(frozen=True)
class Draws:
    """What chance makes of k mean differences, r times.

    Attributes:
        resampled: (r, k), mean differences of bootstrap samples of the queries.
        flipped: (r, k), mean differences with each query's two systems exchanged at random.
    """

    resampled: Floats
    flipped: Floats


@dataclass(frozen=True)
class Estimate:
    """k mean differences, (k,) each: the ends of their intervals, and the randomisation test's two-sided p-values."""

    value: Floats
    low: Floats
    high: Floats
    p: Floats


@dataclass(frozen=True)
class Stratum:
    """Queries that were sampled together: (n, k) float64 differences, n at least 1; and their weight in the mean."""

    differences: Floats
    weight: float

    @property
    def mean(self) -> Floats:
        """(k,), the stratum's part of the mean."""
        part: Floats = self.weight * self.differences.mean(axis=0)
        return part


def draw(strata: Sequence[Stratum], seed: Sequence[int], resamples: int = RESAMPLES) -> Draws:
    """Draw the bootstrap's and the randomisation test's distributions of a stratified mean.

    The seed is that of NumPy's PCG64; the same gives the same bits. All k differences see the same samples and flips,
    so that they can be compared with each other.
    """
    generator = np.random.default_rng(list(seed))
    width = strata[0].differences.shape[1]
    resampled, flipped = np.zeros((resamples, width)), np.zeros((resamples, width))
    for stratum in strata:
        share = stratum.weight / len(stratum.differences)
        for rows, counts in _counts(generator, len(stratum.differences), resamples):
            resampled[rows] += share * (counts @ stratum.differences)
        # A query with no difference has nothing to exchange.
        moved = stratum.differences[(stratum.differences != 0).any(axis=1)]
        total = moved.sum(axis=0)
        for rows, signs in _signs(generator, len(moved), resamples):
            flipped[rows] += share * (2 * (signs @ moved) - total)
    return Draws(resampled, flipped)


def _counts(generator: np.random.Generator, size: int, resamples: int) -> Iterator[tuple[slice, Floats]]:
    """Yield how often each of `size` queries is in each bootstrap sample, some samples at a time."""
    step = max(1, _CHUNK // size)
    kind = np.uint16 if size <= _LARGEST_16_BIT else np.uint32
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        drawn = generator.integers(0, size, size=(stop - start, size), dtype=kind)
        flat = drawn.astype(np.int64) + np.arange(stop - start, dtype=np.int64)[:, None] * size
        counts = np.bincount(flat.ravel(), minlength=(stop - start) * size)
        yield slice(start, stop), counts.reshape(stop - start, size).astype(np.float64)


def _signs(generator: np.random.Generator, size: int, resamples: int) -> Iterator[tuple[slice, Floats]]:
    """Yield a fair bit for each of `size` queries, some rounds at a time."""
    if size == 0:
        return
    step = max(1, _CHUNK // size)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        octets = np.frombuffer(generator.bytes((stop - start) * size // 8 + 1), dtype=np.uint8)
        bits = np.unpackbits(octets, count=(stop - start) * size)
        yield slice(start, stop), bits.reshape(stop - start, size).astype(np.float64)


def estimate(strata: Sequence[Stratum], draws: Draws, level: float = LEVEL) -> Estimate:
    """Turn draws into an interval and a p-value; where every difference is the same, the interval is that value alone.

    The interval is the bias-corrected and accelerated bootstrap's (Efron 1987, J. Am. Stat. Assoc. 82:171), with the
    acceleration of independent samples as in `scipy.stats.bootstrap`. The test is Fisher's paired randomisation test
    by Monte Carlo; its p counts the observed difference among the draws (Davison and Hinkley 1997, eq. 4.11), so that
    it is never 0 and a test at 0.05 errs in at most 5% of cases.
    """
    value: Floats = np.sum([stratum.mean for stratum in strata], axis=0)
    resamples = len(draws.resampled)
    below = (draws.resampled < value - _SAME).sum(axis=0)
    equal = (np.abs(draws.resampled - value) <= _SAME).sum(axis=0)
    # Kept off 0 and 1, where the correction would be infinite.
    share = np.clip((below + equal / 2) / resamples, 0.5 / resamples, 1 - 0.5 / resamples)
    bias, acceleration = stats.norm.ppf(share), _acceleration(strata)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        shifted = bias + stats.norm.ppf(tail)
        quantile = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
        columns = [np.quantile(draws.resampled[:, k], quantile[k]) for k in range(len(value))]
        ends.append(np.array(columns, dtype=np.float64))
    fixed = np.all([np.ptp(stratum.differences, axis=0) == 0 for stratum in strata], axis=0)
    low, high = (np.where(fixed, value, end) for end in ends)
    extreme = (np.abs(draws.flipped) >= np.abs(value) - _SAME).sum(axis=0)
    return Estimate(value, low, high, (1.0 + extreme) / (resamples + 1.0))


def _acceleration(strata: Sequence[Stratum]) -> Floats:
    cubes, squares = 0.0, 0.0
    for stratum in strata:
        size = len(stratum.differences)
        # n - 1 times what leaving a query out does to a weighted mean is its weighted deviation.
        influence = stratum.weight * (stratum.differences - stratum.differences.mean(axis=0))
        cubes = cubes + (influence**3).sum(axis=0) / size**3
        squares = squares + (influence**2).sum(axis=0) / size**2
    spread = np.asarray(squares, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.asarray(cubes) / (6 * spread**1.5)
    acceleration: Floats = np.where(spread > 0, found, 0.0)
    return acceleration


def joined(parts: Sequence[Draws], weight: float) -> Draws:
    """Put independent draws of several means, with the same r and k, together to those of their weighted sum."""
    return Draws(
        weight * np.sum([part.resampled for part in parts], axis=0),
        weight * np.sum([part.flipped for part in parts], axis=0),
    )


def holm(p: Floats) -> Floats:
    """Correct (m,) p-values so that a family of tests at 0.05 has any false alarm in at most 5% of cases.

    Holm's (1979, Scand. J. Stat. 6:65) step-down values.
    """
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def benjamini_hochberg(p: Floats) -> Floats:
    """Correct (m,) p-values so that among what is called different at 0.05 at most 5% are not, on average.

    Benjamini and Hochberg's (1995, J. R. Stat. Soc. B 57:289) step-up values.
    """
    corrected: Floats = np.asarray(stats.false_discovery_control(p, method="bh"), dtype=np.float64)
    return corrected
