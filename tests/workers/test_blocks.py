from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_eval.workers.blocks import SMALLEST, Block, Cutter, tokens_of


def cut(weights: list[float], largest: float, workers: int) -> list[Block]:
    cutter = Cutter(enumerate(weights), lambda item: item[1], largest, workers)
    blocks = []
    while (block := cutter.take()) is not None:
        blocks.append(block)
    return blocks


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 300), max_size=200), st.floats(1, 500), st.integers(1, 8))
def test_every_item_is_in_one_block_in_order(weights: list[float], largest: float, workers: int) -> None:
    blocks = cut(weights, largest, workers)
    assert [item for block in blocks for item in block.items] == list(enumerate(weights))
    assert [block.start for block in blocks] == [block.items[0][0] for block in blocks]
    for block in blocks:
        assert len(block.items) == 1 or sum(weight for _, weight in block.items) <= largest * (1 + 1e-9)


def test_blocks_get_smaller_towards_the_end_and_a_short_stream_is_shared() -> None:
    long = [len(block.items) for block in cut([1.0] * 3000, 100, 2)]
    assert long[:20] == [6] * 4 + [12] * 4 + [25] * 4 + [50] * 4 + [100] * 4
    assert long[16:] == sorted(long[16:], reverse=True)
    assert long[-1] <= 100 * SMALLEST
    assert len(cut([1.0] * 80, 100, 4)) >= 8


def test_the_first_block_does_not_wait_for_a_whole_block_of_each_worker() -> None:
    read = []

    def items() -> object:
        for number in range(100_000):
            read.append(number)
            yield number

    cutter = Cutter(items(), lambda _: 1.0, 100, 64)
    cutter.take()
    assert len(read) <= 2 * 64 * 100 * SMALLEST + 1


def test_reading_ahead_is_bounded() -> None:
    read = []

    def items() -> object:
        for number in range(10_000):
            read.append(number)
            yield number

    cutter = Cutter(items(), lambda _: 1.0, 10, 3)
    for _ in range(5):
        cutter.take()
    assert len(read) <= 5 * 10 + 2 * 3 * 10


@given(st.lists(st.integers(), min_size=2, max_size=30), st.integers(1, 5))
def test_halves_hold_the_same_items(items: list[int], failures: int) -> None:
    first, second = Block(7, items, 10.0, failures).halves()
    assert [*first.items, *second.items] == items
    assert (first.start, second.start) == (7, 7 + len(first.items))
    assert first.weight + second.weight == 10.0
    assert first.failures == second.failures == failures - 1


def test_tokens_are_estimated_by_bytes_and_cut_texts_count_as_cut() -> None:
    assert tokens_of("a" * 400) == 100
    assert tokens_of("汉" * 400) == 300
    assert tokens_of("a" * 400, longest=8) == 8
    assert tokens_of("\ud800") > 0
