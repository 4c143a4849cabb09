"""Compares systems on the same queries: is the difference real, where is it, and what else changed?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from rerank_eval.analysis import changes, statistics
from rerank_eval.analysis.alignment import Aligned, align
from rerank_eval.analysis.changes import Churn, Shift
from rerank_eval.analysis.statistics import Draws, Stratum
from rerank_eval.errors import ConfigError, DataError
from rerank_eval.metrics import registry
from rerank_eval.names import some
from rerank_eval.results.runs import UNIT, Run, TaskRun

SEED = 20_250_605
MOVED = 5
"""Queries shown that moved most, each way."""
_BLANK = float("nan")


@dataclass(frozen=True)
class Moved:
    """A query that moved, or for p-MRR a pair of queries: its value before and after."""

    subset: str
    split: str
    query_id: str
    before: float
    after: float


@dataclass(frozen=True)
class Ties:
    """What ties leave open of a mean: the share of candidates that tie, the mean with ties broken worst and best."""

    rate: float
    worst: float
    best: float


@dataclass(frozen=True)
class Difference:
    """A system against the baseline, on a task or over a suite.

    Attributes:
        scope: The task's or the suite's name.
        measure: mteb's name of what is compared.
        queries: How many units stand behind it.
        baseline: The baseline's mean.
        mean: The system's mean.
        difference: The system less the baseline.
        low: Lower end of the 95% interval of the difference.
        high: Upper end.
        p: Two-sided p-value of the paired randomisation test.
        p_holm: Corrected for all tests of the comparison by Holm's procedure.
        p_bh: Corrected by Benjamini and Hochberg's.
        wins: Units where the system is better; `ties`, `losses`: where both are equal, where it is worse.
        up: Queries that gained most; `down`: that lost most.
        churn: What changed in the rankings, or None where candidates are not known.
        shift: What changed in the margins, or None where that has no meaning.
        tied: What ties leave open of the system's mean, or None where it is not known.
    """

    system: str
    against: str
    scope: str
    suite: bool
    measure: str
    queries: int
    baseline: float
    mean: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float = _BLANK
    p_bh: float = _BLANK
    wins: int = 0
    ties: int = 0
    losses: int = 0
    up: tuple[Moved, ...] = ()
    down: tuple[Moved, ...] = ()
    churn: Churn | None = None
    shift: Shift | None = None
    tied: Ties | None = None


@dataclass(frozen=True)
class Comparison:
    """Several systems, each against its baseline.

    Attributes:
        runs: The systems, those that are a baseline among them.
        differences: One for each task and system that has a baseline, then one for each suite.
        baseline_ties: Task -> what ties leave open of the baseline's mean, where there is one and it is known.
        resamples: How often samples were drawn.
        seed: Of the draws.
        notes: What a reader has to know of the runs: queries that one of them lacks, say.
    """

    runs: tuple[Run, ...]
    differences: tuple[Difference, ...]
    baseline_ties: Mapping[str, Ties]
    resamples: int
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def baselines(self) -> list[str]:
        """Names of the systems that others are compared with."""
        return list(dict.fromkeys(one.against for one in self.differences))


def compare(
    runs: Sequence[Run],
    suites: Mapping[str, Sequence[str]],
    *,
    seed: int = SEED,
    resamples: int = statistics.RESAMPLES,
    baselines: Sequence[int | None] | None = None,
    missing: str = "",
) -> Comparison:
    """Compare systems, each with its baseline.

    Args:
        runs: At least two.
        suites: Suite -> its tasks; a suite is compared when every run has all of them, and all share a scale.
        seed: Of the draws.
        resamples: How often.
        baselines: For each run the number of its baseline, None where it has none; by default the first run for all.
        missing: What is done about queries that a run lacks: `zero` counts them 0, as `trec_eval -c` does;
            `intersection` compares on the queries that all have; empty refuses them.

    Returns:
        The comparison. Corrected p-values are over all of its tests on tasks; suites, which follow from them, are
        corrected among themselves.

    Raises:
        ConfigError: There are fewer than two runs, or they have no task in common.
        DataError: A task lacks in one run what another has; names the queries.
    """
    if len(runs) < 2:  # noqa: PLR2004 - a comparison has two sides
        raise ConfigError("name at least two runs to compare, the baseline first")
    chosen = [None, *[0] * (len(runs) - 1)] if baselines is None else list(baselines)
    pairs = [(number, first) for number, first in enumerate(chosen) if first is not None]
    if not pairs:
        raise ConfigError("no run has a baseline to be compared with; name the baseline first, without --against")
    tasks = _tasks(runs)
    differences: list[Difference] = []
    sampled: dict[str, _Sampled] = {}
    notes: list[str] = []
    tied: dict[str, Ties | None] = {}
    only = {first for _, first in pairs}
    for number, task in enumerate(tasks):
        aligned = align(task, runs, missing)
        notes += aligned.notes
        tied[task] = _ties(aligned.parts[min(only)]) if len(only) == 1 else None
        strata = _strata(aligned.table, pairs)
        sampled[task] = _Sampled(strata, statistics.draw(strata, [seed, number], resamples))
        differences += _of_task(task, runs, aligned, pairs, sampled[task])
    overall = _overall(suites, sampled, runs, [runs[number].name for number, _ in pairs], differences)
    return Comparison(
        tuple(runs),
        (*_corrected(differences), *_corrected(overall)),
        {task: ties for task, ties in tied.items() if ties is not None},
        resamples,
        seed,
        tuple(dict.fromkeys(notes)),
    )


@dataclass(frozen=True)
class _Sampled:
    strata: Sequence[Stratum]
    draws: Draws

    def estimates(self) -> Iterator[dict[str, Any]]:
        """Yield each system's difference, its interval and its p-value."""
        found = statistics.estimate(self.strata, self.draws)
        for value, low, high, p in zip(found.value, found.low, found.high, found.p, strict=True):
            yield {"difference": float(value), "low": float(low), "high": float(high), "p": float(p)}


