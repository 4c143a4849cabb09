"""A sequential rule that tells variants apart while queries are still being scored, with a guarantee at every look.

For each ordered pair of variants a gambler bets that the first is better: its capital starts at 1 and is multiplied by
1 + bet * difference for every unit (the difference of two values in 0..1, so within -1..1). The bet is set before the
unit is seen. Were the first not better in the mean, the capital could not be expected to grow, and by Ville's
inequality (1939) it would reach 1 / a with a probability of at most a, however often one looks and whenever one stops.
A variant is out once somebody's capital against it reaches k (k - 1) / alpha. Hence the guarantee: with a probability
of at least 1 - alpha, over the whole run, no variant of k is called worse than one that is not better than it in the
mean of the population that the queries are drawn from. Testing by betting: Waudby-Smith and Ramdas (2023), J. R. Stat.
Soc. B 86:1, with their approximately growth-optimal bets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ALPHA = 0.05
_BOLDEST = 0.5  # of the capital; a bet near all of it is ruined by one bad unit
_PRIOR_VARIANCE = 0.25  # of one unit that stands for what is not yet seen
_BETS = np.linspace(0.0, _BOLDEST, 26)[1:]


@dataclass(frozen=True)
class Verdict:
    """What is known of a variant: its mean over the units it was scored on, and whether (`by` which) it is out."""

    name: str
    units: int
    mean: float
    out: bool
    by: str = ""


@dataclass
class Race:
    """Variants (at least two) that are scored on the same units; `alpha` is the chance of any false verdict."""

    names: Sequence[str]
    alpha: float = ALPHA
    _seen: list[list[float]] = field(default_factory=list)
    _capital: Floats = field(init=False)
    _sums: Floats = field(init=False)
    _squares: Floats = field(init=False)
    _units: npt.NDArray[np.int64] = field(init=False)
    _out: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Set all capitals to 1."""
        pairs = (len(self.names), len(self.names))
        self._capital, self._sums, self._squares = (np.zeros(pairs) for _ in range(3))
        self._units = np.zeros(pairs, dtype=np.int64)
        self._seen = [[] for _ in self.names]

    @property
    def active(self) -> list[str]:
        """Variants that are still in, in order."""
        return [name for number, name in enumerate(self.names) if number not in self._out]

    @property
    def threshold(self) -> float:
        """Logarithm of the capital at which a variant is out."""
        size = len(self.names)
        return math.log(size * (size - 1) / self.alpha)

    def see(self, values: dict[str, float]) -> None:
        """Take in one unit: variant -> its value, 0..1, for every variant that is in."""
        rows = [number for number in range(len(self.names)) if number not in self._out]
        found = {number: values[self.names[number]] for number in rows}
        for first in rows:
            self._seen[first].append(found[first])
            for second in rows:
                if first != second:
                    self._bet(first, second, found[first] - found[second])
        self._decide(rows)

    def _bet(self, first: int, second: int, difference: float) -> None:
        units = self._units[first, second] + 1  # the one that stands for what is not yet seen
        mean = self._sums[first, second] / units
        variance = (_PRIOR_VARIANCE + self._squares[first, second]) / units - mean**2
        bet = min(max(mean / (variance + mean**2), 0.0), _BOLDEST)
        self._capital[first, second] += math.log1p(bet * difference)
        self._sums[first, second] += difference
        self._squares[first, second] += difference**2
        self._units[first, second] = units

    def _decide(self, rows: Sequence[int]) -> None:
        for second in rows:
            best = max((one for one in rows if one != second), key=lambda one: self._capital[one, second], default=None)
            if best is not None and self._capital[best, second] >= self.threshold:
                self._out[second] = best

    def verdicts(self) -> list[Verdict]:
        """Say what is known of each variant, in order."""
        found = []
        for number, name in enumerate(self.names):
            values = self._seen[number]
            mean = float(np.mean(values)) if values else float("nan")
            by = self._out.get(number)
            found.append(Verdict(name, len(values), mean, by is not None, "" if by is None else self.names[by]))
        return found

    def more(self) -> int | None:
        """Estimate how many units more would tell the rest apart, if the rest are as those seen.

        None where what was seen gives no direction, or one variant alone is left.
        """
        rows = [number for number in range(len(self.names)) if number not in self._out]
        if len(rows) < 2:  # noqa: PLR2004 - nothing is left to tell apart
            return None
        leader = max(rows, key=lambda number: np.mean(self._seen[number]) if self._seen[number] else 0.0)
        needed = [self._units_needed(leader, other) for other in rows if other != leader]
        return None if None in needed else max(one for one in needed if one is not None)

    def _units_needed(self, first: int, second: int) -> int | None:
        size = min(len(self._seen[first]), len(self._seen[second]))
        gains = np.array(self._seen[first][:size]) - np.array(self._seen[second][:size])
        if size == 0:
            return None
        growth = float(np.log1p(np.outer(_BETS, gains)).mean(axis=1).max())
        return math.ceil((self.threshold - self._capital[first, second]) / growth) if growth > 0 else None
