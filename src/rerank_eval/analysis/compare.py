"""Compares systems on the same queries: is the difference real, where is it, and what else changed?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from rerank_eval.analysis import changes, statistics
from rerank_eval.analysis.changes import Churn, Shift
from rerank_eval.analysis.runs import UNIT, Run, TaskRun
from rerank_eval.analysis.statistics import Draws, Estimate, Stratum
from rerank_eval.errors import ConfigError, DataError

SEED = 20_250_605
MOVED = 5
"""Queries shown that moved most, each way."""
_SHOWN = 3
_BLANK = float("nan")


@dataclass(frozen=True)
class Moved:
    """A query that moved.

    Attributes:
        subset: Of the task.
        split: Of the task.
        query_id: The query, or for p-MRR the pair of queries.
        before: The baseline's value.
        after: The other's.
    """

    subset: str
    split: str
    query_id: str
    before: float
    after: float


@dataclass(frozen=True)
class Ties:
    """What ties leave open of a mean.

    Attributes:
        rate: Share of candidates that tie.
        worst: The mean, had every tie been broken for the worst.
        best: For the best.
    """

    rate: float
    worst: float
    best: float


@dataclass(frozen=True)
class Difference:
    """A system against the baseline, on a task or over a suite.

    Attributes:
        system: The system's name.
        scope: The task's or the suite's name.
        suite: Whether it is a suite.
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
        wins: Units where the system is better.
        ties: Units where both are equal.
        losses: Units where it is worse.
        up: Queries that gained most.
        down: Queries that lost most.
        churn: What changed in the rankings, or None where candidates are not known.
        shift: What changed in the margins, or None where that has no meaning.
        tied: What ties leave open of the system's mean, or None where it is not known.
    """

    system: str
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
    """Several systems against the first.

    Attributes:
        runs: The systems, the baseline first.
        differences: One for each other system and task, then one for each and suite.
        baseline_ties: Task -> what ties leave open of the baseline's mean, where it is known.
        resamples: How often samples were drawn.
        seed: Of the draws.
    """

    runs: tuple[Run, ...]
    differences: tuple[Difference, ...]
    baseline_ties: Mapping[str, Ties]
    resamples: int
    seed: int


def compare(
    runs: Sequence[Run],
    suites: Mapping[str, Sequence[str]],
    *,
    seed: int = SEED,
    resamples: int = statistics.RESAMPLES,
) -> Comparison:
    """Compare systems with the first of them.

    Args:
        runs: At least two, the baseline first.
        suites: Suite -> its tasks; a suite is compared when every run has all of them, and all share a scale.
        seed: Of the draws.
        resamples: How often.

    Returns:
        The comparison. Corrected p-values are over all of its tests on tasks; suites, which follow from them, are
        corrected among themselves.

    Raises:
        ConfigError: There are fewer than two runs, or they have no task in common.
        DataError: A task lacks in one run what another has; names the queries.
    """
    if len(runs) < 2:  # noqa: PLR2004 - a comparison has two sides
        raise ConfigError("name at least two runs to compare, the baseline first")
    tasks = _tasks(runs)
    differences: list[Difference] = []
    sampled: dict[str, _Sampled] = {}
    for number, task in enumerate(tasks):
        parts = [run.tasks[task] for run in runs]
        table = _aligned(task, runs, parts)
        strata = _strata(table)
        sampled[task] = _Sampled(strata, statistics.draw(strata, [seed, number], resamples))
        estimate = statistics.estimate(strata, sampled[task].draws)
        differences += _of_task(task, runs, parts, table, estimate)
    overall: list[Difference] = []
    for suite, members in suites.items():
        if len(members) > 1 and set(members) <= set(tasks) and _one_scale(runs, members):
            own = {task: sampled[task] for task in members}
            overall += _of_suite(suite, own, [run.name for run in runs[1:]], differences)
    first = {task: _ties(runs[0].tasks[task]) for task in tasks}
    return Comparison(
        tuple(runs),
        (*_corrected(differences), *_corrected(overall)),
        {task: ties for task, ties in first.items() if ties is not None},
        resamples,
        seed,
    )


@dataclass(frozen=True)
class _Sampled:
    strata: Sequence[Stratum]
    draws: Draws


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
                f"{run.name} has no result of {_some(lacking)}, which {other} has; run it there too, or choose tasks "
                "with --task"
            )
    return every


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _aligned(task: str, runs: Sequence[Run], parts: Sequence[TaskRun]) -> pd.DataFrame:
    """Put the runs' values of a task side by side, refusing anything but the same queries."""
    first = parts[0]
    index = pd.MultiIndex.from_frame(first.values[UNIT])
    if index.has_duplicates:
        raise DataError(f"{runs[0].name}, {task}: query {index[index.duplicated()][0][-1]!r} stands twice")
    table = first.values[UNIT].copy()
    for number, (run, part) in enumerate(zip(runs, parts, strict=True)):
        if part.measure != first.measure:
            raise DataError(f"{task}: {runs[0].name} was judged by {first.measure}, {run.name} by {part.measure}")
        _same_data(task, runs[0], run, first, part)
        own = pd.MultiIndex.from_frame(part.values[UNIT])
        for lacks, has, missing in ((run, runs[0], index.difference(own)), (runs[0], run, own.difference(index))):
            if len(missing):
                names = [f"{query!r} ({subset}/{split})" for subset, split, query in missing]
                raise DataError(
                    f"{task}: {lacks.name} lacks {len(names)} queries that {has.name} has: {_some(names)}; compare "
                    "runs of the same data"
                )
        table[f"value_{number}"] = part.values.set_index(UNIT)["value"].reindex(index).to_numpy()
    if table.isna().any(axis=None):
        raise DataError(f"{task}: a value is not a number")
    return table


