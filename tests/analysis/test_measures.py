"""Measures by mteb's names: every main score there is, equal to mteb's own functions, ties included."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ir_measures
import mteb
import numpy as np
import pandas as pd
import pytest
from mteb._evaluators.retrieval_metrics import (
    calculate_retrieval_scores,
    max_over_subqueries,
    paired_accuracy,
    robustness_at_10,
)
from mteb.abstasks.retrieval import AbsTaskRetrieval

from rerank_eval.errors import ConfigError
from rerank_eval.metrics import registry
from rerank_eval.metrics.compute import compute_metrics
from rerank_eval.metrics.per_query import by_unit
from rerank_eval.metrics.registry import Metric, agree, find, named, percent, two_digits, unit

SOURCES = Path(registry.__file__).parents[1]
CUTS = (1, 2, 3, 5, 10, 20, 25, 50, 100, 1000)
Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]


def frame(run: Run) -> pd.DataFrame:
    rows = [(query, document, score) for query, scores in run.items() for document, score in scores.items()]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score"])


def measure(name: str) -> Metric:
    found = find(name)
    assert found is not None, name
    return found


def made(seed: int, queries: list[str]) -> tuple[Run, Qrels]:
    """Lists of up to 150 candidates with many ties, grades from -1 to 2."""
    generator = np.random.default_rng(seed)
    run: Run = {}
    qrels: Qrels = {}
    for query in queries:
        documents = [f"d{number}" for number in generator.permutation(200)]
        size = int(generator.integers(5, 150))
        run[query] = dict(zip(documents[:size], generator.normal(size=size).round(1).tolist(), strict=True))
        qrels[query] = {str(d): int(generator.integers(-1, 3)) for d in generator.choice(documents, 25, replace=False)}
        qrels[query][documents[0]] = 1
    return run, qrels


def main_scores() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for task in mteb.get_tasks(exclude_superseded=False):
        if isinstance(task, AbsTaskRetrieval):
            found.setdefault(str(task.metadata.main_score), []).append(task.metadata.name)
    return found


def test_every_main_score_of_mteb_s_retrieval_and_reranking_tasks_is_known() -> None:
    scores = main_scores()
    assert {"ndcg_at_20", "map_at_1000", "paired_accuracy", "p-MRR", "hit_rate_at_5", "precision_at_1"} <= scores.keys()
    unknown = {name: tasks[:3] for name, tasks in scores.items() if find(name) is None}
    assert not unknown
    assert all(named(name) == name for name in scores)


@pytest.mark.parametrize("seed", range(3))
def test_measures_of_queries_are_mteb_s(seed: int) -> None:
    run, qrels = made(seed, [f"q{number}" for number in range(12)])
    theirs = calculate_retrieval_scores(run, qrels, list(CUTS))
    for cut in CUTS:
        for family, values in {
            "ndcg": theirs.ndcg[f"NDCG@{cut}"],
            "map": theirs.map[f"MAP@{cut}"],
            "recall": theirs.recall[f"Recall@{cut}"],
            "precision": theirs.precision[f"P@{cut}"],
            "hit_rate": theirs.hit_rate[f"HitRate@{cut}"],
            "mrr": theirs.mrr[f"MRR@{cut}"],
        }.items():
            own = by_unit(frame(run), qrels, measure(f"{family}_at_{cut}"))["value"].mean()
            assert agree(own, values), (family, cut)
    assert agree(by_unit(frame(run), qrels, measure("accuracy"))["value"].mean(), theirs.recall["Recall@1"])


def test_measures_of_whole_lists_are_ir_measures() -> None:
    run, qrels = made(5, [f"q{number}" for number in range(9)])
    for name, theirs in {"map": "AP", "mrr": "RR", "ndcg": "nDCG", "r_precision": "Rprec"}.items():
        values = ir_measures.iter_calc([ir_measures.parse_measure(theirs)], qrels, run)
        own = by_unit(frame(run), qrels, measure(name)).set_index("query_id")["value"]
        assert own.to_dict() == pytest.approx({one.query_id: one.value for one in values}), name


@pytest.mark.parametrize("seed", range(3))
def test_measures_over_groups_are_mteb_s(seed: int) -> None:
    pairs = [f"{number}_q{one}" for number in range(20) for one in (1, 2)]
    run, qrels = made(seed, pairs)
    for query, judged in qrels.items():  # one right document each, often the first
        best = max(run[query], key=lambda document: (run[query][document], document))
        judged.clear()
        judged[best if int(query.split("_", maxsplit=1)[0]) % 3 else next(iter(run[query]))] = 1
    scores = calculate_retrieval_scores(run, qrels, [1, 10]).all_scores
    own = by_unit(frame(run), qrels, measure("paired_accuracy"))
    assert len(own) == 20
    assert 0 < own["value"].mean() < 1
    assert own["value"].mean() == pytest.approx(paired_accuracy(qrels, run, scores))
    run, qrels = made(seed, [f"{number}_{one}" for number in range(8) for one in range(1 + number % 3)])
    scores = calculate_retrieval_scores(run, qrels, [1, 10]).all_scores
    own = by_unit(frame(run), qrels, measure("robustness_at_10"))
    assert own["value"].mean() == pytest.approx(robustness_at_10(qrels, run, scores))
    for query in qrels:  # of one base query all judgements are the same
        qrels[query] = qrels[query.split("_", maxsplit=1)[0] + "_0"]
    own = by_unit(frame(run), qrels, measure("max_over_subqueries_map_at_1000"))
    theirs = max_over_subqueries(qrels, run, [1, 1000])["max_over_subqueries_map_at_1000"]
    assert agree(own["value"].mean(), theirs)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("nDCG@20", "ndcg_at_20"),
        ("AP@100", "map_at_100"),
        ("R@1000", "recall_at_1000"),
        ("P_5", "precision_at_5"),
        ("ndcg_cut_10", "ndcg_at_10"),
        ("recip_rank", "mrr"),
        ("RR@10", "mrr_at_10"),
        ("success_1", "hit_rate_at_1"),
        ("Rprec", "r_precision"),
        ("p_mrr", "p-MRR"),
    ],
)
def test_other_tools_names_are_understood(written: str, name: str) -> None:
    assert named(written) == name


@pytest.mark.parametrize(
    "written", ["nonsense", "ndcg_at_", "ndcg_at_0", "ndcg_at_-1", "recall", "max_over_subqueries_", ""]
)
def test_what_is_no_measure_is_refused_with_the_valid_ones(written: str) -> None:
    with pytest.raises(ConfigError, match=r"no such measure;.*valid: ndcg_at_K, map_at_K, .*paired_accuracy"):
        named(written)


@pytest.mark.parametrize("main", ["map_at_1000", "ndcg_at_20", "paired_accuracy", "ndcg_at_10", "recall_at_10"])
def test_the_main_score_is_judged_by_query_whatever_it_is(main: str) -> None:
    run, qrels = made(1, [f"{number}_q{one}" for number in range(10) for one in (1, 2)])
    cells = {(subset, "test"): [frame(run).assign(rank=1)] for subset in ("de", "en")}
    judged = compute_metrics(cells, dict.fromkeys(cells, qrels), {}, main)
    own = measure(main)
    value = by_unit(frame(run), qrels, own)["value"].mean()
    assert judged.mains == {cell: pytest.approx(value, abs=1e-15) for cell in cells}
    assert judged.summary[main] == pytest.approx(value, abs=1e-15)
    assert (main in judged.per_query.columns) == (unit(own) == "query")


def test_p_mrr_is_a_metric_like_the_others_whose_unit_is_a_pair() -> None:
    run: Run = {"1-og": {"a": 2.0, "b": 1.0}, "1-changed": {"a": 1.0, "b": 2.0}}
    found = by_unit(frame(run), {"1": {"a": 0}}, measure("p-MRR"))  # `a` falls from the first place to the second
    assert found.to_dict("records") == [{"query_id": "1", "value": 0.5}]
    assert unit(measure("p-MRR")) == "pair"


def test_a_main_score_that_is_not_known_has_no_value() -> None:
    run, qrels = made(2, ["a", "b"])
    cells: Any = {("default", "test"): [frame(run).assign(rank=1)]}
    assert compute_metrics(cells, {("default", "test"): qrels}, {}, "new_of_mteb").mains == {}


def test_sums_in_another_order_are_shown_alike() -> None:
    values = [0.1, 0.7, 0.3, 0.5, 0.2, 0.9, 0.60125]
    orders = [values, values[::-1], sorted(values)]
    assert len({sum(order) for order in orders}) > 1
    assert len({percent(sum(order) / 10) for order in orders}) == 1
    for half in (0.644045, 0.00115, 0.12345, 0.67895):
        near = {half, np.nextafter(half, 0), np.nextafter(half, 1), half + 1e-14, half - 1e-14}
        assert len({percent(one) for one in near}) == 1
        assert {two_digits(100 * one) for one in near} == {percent(half)}
    assert percent(0.6440450758986255) == "64.40"
    assert percent(-1e-15, "+") == "+0.00"


def test_no_other_place_rounds_a_score() -> None:
    """One rounding, from the unrounded value: leaderboard, comparison, report and screen cannot disagree."""
    files = [
        *(SOURCES / "analysis").rglob("*.py"),
        *(SOURCES / "pipeline").rglob("*.py"),
        *(SOURCES / "session").rglob("*.py"),
    ]
    files = [path for path in files if path.name not in {"estimate_table.py"}]  # counts and prices
    found = [(path.name, line) for path in files for line in re.findall(r".*(?:\.2f|round\(100).*", path.read_text())]
    assert found == []
