"""Where pytrec_eval, ir_measures and mteb agree on judgements and runs, so do we; docs/data.md lists it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ir_measures
import pandas as pd
import pytest
import pytrec_eval
from ir_measures import RR, R, nDCG
from mteb._create_dataloaders import _corpus_to_dict
from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

from rerank_eval.cli import _run
from rerank_eval.metrics.per_query import per_query, summarise
from rerank_eval.rerankers.rerank_search import _texts
from tests.pipeline.folders import write_beir_folder

Nested = dict[str, dict[str, Any]]
Three = tuple[float, float, float]
"""Means of nDCG@10, recall@100 and the reciprocal rank."""


def ours(qrels: Nested, run: Nested) -> Three:
    rows = [(query, document, score) for query, own in run.items() for document, score in own.items()]
    summary = summarise(per_query(pd.DataFrame(rows, columns=["query_id", "doc_id", "score"]), qrels))
    return summary["ndcg_at_10"], summary["recall_at_100"], summary["mrr"]


def by_pytrec_eval(qrels: Nested, run: Nested) -> Three:
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100", "recip_rank"}).evaluate(run)
    names = ("ndcg_cut_10", "recall_100", "recip_rank")
    a, b, c = (sum(own[name] for own in found.values()) / len(found) for name in names)
    return a, b, c


def by_ir_measures(qrels: Nested, run: Nested) -> Three:
    found = ir_measures.calc_aggregate([nDCG @ 10, R @ 100, RR], qrels, run)
    return found[nDCG @ 10], found[R @ 100], found[RR]


def by_mteb(qrels: Nested, run: Nested) -> Three:
    found = calculate_retrieval_scores({query: dict(own) for query, own in run.items()}, qrels, [10, 100])
    return found.ndcg["NDCG@10"], found.recall["Recall@100"], found.mrr["MRR@100"]


ALL = (by_pytrec_eval, by_ir_measures, by_mteb)


@pytest.mark.parametrize(
    ("qrels", "run", "expected"),
    [
        pytest.param(
            {"a": {"x": 1, "gone": 1}},
            {"a": {"x": 1.0}},
            (1 / (1 + 1 / math.log2(3)), 0.5, 1.0),
            id="a judged document that is not in the corpus counts in the ideal gain and in recall",
        ),
        pytest.param(
            {"a": {"x": 1, "gone": 0}},
            {"a": {"x": 1.0}},
            (1.0, 1.0, 1.0),
            id="one judged 0 that is not there changes nothing",
        ),
        pytest.param(
            {"a": {"x": 1}, "b": {"x": 0}},
            {"a": {"x": 1.0}, "b": {"x": 1.0}},
            (0.5, 0.5, 0.5),
            id="a query whose judgements are all 0 counts 0",
        ),
        pytest.param(
            {"a": {"x": 1, "y": -1, "z": 2}},
            {"a": {"y": 3.0, "x": 2.0, "z": 1.0}},
            ((1 / math.log2(3) + 1) / (2 + 1 / math.log2(3)), 1.0, 0.5),
            id="a negative grade gains nothing and costs nothing",
        ),
        pytest.param(
            {"a": {"x": 1}},
            {"a": {"x": 1.0, "y": 1.0, "b": 1.0}},
            (1 / math.log2(3), 1.0, 0.5),
            id="the larger document id wins a tie",
        ),
        pytest.param(
            {"a": {"x": 3, "y": 1}},
            {"a": {"y": 2.0, "x": 1.0}},
            ((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)), 1.0, 1.0),
            id="gain is linear",
        ),
        pytest.param(
            {"a": {"x": 1}, "b": {"x": 1}},
            {"a": {"x": 1.0}, "b": {}},
            (0.5, 0.5, 0.5),
            id="a query that is there without candidates counts 0",
        ),
    ],
)
def test_all_agree(qrels: Nested, run: Nested, expected: Three) -> None:
    for tool in (ours, *ALL):
        assert tool(qrels, run) == pytest.approx(expected, abs=1e-5), tool.__name__


def test_a_query_that_a_run_lacks_counts_0_as_in_ir_measures_and_mteb_s_tasks() -> None:
    """pytrec_eval averages over the queries that were answered; mteb's tasks always answer, if with nothing."""
    qrels, run = {"a": {"x": 1}, "b": {"x": 1}}, {"a": {"x": 1.0}}
    assert ours(qrels, run) == by_ir_measures(qrels, run) == (0.5, 0.5, 0.5)
    assert by_pytrec_eval(qrels, run) == by_mteb(qrels, run) == (1.0, 1.0, 1.0)
    assert by_mteb(qrels, {**run, "b": {}}) == (0.5, 0.5, 0.5)


