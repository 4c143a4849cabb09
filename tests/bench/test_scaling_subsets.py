"""The clock that scaling's table is reckoned by, against cases with a known answer."""

from __future__ import annotations

import pytest

from rerank_bench.scaling_subsets import Rates, Subset, hours_of, seconds_of

AT_ONCE = Rates(1e15, 1e15)


def test_one_worker_takes_the_time_of_its_pairs() -> None:
    assert seconds_of(Subset(900, 100, 19_000, 149), 1, AT_ONCE) == pytest.approx(900 * 100 / 149)


def test_a_driver_slower_than_its_workers_sets_the_time() -> None:
    taken = seconds_of(Subset(5000, 100, 19_000, 149), 64, Rates(1000, 1e15))
    read_ahead = 2 * 250_000 / 190 / 149  # scored once the last query has been read
    assert 500 < taken < 500 + read_ahead + 1


@pytest.mark.parametrize("queries", [900, 3546, 20_000])
@pytest.mark.parametrize("workers", [8, 64])
def test_the_ends_of_subsets_cost_little_and_never_nothing(queries: int, workers: int) -> None:
    ideal = queries * 100 / 149 / workers
    taken = seconds_of(Subset(queries, 100, 19_000, 149), workers, Rates(35_000, 100_000))
    assert ideal < taken < 1.11 * ideal


def test_every_cell_of_a_task_is_a_stream_of_its_own() -> None:
    work = [{"task": "BelebeleRetrieval", "queries": 338378, "pairs": 33837800, "prompt_tokens": 6.4e9, "hours": 63.0}]
    rate = 33837800 / 63 / 3600
    one = seconds_of(Subset(900, 100, 6.4e9 / 338378, rate), 64, AT_ONCE)
    assert hours_of(work, "MMTEB-R", 64, AT_ONCE) == pytest.approx(376 * one / 3600, rel=1e-3)
