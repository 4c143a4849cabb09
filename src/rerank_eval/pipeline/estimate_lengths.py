"""How text lengths spread around their mean: what a limit cuts, and what attention costs, hang on it.

Ten documents of 100 tokens and one of 50,000 are not eleven of 4,636: at a limit of 8,192 tokens they come to 9,192
tokens, not to 51,000.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist

BINS = 64
"""Parts of equal weight in which a spread is kept."""
EQUAL = (1.0,)
"""The spread of texts that are all of one length."""

Spread = tuple[float, ...]
"""Lengths as multiples of their mean, ascending, of equal weight; their mean is 1."""


def spread_of(lengths: Sequence[float]) -> Spread:
    """Return the spread of lengths that are known one by one.

    Args:
        lengths: In any order, each 0 or more.

    Returns:
        The means of at most `BINS` runs of the sorted lengths, each of (nearly) as many texts, over the mean.
    """
    total = float(sum(lengths))
    if not total:
        return EQUAL
    ordered = sorted(lengths)
    bins = min(BINS, len(ordered))
    cuts = [len(ordered) * number // bins for number in range(bins + 1)]
    means = [sum(ordered[start:stop]) / (stop - start) for start, stop in itertools.pairwise(cuts)]
    return _scaled(means)


@cache
def spread_from(number: int, mean: float, longest: float) -> Spread:
    """Return the log-normal spread of which only this is known, as mteb's descriptive statistics have it.

    Its mean is `mean`, and `longest` is what the longest of `number` texts is expected to be. Held against collections
    whose lengths are known one by one by tests/pipeline/test_estimate_lengths.py.

    Args:
        number: How many texts there are.
        mean: Their mean length.
        longest: The longest one's length.

    Returns:
        The spread; `EQUAL` for fewer than two texts or lengths that do not differ.
    """
    if number < 2 or mean <= 0 or longest <= mean:  # noqa: PLR2004 - one text spreads nowhere
        return EQUAL
    normal = NormalDist()
    extreme = normal.inv_cdf(1 - 1 / (2 * number))
    # longest / mean = exp(sigma * extreme - sigma^2 / 2), of which the smaller root is the one with sigma < extreme.
    root = extreme**2 - 2 * math.log(longest / mean)
    sigma = extreme - math.sqrt(max(root, 0.0))
    return _scaled([math.exp(sigma * normal.inv_cdf((number + 0.5) / BINS)) for number in range(BINS)])


def _scaled(values: Sequence[float]) -> Spread:
    mean = sum(values) / len(values)
    return tuple(value / mean for value in values)
