from __future__ import annotations

from pathlib import Path

import ir_measures
import numpy as np
import pandas as pd
import pytest
import pytrec_eval

from rerank_eval.errors import DataError
from rerank_eval.metrics.per_query import per_query
from rerank_eval.results.trec import read_qrels, read_run, write_qrels, write_run


def scores(seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    rows = [
        (f"q{query}", f"d{document}", float(score))
        for query in range(20)
        for document, score in enumerate(generator.normal(size=30).round(1))  # rounded: plenty of ties
    ]
    return pd.DataFrame(rows, columns=["query_id", "doc_id", "score"])


def test_every_tool_reads_the_same_numbers_back(tmp_path: Path) -> None:
    frame = scores()
    qrels = {f"q{query}": {f"d{query}": 2, f"d{query + 5}": 1} for query in range(20)}
    run_file, qrels_file = tmp_path / "a.trec", tmp_path / "a.qrels"
    write_run(run_file, frame, "test")
    write_qrels(qrels_file, qrels)
    ours = per_query(frame, qrels).set_index("query_id")["ndcg_at_10"]
    with run_file.open() as run, qrels_file.open() as judged:
        evaluator = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(judged), {"ndcg_cut.10"})
        theirs = {
            query: value["ndcg_cut_10"] for query, value in evaluator.evaluate(pytrec_eval.parse_run(run)).items()
        }
    assert ours.to_dict() == pytest.approx(theirs)
    measured = ir_measures.iter_calc(
        [ir_measures.nDCG @ 10],
        ir_measures.read_trec_qrels(str(qrels_file)),
        ir_measures.read_trec_run(str(run_file)),
    )
    assert ours.to_dict() == pytest.approx({metric.query_id: metric.value for metric in measured})


def test_scores_come_back_bit_for_bit_and_ranks_follow_the_evaluator(tmp_path: Path) -> None:
    frame = scores(1)
    frame["score"] = frame["score"] / 3
    write_run(tmp_path / "a.trec", frame, "test")
    back = read_run(tmp_path / "a.trec")
    merged = back.merge(frame, on=["query_id", "doc_id"], suffixes=("", "_given"))
    assert (merged["score"] == merged["score_given"]).all()
    assert len(merged) == len(frame)
    for _, group in back.groupby("query_id"):
        assert group["rank"].tolist() == list(range(1, len(group) + 1))
        keys = list(zip(group["score"].astype(np.float32), group["doc_id"], strict=True))
        assert keys == sorted(keys, reverse=True)


def test_what_ties_in_32_bits_is_ranked_by_id(tmp_path: Path) -> None:
    frame = pd.DataFrame([("q", "a", 1 + 1e-9), ("q", "b", 1.0)], columns=["query_id", "doc_id", "score"])
    write_run(tmp_path / "a.trec", frame, "t")
    assert (tmp_path / "a.trec").read_text() == "q Q0 b 1 1.0 t\nq Q0 a 2 1.000000001 t\n"


@pytest.mark.parametrize(
    ("identifier", "written"),
    [("a b", "a%20b"), ("a\tb", "a%09b"), ("a\u2003b", "a%E2%80%83b"), ("50% x", "50%25%20x"), ("50%", "50%")],
)
def test_white_space_in_an_id_is_written_so_that_the_format_can_hold_it(
    tmp_path: Path, identifier: str, written: str
) -> None:
    """Ids of hub data are not the user's to rename, and hours of inference would be lost with an error."""
    frame = pd.DataFrame([("q", identifier, 1.0)], columns=["query_id", "doc_id", "score"])
    write_run(tmp_path / "a.trec", frame, "test")
    assert read_run(tmp_path / "a.trec")["doc_id"].tolist() == [written]


