"""The one record of scores: rows are taken, put back and joined in every column alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rerank_eval.engine.interface import COLUMNS, EngineStats, Scores


def numbered(start: int, count: int) -> Scores:
    numbers = np.arange(start, start + count)
    return Scores(numbers / 8, -numbers / 8, numbers % 2 == 0, numbers % 3 == 0, numbers + 100)


def same(one: Scores, other: Scores) -> bool:
    pairs = [(getattr(one, column.field), getattr(other, column.field)) for column in COLUMNS]
    return all(mine.dtype == theirs.dtype and mine.tobytes() == theirs.tobytes() for mine, theirs in pairs)


def test_the_table_of_columns_is_the_record() -> None:
    assert [column.field for column in COLUMNS] == list(Scores.__dataclass_fields__)
    for column in COLUMNS:
        assert getattr(Scores.empty(3), column.field).tolist() == [0] * 3
        assert (
            getattr(Scores.empty(), column.field).dtype == column.dtype == getattr(numbered(0, 1), column.field).dtype
        )


def test_parts_joined_are_the_whole() -> None:
    assert same(Scores.concat([numbered(0, 2), Scores.empty(), numbered(2, 5)]), numbered(0, 7))
    assert same(Scores.concat([]), Scores.empty())


@pytest.mark.parametrize("rows", [lambda: [4, 0, 2], lambda: np.arange(6) % 2 == 0, lambda: slice(1, 4), lambda: []])
def test_rows_taken_are_a_copy_and_can_be_put_back(rows: Callable[[], Any]) -> None:
    whole = numbered(0, 6)
    taken = whole.take(rows())
    blank = numbered(50, 6)
    blank.put(rows(), taken)
    assert same(blank.take(rows()), taken)
    taken.scores[:] = 9.0
    assert same(whole, numbered(0, 6))


def test_a_query_is_overlong_where_every_pair_says_so() -> None:
    scores = numbered(0, 4)
    assert not scores.query_overlong
    assert scores.take([0, 3]).query_overlong
    assert not Scores.empty().query_overlong


def test_two_readings_of_stats_add_and_subtract() -> None:
    first, more = EngineStats(pairs=3, seconds=0.5), EngineStats(pairs=4, forwards=1)
    assert first + more == EngineStats(pairs=7, forwards=1, seconds=0.5)
    assert (first + more) - first == more
