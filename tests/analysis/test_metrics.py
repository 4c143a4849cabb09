from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytrec_eval
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores
from mteb.abstasks.retrieval import _filter_queries_without_positives

from rerank_eval.errors import DataError, ModelError
from rerank_eval.metrics.per_query import COLUMNS, per_query, summarise

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
    agree_with_mteb(results, qrels)


def agree_with_mteb(results: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]]) -> None:
    theirs = calculate_retrieval_scores(results, qrels, [1, 10, 100])
    ours = summarise(per_query(frame(results), qrels))
    rounding = 0.5e-5 + 1e-12  # mteb rounds to five decimals
    for name, value in {
        "ndcg_at_1": theirs.ndcg["NDCG@1"],
        "ndcg_at_10": theirs.ndcg["NDCG@10"],
        "recall_at_10": theirs.recall["Recall@10"],
        "recall_at_100": theirs.recall["Recall@100"],
        "map_at_100": theirs.map["MAP@100"],
        "mrr_at_10": theirs.mrr["MRR@10"],
        "mrr": theirs.mrr["MRR@100"] if all(len(scores) <= 100 for scores in results.values()) else None,
    }.items():
        if value is not None:
            assert ours[name] == pytest.approx(value, abs=rounding), name


def graded(seed: int, queries: int, candidates: int) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, int]]]:
    """Long lists with many ties and grades from -1 to 3; every seventh query has no candidates."""
    generator = np.random.default_rng(seed)
    run, qrels = {}, {}
    for query in range(queries):
        documents = [f"d{number}" for number in generator.permutation(2 * candidates)]
        scores = generator.normal(size=candidates).round(1).tolist()
        run[f"q{query}"] = {} if query % 7 == 0 else dict(zip(documents[:candidates], scores, strict=True))
        qrels[f"q{query}"] = {str(d): int(generator.integers(-1, 4)) for d in generator.choice(documents, 30, False)}
    return run, qrels


@pytest.mark.parametrize("seed", range(3))
def test_long_lists_with_ties_are_cut_where_mteb_cuts(seed: int) -> None:
    run, qrels = graded(seed, 40, 130)
    agree_with_mteb(run, qrels)
    result = per_query(frame(run), qrels).set_index("query_id")
    for query, judged in qrels.items():
        order = sorted(run[query], key=lambda document: (run[query][document], document), reverse=True)
        assert result.loc[query, "ndcg_at_10"] == pytest.approx(ndcg(order, judged))
    assert (result["n_tied"] > 0).sum() > 20
    assert (result["ndcg_at_10_worst"] < result["ndcg_at_10_best"]).any()
    # Without a tolerance: whoever reads the files may rely on it.
    names = ["ndcg_at_10_worst", "ndcg_at_10", "ndcg_at_10_best", "oracle_ndcg_at_10"]
    for smaller, larger in itertools.pairwise(names):
        assert (result[smaller] <= result[larger]).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_tie_across_the_cut_off_is_bounded_by_brute_force(seed: int) -> None:
    generator = np.random.default_rng(seed)
    groups = [[f"d{level}{number}" for number in range(3)] for level in range(5)]  # places 10 to 12 tie
    judged = {document: int(generator.integers(0, 4)) for group in groups for document in group}
    run = {"q": {document: -float(level) for level, group in enumerate(groups) for document in group}}
    row = per_query(frame(run), {"q": judged}).iloc[0]
    possible = [
        ndcg([*itertools.chain(*order)], judged)
        for order in itertools.product(*(itertools.permutations(group) for group in groups[:4]))
    ]
    assert row["ndcg_at_10_best"] == pytest.approx(max(possible))
    assert row["ndcg_at_10_worst"] == pytest.approx(min(possible))
    assert min(possible) < max(possible)


