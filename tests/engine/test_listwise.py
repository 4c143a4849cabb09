"""Windows, orders and answers of listwise rerankers, against the plainest way to write each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.listwise import arranged, read_ranking, scores_by_rank, slide, windows

COUNTS = st.integers(0, 130)
WINDOWS = st.integers(2, 40).flatmap(lambda window: st.tuples(st.just(window), st.integers(1, window)))


def plain_windows(count: int, window: int, stride: int) -> list[tuple[int, int]]:
    """rank_llm's loop, but for a list of exactly `window - stride` documents, which it leaves as it is."""
    found = []
    end, start = count, count - window
    while end > 0 and (start + stride != 0 or end == count):
        start = max(start, 0)
        found.append((start, end))
        end, start = end - stride, start - stride
        if found[-1][0] == 0:
            break
    return found


@given(COUNTS, WINDOWS)
def test_windows_are_those_of_the_plain_loop_and_leave_nothing_out(count: int, shape: tuple[int, int]) -> None:
    found = list(windows(count, *shape))
    assert found == plain_windows(count, *shape)
    assert {place for start, stop in found for place in range(start, stop)} == set(range(count))
    assert all(0 < stop - start <= shape[0] for start, stop in found)


def test_windows_of_a_hundred_candidates() -> None:
    assert list(windows(100, 20, 10)) == [(start, start + 20) for start in range(80, -1, -10)]
    assert list(windows(25, 20, 10)) == [(5, 25), (0, 15)]
    assert list(windows(10, 20, 10)) == [(0, 10)]


@given(st.lists(st.integers(0, 5), max_size=60), WINDOWS, st.integers(1, 3))
def test_sliding_is_the_list_sorted_window_by_window(values: list[int], shape: tuple[int, int], passes: int) -> None:
    def rank(places: list[int]) -> list[int]:
        assert len(places) > 1
        return sorted(places, key=lambda place: -values[place])

    expected = list(range(len(values)))
    for _ in range(passes):
        for start, stop in plain_windows(len(values), *shape):
            expected = expected[:start] + sorted(expected[start:stop], key=lambda one: -values[one]) + expected[stop:]
    ranking = slide(len(values), *shape, passes, rank)
    assert ranking == expected
    assert sorted(ranking) == list(range(len(values)))


@given(st.permutations(range(40)))
def test_one_pass_with_half_a_window_s_stride_brings_the_best_ten_to_the_top(values: list[int]) -> None:
    ranking = slide(40, 20, 10, 1, lambda places: sorted(places, key=lambda place: values[place]))
    assert [values[place] for place in ranking[:10]] == list(range(10))


def test_scores_descend_by_rank() -> None:
    assert scores_by_rank([2, 0, 1]).tolist() == [2.0, 1.0, 3.0]
    assert scores_by_rank([]).tolist() == []


def test_orders() -> None:
    group = QueryGroup("query", None, [f"document {number}" for number in range(30)])
    assert arranged(group, "given") == (group, list(range(30)))
    reverse, places = arranged(group, "reversed")
    assert (reverse.documents, places) == (list(group.documents)[::-1], list(range(30))[::-1])
    shuffled, places = arranged(group, "shuffled")
    assert sorted(places) == list(range(30)) != places
    assert [group.documents[place] for place in places] == shuffled.documents
    other, _ = arranged(QueryGroup("another query", None, group.documents), "shuffled")
    assert other.documents != shuffled.documents
    # Where the first stage had a document says nothing of where it comes to stand.
    assert arranged(reverse, "shuffled")[0].documents == shuffled.documents


@pytest.mark.parametrize(
    ("answer", "ranking", "repaired"),
    [
        ([2, 0, 1], [2, 0, 1], False),
        (np.array([2, 0, 1]), [2, 0, 1], False),
        (range(3), [0, 1, 2], False),
        ([2, 2, 0], [2, 0, 1], True),
        ([2], [2, 0, 1], True),
        ([], [0, 1, 2], True),
        ([1, 1, 0, 2], [1, 0, 2], True),
        ("[3] > [1] > [2]", [2, 0, 1], False),
        ("3, 1, 2.", [2, 0, 1], False),
        ("[3] > [3] > [9]", [2, 0, 1], True),
        ("[0] > [1] > [2] > [3]", [0, 1, 2], True),
        (f"[{'9' * 5000}] > [2]", [1, 0, 2], True),
        ("I cannot rank these.", [0, 1, 2], True),
    ],
)
def test_answers_are_read_and_repaired(answer: object, ranking: list[int], repaired: bool) -> None:
    assert read_ranking(answer, 3) == (ranking, repaired)


@given(st.lists(st.integers(0, 7)))
def test_a_repaired_ranking_is_the_first_mentions_then_the_rest(answer: list[int]) -> None:
    ranking, repaired = read_ranking(answer, 8)
    assert sorted(ranking) == list(range(8))
    assert repaired == (sorted(answer) != list(range(8)))
    firsts = [one for place, one in enumerate(answer) if one not in answer[:place]]
    assert ranking == firsts + [one for one in range(8) if one not in answer]


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ([3, 1, 2], "ranked document 3 of 3; places count from 0"),
        ([-1, 0, 1], "ranked document -1 of 3"),
        ([2.0, 0.0, 1.0], "no ranking"),
        ([True, False, True], "no ranking"),
        ([[0], [1], [2]], "no ranking"),
        ({0: "a", 1: "b", 2: "c"}, "no ranking"),
        ([{"corpus_id": 1}], "no ranking"),
        ({0, 1, 2}, "no ranking"),
        (iter([0, 1, 2]), "no ranking"),
        (np.array(1), "no ranking"),
        (b"210", "no ranking"),
        (None, "no ranking"),
        (3, "no ranking"),
    ],
)
def test_what_is_no_ranking_is_refused(answer: object, line: str) -> None:
    with pytest.raises(EngineError, match=line):
        read_ranking(answer, 3)