def test_a_query_without_judgements_is_left_out() -> None:
    """mteb's tasks leave it out before they score; its metrics alone end with a KeyError."""
    qrels, run = {"a": {"x": 1}}, {"a": {"x": 1.0}, "b": {"x": 1.0}}
    assert ours(qrels, run) == by_pytrec_eval(qrels, run) == by_ir_measures(qrels, run) == (1.0, 1.0, 1.0)
    with pytest.raises(KeyError):
        by_mteb(qrels, run)


def test_ties_are_of_32_bits_in_all_but_mteb_s_reciprocal_rank() -> None:
    qrels, run = {"a": {"x": 1}}, {"a": {"x": 1.0 + 1e-9, "y": 1.0}}
    expected = (1 / math.log2(3), 1.0, 0.5)
    for tool in (ours, by_pytrec_eval, by_ir_measures):
        assert tool(qrels, run) == pytest.approx(expected)
    assert by_mteb(qrels, run) == pytest.approx((expected[0], 1.0, 1.0), abs=1e-5)


def test_title_and_text_are_joined_as_mteb_joins_them() -> None:
    from datasets import Dataset

    corpus = Dataset.from_list([{"id": "1", "title": "T", "text": "x"}, {"id": "2", "title": "", "text": " x"}])
    assert _texts(corpus, [0, 1]) == ["T x", "x"] == [_corpus_to_dict(dict(row))["text"] for row in corpus]


def test_a_few_unknown_ids_in_a_folder_are_told_counted_and_scored_as_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """BEIR's own ArguAna judges a document that is not there."""
    monkeypatch.chdir(tmp_path)
    folder = write_beir_folder(tmp_path / "tools", queries=24)
    (tmp_path / "run.yaml").write_text(
        json.dumps({"tasks": ["./tools"], "retriever": {"model": "bm25"}, "reranker": None})
    )
    assert _run(["eval", "-c", "run.yaml"]) == 0
    capsys.readouterr()
    with (folder / "qrels" / "test.tsv").open("a") as handle:
        handle.write("q0\tgone\t1\nnobody\td0-0\t1\n")
    assert _run(["eval", "-c", "run.yaml"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 judged documents are not in the corpus; as in trec_eval, relevant ones stay" in shown
    assert "1 queries in the qrels are not among the queries and are left out, as mteb does (such as" in shown
    assert ", 1 judged queries that are not there left out, 1 judged documents not in the corpus" in shown
    [path] = (tmp_path / "results").glob("runs/*/*/*/manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest["data"] == {"judged_queries_missing": 1, "judged_documents_missing": 1}
    frame = pd.read_parquet(path.parent / "per_query.parquet").set_index("query_id")
    assert len(frame) == 24
    assert frame.loc["q0", "recall_at_100"] == 0.5
    assert frame.loc["q0", "n_relevant"] == 2
    assert frame.loc["q0", "oracle_ndcg_at_10"] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    official = json.loads((tmp_path / "results" / manifest["mteb_result"]).read_text())["scores"]["test"][0]
    assert official["recall_at_100"] == pytest.approx(manifest["scores"]["recall_at_100"], abs=1e-4)
    assert official["ndcg_at_10"] == pytest.approx(manifest["scores"]["ndcg_at_10"], abs=1e-4)