def _tasks(runs: Sequence[Run]) -> list[str]:
    """Return the tasks, which every run has to have: what one lacks is told, never left out."""
    every = list(dict.fromkeys(task for run in runs for task in run.tasks))
    if not every:
        raise ConfigError("the runs have no result to compare")
    for run in runs:
        lacking = [task for task in every if task not in run.tasks]
        if lacking:
            other = next(one.name for one in runs if lacking[0] in one.tasks)
            raise DataError(
                f"{run.name} has no result of {some(lacking)}, which {other} has; run it there too, or choose tasks "
                "with --task"
            )
    return every


def _strata(table: pd.DataFrame, pairs: Sequence[tuple[int, int]]) -> list[Stratum]:
    """Take a task's cells as strata: its score is the mean of theirs."""
    others, firsts = [f"value_{number}" for number, _ in pairs], [f"value_{first}" for _, first in pairs]
    cells = [
        cell[others].to_numpy(dtype=np.float64) - cell[firsts].to_numpy(dtype=np.float64)
        for _, cell in table.groupby(["subset", "split"], sort=True)
    ]
    return [Stratum(cell, 1 / len(cells)) for cell in cells]


def _mean(table: pd.DataFrame, column: str) -> float:
    return float(table.groupby(["subset", "split"], sort=True)[column].mean().mean())


def _of_task(
    task: str, runs: Sequence[Run], aligned: Aligned, pairs: Sequence[tuple[int, int]], sampled: _Sampled
) -> list[Difference]:
    found = []
    table, parts = aligned.table, aligned.parts
    baselines = {first: parts[first].candidates() for first in dict.fromkeys(first for _, first in pairs)}
    for (number, first), estimate in zip(pairs, sampled.estimates(), strict=True):
        better = registry.direction(parts[number].measure)
        gains = better * (table[f"value_{number}"] - table[f"value_{first}"]).to_numpy()
        before = baselines[first]
        after = parts[number].candidates() if before is not None else None
        known = before is not None and after is not None
        found.append(
            Difference(
                runs[number].name,
                runs[first].name,
                task,
                suite=False,
                measure=parts[number].measure,
                queries=len(table),
                baseline=_mean(table, f"value_{first}"),
                mean=_mean(table, f"value_{number}"),
                **estimate,
                wins=int((gains > 0).sum()),
                ties=int((gains == 0).sum()),
                losses=int((gains < 0).sum()),
                up=_moved(table, (number, first), gains, best=True),
                down=_moved(table, (number, first), gains, best=False),
                churn=changes.churn(before, after) if known else None,  # type: ignore[arg-type]
                shift=changes.shift(before, after) if known and _margins(parts[first], parts[number]) else None,  # type: ignore[arg-type]
                tied=_ties(parts[number]),
            )
        )
    return found