def test_queries_count_as_mteb_counts_them() -> None:
    run = {"none": {"a": 1.0}, "zero": {"a": 1.0}, "good": {"a": 1.0}, "empty": {}}
    qrels: dict[str, dict[str, int]] = {"none": {}, "zero": {"a": 0}, "good": {"a": 1}, "empty": {"a": 1}}
    kept, queries = _filter_queries_without_positives(qrels, Dataset.from_dict({"id": list(qrels)}))
    result = per_query(frame(run), qrels)
    assert sorted(result["query_id"]) == sorted(kept) == ["empty", "good", "zero"]
    theirs = calculate_retrieval_scores({query: run[query] for query in queries["id"]}, kept, [1, 10, 100])
    assert theirs.ndcg["NDCG@10"] == 0.33333
    assert summarise(result)["ndcg_at_10"] == pytest.approx(1 / 3)


def test_no_query_gives_the_same_columns_and_no_mean() -> None:
    result = per_query(frame({"q": {"a": 1.0}}), {})
    assert list(result.columns) == list(COLUMNS)
    assert result["n_tied"].dtype == np.int64
    with pytest.raises(DataError, match="no query has a judgement"):
        summarise(result)


@pytest.mark.parametrize(("rank", "expected"), [(1, 1.0), (10, 0.1), (11, 0.0)])
def test_mrr_at_10_stops_at_ten(rank: int, expected: float) -> None:
    scores = {f"d{place:02}": -float(place) for place in range(1, 15)}
    row = per_query(frame({"q": scores}), {"q": {f"d{rank:02}": 1}}).iloc[0]
    assert row["mrr_at_10"] == pytest.approx(expected)
    assert row["mrr"] == pytest.approx(1 / rank)


def test_a_tie_is_what_ties_in_32_bits() -> None:
    # 1 + 1e-9 is another double but the same 32-bit float, so trec_eval lets the larger id win.
    result = per_query(frame({"q": {"a": 1.0 + 1e-9, "b": 1.0}}), {"q": {"a": 1}}).iloc[0]
    assert result["n_tied"] == 2
    assert result["ndcg_at_10"] == pytest.approx(1 / math.log2(3))
    assert (result["ndcg_at_10_best"], result["ndcg_at_10_worst"]) == (1.0, pytest.approx(1 / math.log2(3)))


@pytest.mark.parametrize(("step", "tied"), [(2.0**-23, 0), (2.0**-24, 2), (2.0**-40, 2)])
@pytest.mark.parametrize("base", [1.0, 0.5, 1024.0])
def test_the_boundary_of_a_tie_is_pytrec_eval_s(base: float, step: float, tied: int) -> None:
    # The relevant document has the larger score and the smaller id: it stands first unless the two tie.
    scores = {"a": base * (1 + step), "b": base}
    theirs = pytrec_eval.RelevanceEvaluator({"q": {"a": 1}}, {"recip_rank"}).evaluate({"q": scores})["q"]["recip_rank"]
    assert theirs == (0.5 if tied else 1.0)
    row = per_query(frame({"q": scores}), {"q": {"a": 1}}).iloc[0]
    assert row["n_tied"] == tied
    assert row["mrr"] == theirs


def test_an_unanswered_query_counts_as_zero() -> None:
    summary = summarise(per_query(frame({"q1": {"d1": 1.0}}), {"q1": {"d1": 1}, "q2": {"d1": 1}}))
    assert summary["ndcg_at_10"] == 0.5
    assert summary["candidates"] == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_a_score_that_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(ModelError, match=r"query 'q', document 'b'.*1 of 2"):
        per_query(frame({"q": {"a": 1.0, "b": bad}}), {"q": {"a": 1}})


def test_random_order_has_the_expected_ndcg() -> None:
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


@pytest.mark.parametrize(
    ("query_id", "doc_id", "judged"), [("\0q", "d", "d"), ("q", "d\0", "d"), ("q", "d", "d\0a"), ("q\0a", "d", "d")]
)
def test_an_id_with_a_nul_is_refused_before_pytrec_eval_ends_the_process(
    query_id: str, doc_id: str, judged: str
) -> None:
    frame = pd.DataFrame({"query_id": [query_id], "doc_id": [doc_id], "score": [0.5]})
    with pytest.raises(DataError, match="holds a NUL"):
        per_query(frame, {query_id: {judged: 1}, "q2": {"d": 1}})