def test_an_empty_id_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame([("q", "", 1.0)], columns=["query_id", "doc_id", "score"])
    with pytest.raises(DataError, match="a doc_id is empty"):
        write_run(tmp_path / "a.trec", frame, "test")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q Q0 d 1 0.5\n", "a.trec:1: 5 fields"),
        ("q Q0 d 1 0.5 t\nq Q0 d x 0.5 t\n", "a.trec:2: rank or score"),
        ("q Q0 d 1 high t\n", "a.trec:1: rank or score"),
        ("q Q0 d 1 nan t\n", "a.trec:1: the score is nan"),
        (f"q Q0 d {'2' * 200} 0.5 t\n", "a.trec:1: rank 2222"),
        ("q Q0 d 1 0.5 t\n\np Q0 d 1 0.5 t\nq Q0 d 2 0.4 t\n", "a.trec:4: document 'd' stands twice for 'q'"),
    ],
)
def test_a_malformed_run_names_the_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.trec").write_text(text)
    with pytest.raises(DataError, match=words):
        read_run(tmp_path / "a.trec")


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    good = pd.DataFrame([("q", "d", 1.0)], columns=["query_id", "doc_id", "score"])
    with pytest.raises(DataError, match=r"tag 'my model' .* white space"):
        write_run(tmp_path / "a.trec", good, "my model")
    with pytest.raises(DataError, match="query 'q', document 'd': the score is nan"):
        write_run(tmp_path / "a.trec", good.assign(score=np.nan), "t")
    with pytest.raises(DataError, match="doc_id 'd e'"):
        write_qrels(tmp_path / "a.qrels", {"q": {"d e": 1}})
    with pytest.raises(DataError, match="query_id ''"):
        write_qrels(tmp_path / "a.qrels", {"": {"d": 1}})
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_run(tmp_path)
    (tmp_path / "a.trec").write_bytes(b"q Q0 \xff 1 0.5 t\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_run(tmp_path / "a.trec")


def test_an_empty_run_has_the_columns(tmp_path: Path) -> None:
    write_run(tmp_path / "a.trec", scores().iloc[:0], "t")
    back = read_run(tmp_path / "a.trec")
    assert (len(back), list(back.columns)) == (0, ["query_id", "doc_id", "rank", "score", "tag"])
    assert (back["rank"].dtype, back["score"].dtype) == (np.int64, np.float64)


def test_a_missing_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such run"):
        read_run(tmp_path / "a.trec")


@pytest.mark.parametrize("value", ["1" * 40, "-1001", "1001"])
def test_a_relevance_that_trec_eval_cannot_count_is_named(value: str, tmp_path: Path) -> None:
    (tmp_path / "a.qrels").write_text(f"q 0 d 1\nq 0 e {value}\n")
    with pytest.raises(DataError, match=r"a.qrels:2: the score .* is no grade of relevance; .* within 1000"):
        read_qrels(tmp_path / "a.qrels")


@pytest.mark.parametrize(("scores", "told"), [((3.0, 2.0, 1.0), 0), ((0.5, 0.5, 0.5), 0), ((1.0, 2.0, 3.0), 1)])
def test_ranks_that_contradict_the_scores_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, scores: tuple[float, ...], told: int
) -> None:
    """A run of distances: the nearest document has rank 1 and the smallest score."""
    path = tmp_path / "run.trec"
    path.write_text("".join(f"q Q0 d{rank} {rank} {score} x\n" for rank, score in enumerate(scores, start=1)))
    frame = read_run(path)
    assert frame["rank"].tolist() == [1, 2, 3]
    assert len(caplog.messages) == told
    assert all("the ranks of 1 of 1 queries, such as 'q'" in message for message in caplog.messages)


def test_a_byte_order_mark_belongs_to_no_query(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_bytes(b"\xef\xbb\xbfq Q0 d1 1 2.0 x\nq Q0 d2 2 1.0 x\n")
    assert read_run(path)["query_id"].tolist() == ["q", "q"]
    path.write_text("q Q0 d1 1 1_0.5 x\n")
    with pytest.raises(DataError, match="rank or score is not a number"):
        read_run(path)
