"""Which function turns one side's scores into the other's: the same, a sigmoid, twice a sigmoid, a line.

All that is known of a server's head is numbers. Each link is tried by itself on top of what is known of the prompt, and
what it leaves is measured in units of the noise that it should have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FLOAT32 = 2.0**-22
"""Relative rounding of what was computed and sent as a 32-bit float: two units in the last place."""
NEAR = 1.5
"""A link holds where no pair is off by more than so many times its noise."""
CLEARLY = 0.2
"""It explains something where it leaves no more than this share of what was to be explained, and of the spread."""
_FLAT = 1e-12


@dataclass(frozen=True)
class Link:
    """A function from A's margins to B's scores.

    Attributes:
        name: Its formula.
        words: What it means, for a diagnosis.
        of: Margins (n,) and B's scores -> predictions and slopes, both (n,); None where it is not defined.
        free: Whether it has numbers of its own, fitted to the pairs.
    """

    name: str
    words: str
    of: Callable[[Floats, Floats], tuple[Floats, Floats] | None]
    free: bool = False


@dataclass(frozen=True)
class Fit:
    """How well a link holds.

    Attributes:
        link: The link.
        largest: Largest difference between B's scores and the predictions, in B's units.
        ratio: The same in units of the noise that each pair should have: up to 1 is noise.
        share: `largest` as a share of the standard deviation of B's scores.
        off: (n,), each pair's difference in units of its noise.
        values: Slope and offset of a free link.
    """

    link: Link
    largest: float
    ratio: float
    share: float
    off: Floats = field(repr=False)
    values: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """The formula, with its numbers where they were fitted."""
        if not self.values:
            return self.link.name
        slope, offset = self.values
        sign = "-" if offset < 0 else "+"
        return f"B = {slope:.5g} A {sign} {abs(offset):.5g}"

    def holds(self, unexplained: float) -> bool:
        """Tell whether it explains a difference: what it leaves is noise, and clearly less.

        Args:
            unexplained: Largest difference without it, in B's units.
        """
        return self.ratio <= NEAR and self.share <= CLEARLY and self.largest <= CLEARLY * unexplained


def _identity(x: Floats, _: Floats) -> tuple[Floats, Floats]:
    return x, np.ones_like(x)


def _sigmoid(x: Floats, _: Floats) -> tuple[Floats, Floats]:
    p = special.expit(x)
    return p, p * (1 - p)


def _twice(x: Floats, _: Floats) -> tuple[Floats, Floats]:
    p = special.expit(x)
    q = special.expit(p)
    return q, q * (1 - q) * p * (1 - p)


def _log_sigmoid(x: Floats, _: Floats) -> tuple[Floats, Floats]:
    return special.log_expit(x), special.expit(-x)


def _logit(x: Floats, _: Floats) -> tuple[Floats, Floats] | None:
    if not ((x > 0) & (x < 1)).all():
        return None
    return special.logit(x), 1 / (x * (1 - x))


def _negated(x: Floats, _: Floats) -> tuple[Floats, Floats]:
    return -x, np.ones_like(x)


def _other_answer(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    return _sigmoid(-x, y)


def _line(x: Floats, y: Floats) -> tuple[Floats, Floats] | None:
    found = line(x, y)
    return None if found is None else (found[0] * x + found[1], np.full_like(x, abs(found[0])))


def line(x: Floats, y: Floats) -> tuple[float, float] | None:
    """Return slope and offset of the line through (n,) points by least squares; None where `x` is all the same."""
    centred = x - x.mean()
    spread = float(centred @ centred)
    if spread < _FLAT:
        return None
    slope = float(centred @ (y - y.mean())) / spread
    return slope, float(y.mean() - slope * x.mean())


LINKS = (
    Link("B = A", "the same scores", _identity),
    Link("B = sigmoid(A)", "B applies a sigmoid: its score is P(yes)", _sigmoid),
    Link("B = sigmoid(sigmoid(A))", "B applies a sigmoid twice: to what is P(yes) already", _twice),
    Link("A = sigmoid(B)", "A's score is a probability, and B's is its log-odds", _logit),
    Link("B = log sigmoid(A)", "B's score is the logarithm of P(yes)", _log_sigmoid),
    Link("B = -A", "B's sign is turned: the answers yes and no are exchanged", _negated),
    Link("B = 1 - sigmoid(A)", "B's score is P(no): the answers yes and no are exchanged", _other_answer),
    Link("B = a A + b", "B's score is A's, scaled and shifted", _line, free=True),
)
"""In the order in which they are believed: what has numbers of its own comes last."""


def fit(link: Link, x: Floats, y: Floats, tolerance: float, rounding: Floats | None = None) -> Fit | None:
    """Hold a link against (n,) pairs.

    Args:
        link: The link.
        x: A's margins.
        y: B's scores.
        tolerance: Noise of a margin.
        rounding: (n,), what the format of `y` rounds off; None for 32-bit floats.

    Returns:
        The fit, or None where the link is not defined.
    """
    with np.errstate(all="ignore"):
        found = link.of(x, y)
    if found is None or len(y) == 0:
        return None
    predicted, slope = found
    unit = slope * tolerance + FLOAT32 * np.maximum(np.abs(predicted), np.abs(y)) + np.finfo(np.float32).tiny
    if rounding is not None:
        unit = unit + rounding
    off = np.abs(y - predicted) / unit
    largest = float(np.abs(y - predicted).max())
    spread = float(y.std())
    share = largest / spread if spread > _FLAT else np.inf
    values = line(x, y) if link.free else None
    return Fit(link, largest, float(off.max()), share, off, values or ())


def fits(x: Floats, y: Floats, tolerance: float, rounding: Floats | None = None) -> list[Fit]:
    """Hold every link against (n,) pairs, with the arguments of `fit`; in the order of `LINKS`."""
    found = (fit(link, x, y, tolerance, rounding) for link in LINKS)
    return [one for one in found if one is not None]


def best(x: Floats, y: Floats, tolerance: float, unexplained: float, rounding: Floats | None = None) -> Fit | None:
    """Return the first link that explains a difference, with the arguments of `fit`; None where none does."""
    return next((one for one in fits(x, y, tolerance, rounding) if one.holds(unexplained)), None)