def _same_data(task: str, first: Run, other: Run, one: TaskRun, two: TaskRun) -> None:
    revisions = [part.manifest.get("task", {}).get("revision") for part in (one, two)]
    if None not in revisions and revisions[0] != revisions[1]:
        raise DataError(f"{task}: {first.name} is of data revision {revisions[0]}, {other.name} of {revisions[1]}")


def _strata(table: pd.DataFrame) -> list[Stratum]:
    """Take a task's cells as strata: its score is the mean of theirs."""
    columns = [name for name in table.columns if name.startswith("value_")]
    cells = [own[columns].to_numpy(dtype=np.float64) for _, own in table.groupby(["subset", "split"], sort=True)]
    return [Stratum(cell[:, 1:] - cell[:, :1], 1 / len(cells)) for cell in cells]


def _mean(table: pd.DataFrame, column: str) -> float:
    return float(table.groupby(["subset", "split"], sort=True)[column].mean().mean())


def _of_task(
    task: str, runs: Sequence[Run], parts: Sequence[TaskRun], table: pd.DataFrame, estimate: Estimate
) -> list[Difference]:
    found = []
    before = parts[0].candidates()
    for number, (run, part) in enumerate(zip(runs[1:], parts[1:], strict=True), start=1):
        gains = (table[f"value_{number}"] - table["value_0"]).to_numpy()
        after = part.candidates() if before is not None else None
        known = before is not None and after is not None
        found.append(
            Difference(
                run.name,
                task,
                suite=False,
                measure=part.measure,
                queries=len(table),
                baseline=_mean(table, "value_0"),
                mean=_mean(table, f"value_{number}"),
                difference=float(estimate.value[number - 1]),
                low=float(estimate.low[number - 1]),
                high=float(estimate.high[number - 1]),
                p=float(estimate.p[number - 1]),
                wins=int((gains > 0).sum()),
                ties=int((gains == 0).sum()),
                losses=int((gains < 0).sum()),
                up=_moved(table, number, gains, best=True),
                down=_moved(table, number, gains, best=False),
                churn=changes.churn(before, after) if known else None,  # type: ignore[arg-type]
                shift=changes.shift(before, after) if known and _margins(parts[0], part) else None,  # type: ignore[arg-type]
                tied=_ties(part),
            )
        )
    return found


def _moved(table: pd.DataFrame, number: int, gains: np.ndarray, *, best: bool) -> tuple[Moved, ...]:
    order = np.argsort(-gains if best else gains, kind="stable")[:MOVED]
    rows = [row for row in order.tolist() if (gains[row] > 0 if best else gains[row] < 0)]
    return tuple(
        Moved(
            str(table["subset"].iloc[row]),
            str(table["split"].iloc[row]),
            str(table["query_id"].iloc[row]),
            float(table["value_0"].iloc[row]),
            float(table[f"value_{number}"].iloc[row]),
        )
        for row in rows
    )


def _margins(one: TaskRun, two: TaskRun) -> bool:
    """Tell whether both files hold margins of one model: other models' scores are on scales of their own."""
    identities = [part.manifest.get("identity", {}).get("reranker", {}) for part in (one, two)]
    return identities[0].get("model") == identities[1].get("model") and all(
        identity.get("head") == "float32" for identity in identities
    )


def _ties(part: TaskRun) -> Ties | None:
    values = part.values
    if values[["worst", "best"]].isna().any(axis=None):
        return None
    candidates = values["candidates"].sum()
    rate = values["tied"].sum() / candidates if candidates else part.manifest.get("scores", {}).get("tie_rate", _BLANK)
    return Ties(float(rate), _mean(values, "worst"), _mean(values, "best"))


def _one_scale(runs: Sequence[Run], tasks: Sequence[str]) -> bool:
    """Tell whether tasks can be averaged: p-MRR, which may be negative, does not mix with the others."""
    return len({runs[0].tasks[task].measure == "p-MRR" for task in tasks}) == 1


def _of_suite(
    suite: str, sampled: Mapping[str, _Sampled], systems: Sequence[str], differences: Sequence[Difference]
) -> list[Difference]:
    weight = 1 / len(sampled)
    strata = [
        Stratum(stratum.differences, weight * stratum.weight) for own in sampled.values() for stratum in own.strata
    ]
    estimate = statistics.estimate(strata, statistics.joined([own.draws for own in sampled.values()], weight))
    found = []
    for number, system in enumerate(systems):
        own = [one for one in differences if one.system == system and one.scope in sampled]
        found.append(
            Difference(
                system,
                suite,
                suite=True,
                measure=own[0].measure if len({one.measure for one in own}) == 1 else "main score",
                queries=sum(one.queries for one in own),
                baseline=math.fsum(one.baseline for one in own) * weight,
                mean=math.fsum(one.mean for one in own) * weight,
                difference=float(estimate.value[number]),
                low=float(estimate.low[number]),
                high=float(estimate.high[number]),
                p=float(estimate.p[number]),
                wins=sum(one.wins for one in own),
                ties=sum(one.ties for one in own),
                losses=sum(one.losses for one in own),
            )
        )
    return found


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    if not differences:
        return []
    p = np.array([one.p for one in differences], dtype=np.float64)
    both = zip(differences, statistics.holm(p), statistics.benjamini_hochberg(p), strict=True)
    return [replace(one, p_holm=float(by_holm), p_bh=float(by_rate)) for one, by_holm, by_rate in both]
