"""A pair's float32 margin is the same to the last bit whatever is scored with it.

It holds because nothing that a pair's numbers pass through depends on its company: attention runs document by document,
the head is a product and a sum a row, and a matrix product's row does not depend on the number of rows as soon as there
are a few dozen (measured with MKL on one and two threads; the shortest prompt has more tokens than that).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_eval.engine.interface import Engine, QueryGroup

WORDS = ["parse", "the", "header", "of", "a", "message", "and", "return", "its", "fields", "as", "names", "without"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=120).map(" ".join)
BUDGETS = (1, 300, 1000, 16_384)


@pytest.fixture(scope="module")
def engines(engine_for: Callable[..., Engine]) -> dict[int, Engine]:
    return {budget: engine_for(token_budget=budget) for budget in BUDGETS}


@settings(max_examples=40, deadline=None)
@given(data=st.data(), query=TEXTS, documents=st.lists(TEXTS, min_size=1, max_size=12))
def test_alone_in_any_order_at_any_budget(
    engines: dict[int, Engine], data: st.DataObject, query: str, documents: list[str]
) -> None:
    whole = engines[16_384].score(QueryGroup(query, "find it", documents)).margins
    order = data.draw(st.permutations(range(len(documents))))
    shuffled = engines[16_384].score(QueryGroup(query, "find it", [documents[index] for index in order])).margins
    assert shuffled.tobytes() == whole[list(order)].tobytes()
    for budget in BUDGETS:
        split = engines[budget].score(QueryGroup(query, "find it", documents)).margins
        assert split.tobytes() == whole.tobytes()
    alone = [engines[16_384].score(QueryGroup(query, "find it", [text])).margins[0] for text in documents]
    assert np.array(alone).tobytes() == whole.tobytes()


def test_the_number_of_threads_changes_nothing(engines: dict[int, Engine]) -> None:
    group = QueryGroup("parse a header", "find it", [" ".join(WORDS[: 1 + index % 13] * 9) for index in range(20)])
    threads = torch.get_num_threads()
    seen = set()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            seen.add(engines[16_384].score(group).margins.tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(seen) == 1


def test_margins_differ_between_documents(engines: dict[int, Engine]) -> None:
    """Without this the tests above could pass on a constant."""
    margins = engines[16_384].score(QueryGroup("parse", "find it", WORDS)).margins
    assert len(set(margins.tolist())) == len(set(WORDS))
