from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mteb._evaluators.retrieval_metrics import calculate_pmrr

from rerank_eval.metrics.measures.p_mrr import p_mrr, summarise

DOCUMENTS = [f"d{number}" for number in range(5)]
LIST = st.dictionaries(st.sampled_from(DOCUMENTS), st.sampled_from([0.0, 0.25, 1.0]), min_size=1)
CHANGED = st.lists(st.sampled_from([*DOCUMENTS, "gone"]), min_size=1, max_size=3, unique=True)


def frame(run: dict[str, dict[str, float]]) -> pd.DataFrame:
    rows = [(query, document, score) for query, own in run.items() for document, score in own.items()]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score"])


def theirs(run: dict[str, dict[str, float]], changed: dict[str, list[str]]) -> float:
    first = {query: own for query, own in run.items() if query.endswith("-og")}
    return float(calculate_pmrr(first, {query: run[query] for query in run if query not in first}, changed))


def orders(own: dict[str, float]) -> list[dict[str, float]]:
    """All rankings that ties leave open, as scores without ties."""
    found = []
    for order in itertools.permutations(own):
        values = [own[document] for document in order]
        if values == sorted(values, reverse=True):
            found.append({document: -float(rank) for rank, document in enumerate(order)})
    return found


@settings(max_examples=60)
@given(st.lists(st.tuples(LIST, LIST, CHANGED), min_size=1, max_size=3))
def test_it_is_mteb_s_and_within_its_bounds(pairs: list[tuple[dict[str, float], dict[str, float], list[str]]]) -> None:
    run = {f"q{n}-og": before for n, (before, _, _) in enumerate(pairs)}
    run |= {f"q{n}-changed": after for n, (_, after, _) in enumerate(pairs)}
    changed = {f"q{n}": own for n, (_, _, own) in enumerate(pairs)}
    found = p_mrr(frame(run), changed)
    assert summarise(found)["p_mrr"] == pytest.approx(theirs(run, changed), abs=1e-12)
    assert (found["p_mrr_worst"] <= found["p_mrr"]).all()
    assert (found["p_mrr"] <= found["p_mrr_best"]).all()


@settings(max_examples=25, deadline=None)
@given(LIST, LIST, CHANGED)
def test_no_order_of_ties_lies_outside(before: dict[str, float], after: dict[str, float], changed: list[str]) -> None:
    told = {"q": changed}
    (row,) = p_mrr(frame({"q-og": before, "q-changed": after}), told).to_dict("records")
    pairs = list(itertools.product(orders(before), orders(after)))
    assume(len(pairs) <= 150)  # mteb takes milliseconds for each
    every = [theirs({"q-og": first, "q-changed": second}, told) for first, second in pairs]
    assert row["p_mrr_worst"] <= min(every) + 1e-12
    assert max(every) <= row["p_mrr_best"] + 1e-12
    if len(changed) == 1:  # then the bounds are reached
        assert [row["p_mrr_worst"], row["p_mrr_best"]] == pytest.approx([min(every), max(every)])


def test_without_ties_nothing_is_open() -> None:
    scores = frame({"q-og": {"a": 3.0, "b": 2.0, "c": 1.0}, "q-changed": {"a": 1.0, "b": 2.0, "c": 3.0}})
    (row,) = p_mrr(scores, {"q": ["a"]}).to_dict("records")
    # From rank 1 to rank 3: 1 - 1/3.
    assert (row["p_mrr"], row["p_mrr_worst"], row["p_mrr_best"]) == pytest.approx((2 / 3,) * 3)
    assert row["n_changed"] == 1


def test_pairs_that_mteb_leaves_out_are_left_out() -> None:
    scores = frame({"q-og": {"a": 1.0}, "q-changed": {"a": 1.0}, "r-og": {"a": 1.0}})
    found = p_mrr(scores, {"q": ["a"], "r": ["a"], "s": []})
    assert found["pair"].tolist() == ["q"]
    assert found.dtypes.to_dict() | {"pair": None} == {
        "pair": None,
        "n_changed": np.dtype("int64"),
        **dict.fromkeys(("p_mrr", "p_mrr_worst", "p_mrr_best"), np.dtype("float64")),
    }