def _moved(table: pd.DataFrame, pair: tuple[int, int], gains: np.ndarray, *, best: bool) -> tuple[Moved, ...]:
    gains = gains if best else -gains
    order = [row for row in np.argsort(-gains, kind="stable")[:MOVED] if gains[row] > 0]
    rows = table.iloc[order][[*UNIT, f"value_{pair[1]}", f"value_{pair[0]}"]]
    return tuple(
        Moved(str(subset), str(split), str(query), float(before), float(after))
        for subset, split, query, before, after in rows.to_numpy(object)
    )


def _margins(one: TaskRun, two: TaskRun) -> bool:
    """Tell whether both files hold margins of one model: other models' scores are on scales of their own."""
    first, second = (part.manifest.settings if part.manifest else {} for part in (one, two))
    return first.get("model") == second.get("model") and first.get("head") == second.get("head") == "float32"


def _ties(part: TaskRun) -> Ties | None:
    values = part.values
    if values[["worst", "best"]].isna().any(axis=None):
        return None
    candidates = values["candidates"].sum()
    written = part.manifest.scores.tie_rate if part.manifest else _BLANK
    rate = values["tied"].sum() / candidates if candidates else written
    return Ties(float(rate), _mean(values, "worst"), _mean(values, "best"))


def _overall(
    suites: Mapping[str, Sequence[str]],
    sampled: Mapping[str, _Sampled],
    runs: Sequence[Run],
    systems: Sequence[str],
    differences: Sequence[Difference],
) -> list[Difference]:
    """Compare over suites all of whose tasks were compared, and on one scale."""
    found: list[Difference] = []
    for suite, members in suites.items():
        if len(members) <= 1 or not set(members) <= sampled.keys():
            continue
        # What may be negative, as p-MRR, is not averaged with the others.
        if len({registry.signed(runs[0].tasks[task].measure) for task in members}) == 1:
            found += _of_suite(suite, {task: sampled[task] for task in members}, systems, differences)
    return found


def _of_suite(
    suite: str, sampled: Mapping[str, _Sampled], systems: Sequence[str], differences: Sequence[Difference]
) -> list[Difference]:
    weight = 1 / len(sampled)
    strata = [
        Stratum(stratum.differences, weight * stratum.weight) for parts in sampled.values() for stratum in parts.strata
    ]
    whole = _Sampled(strata, statistics.joined([parts.draws for parts in sampled.values()], weight))
    found = []
    for system, estimate in zip(systems, whole.estimates(), strict=True):
        parts = [one for one in differences if one.system == system and one.scope in sampled]
        found.append(
            Difference(
                system,
                parts[0].against,
                suite,
                suite=True,
                measure=parts[0].measure if len({one.measure for one in parts}) == 1 else "main score",
                queries=sum(one.queries for one in parts),
                baseline=math.fsum(one.baseline for one in parts) * weight,
                mean=math.fsum(one.mean for one in parts) * weight,
                **estimate,
                wins=sum(one.wins for one in parts),
                ties=sum(one.ties for one in parts),
                losses=sum(one.losses for one in parts),
            )
        )
    return found


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    if not differences:
        return []
    p = np.array([one.p for one in differences], dtype=np.float64)
    both = zip(differences, statistics.holm(p), statistics.benjamini_hochberg(p), strict=True)
    return [replace(one, p_holm=float(by_holm), p_bh=float(by_rate)) for one, by_holm, by_rate in both]
