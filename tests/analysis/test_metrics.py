from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

from rerank_eval.analysis.metrics import per_query, summarise
from rerank_eval.errors import ModelError

DOCUMENTS = [f"d{number}" for number in range(6)]


def frame(run: dict[str, dict[str, float]]) -> pd.DataFrame:
    rows = [(query, document, score) for query, scores in run.items() for document, score in scores.items()]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score"])


def ndcg(order: list[str], judged: dict[str, int], depth: int = 10) -> float:
    """nDCG written out by hand: linear gain, log2 discount, ideal over all judgements."""

    def dcg(gains: list[int]) -> float:
        return sum(gain / math.log2(position + 2) for position, gain in enumerate(gains[:depth]))

    ideal = dcg(sorted((max(value, 0) for value in judged.values()), reverse=True))
    return dcg([max(judged.get(document, 0), 0) for document in order]) / ideal if ideal else 0.0


RUNS = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=6),
    max_size=3,
)
QRELS = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-1, 3), min_size=1, max_size=4),
    min_size=1,
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(RUNS, QRELS)
def test_every_column_equals_a_plain_computation(run: dict[str, Any], qrels: dict[str, Any]) -> None:
    result = per_query(frame(run), qrels).set_index("query_id")
    assert sorted(result.index) == sorted(qrels)
    for query, judged in qrels.items():
        scores = run.get(query, {})
        row = result.loc[query]
        order = sorted(scores, key=lambda document: (scores[document], document), reverse=True)
        assert row["ndcg_at_10"] == pytest.approx(ndcg(order, judged))
        orders = [
            [*itertools.chain(*combination)]
            for combination in itertools.product(
                *(
                    itertools.permutations([d for d in scores if scores[d] == value])
                    for value in sorted(set(scores.values()), reverse=True)
                )
            )
        ]
        possible = [ndcg(list(order), judged) for order in orders]
        assert row["ndcg_at_10_best"] == pytest.approx(max(possible))
        assert row["ndcg_at_10_worst"] == pytest.approx(min(possible))
        assert row["oracle_ndcg_at_10"] == pytest.approx(
            max(ndcg(list(order), judged) for order in itertools.permutations(scores))
        )
        assert row["n_tied"] == sum(list(scores.values()).count(value) > 1 for value in scores.values())
        assert row["n_relevant"] == sum(value > 0 for value in judged.values())


@settings(max_examples=60, deadline=None)
@given(RUNS, QRELS)
def test_means_are_mteb_s(run: dict[str, Any], qrels: dict[str, Any]) -> None:
    results = {query: run.get(query, {}) for query in qrels}  # mteb's results hold every query, answered or not
    if not any(results.values()):
        return
    theirs = calculate_retrieval_scores(results, qrels, [1, 10, 100])
    ours = summarise(per_query(frame(run), qrels))
    assert ours["ndcg_at_10"] == pytest.approx(theirs.ndcg["NDCG@10"], abs=1e-5)
    assert ours["ndcg_at_1"] == pytest.approx(theirs.ndcg["NDCG@1"], abs=1e-5)
    assert ours["recall_at_100"] == pytest.approx(theirs.recall["Recall@100"], abs=1e-5)
    assert ours["map_at_100"] == pytest.approx(theirs.map["MAP@100"], abs=1e-5)


def test_a_tie_is_what_ties_in_32_bits() -> None:
    # 1 + 1e-9 is another double but the same 32-bit float, so trec_eval lets the larger id win.
    result = per_query(frame({"q": {"a": 1.0 + 1e-9, "b": 1.0}}), {"q": {"a": 1}}).iloc[0]
    assert result["n_tied"] == 2
    assert result["ndcg_at_10"] == pytest.approx(1 / math.log2(3))
    assert (result["ndcg_at_10_best"], result["ndcg_at_10_worst"]) == (1.0, pytest.approx(1 / math.log2(3)))


def test_an_unanswered_query_counts_as_zero() -> None:
    summary = summarise(per_query(frame({"q1": {"d1": 1.0}}), {"q1": {"d1": 1}, "q2": {"d1": 1}}))
    assert summary["ndcg_at_10"] == 0.5
    assert summary["candidates"] == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(ModelError, match="query 'q', document 'b'"):
        per_query(frame({"q": {"a": 1.0, "b": bad}}), {"q": {"a": 1}})


def test_forty_thousand_queries_take_seconds() -> None:
    generator = np.random.default_rng(0)
    queries, candidates = 4000, 100
    scores = pd.DataFrame(
        {
            "query_id": np.repeat([f"q{number}" for number in range(queries)], candidates),
            "doc_id": np.tile([f"d{number}" for number in range(candidates)], queries),
            "score": generator.normal(size=queries * candidates),
        }
    )
    qrels = {f"q{number}": {f"d{number % candidates}": 1} for number in range(queries)}
    summary = summarise(per_query(scores, qrels))
    assert summary["recall_at_100"] == 1.0
    assert 0.03 < summary["ndcg_at_10"] < 0.06  # random order: mean of 1/log2(r+1) over r <= 10, over 100 places
