"""Judgements as other tools and people write them: by header in any order, TREC's, gzipped, with comments."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import ir_measures
import pytest

from rerank_eval.errors import DataError
from rerank_eval.metrics.qrels import read_judgements
from rerank_eval.results.trec import read_qrels

RIGHT = {"q1": {"d1": 2, "d2": 0}, "q2": {"d3": 1}}


def written(tmp_path: Path, text: str, name: str = "test.tsv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td3\t1\n",
        "score\tcorpus-id\tquery-id\n2\td1\tq1\n0\td2\tq1\n1\td3\tq2\n",
        "query-id\tscore\tcorpus-id\nq1\t2\td1\nq1\t0\td2\nq2\t1\td3\n",
        "Query ID\tCorpus_ID\tScore\nq1\td1\t2\nq1\td2\t0\nq2\td3\t1\n",
        "qid pid rel\nq1 d1 2\nq1 d2 0\nq2 d3 1\n",
        "qid iter docid label\nq1 0 d1 2\nq1 0 d2 0\nq2 0 d3 1\n",
        "qid\tdocno\trelevance\nq1 d1 2\nq1 d2 0\nq2 d3 1\n",
        "topic Q0 doc_id grade\nq1 Q0 d1 2\nq1 Q0 d2 0\nq2 Q0 d3 1\n",
        "q1\td1\t2\nq1\td2\t0\nq2\td3\t1\n",
        "q1 d1 2\nq1 d2 0\nq2 d3 1\n",
        "q1 0 d1 2\nq1 0 d2 0\nq2 0 d3 1\n",
        "q1\t0\td1\t2\nq1 Q0 d2 0\nq2 0\td3  1\n",
        "q1 0 d1 2.0\nq1 0 d2 0.\nq2 0 d3 1e0\n",
        "# judged by hand\n\nq1 0 d1 2\n#q1 0 d9 1\nq1 0 d2 0\n   \nq2 0 d3 1\n# end",
        "#qid\trel\tdocid\nq1\t2\td1\nq1\t0\td2\nq2\t1\td3\n",
        "\ufeffquery-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td3\t1\n",
        "q1 0 d1 2\r\nq1 0 d2 0\r\nq2 0 d3 1\r\n",
        "q1 0 d1 2\nq1 0 d2 0\nq2 0 d3 1\nq2 0 d3 1\n",
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_way_of_writing_the_same_judgements(tmp_path: Path, text: str, packed: bool) -> None:
    path = written(tmp_path, text)
    if packed:
        path = tmp_path / "test.qrels.gz"
        path.write_bytes(gzip.compress(text.encode()))
    assert read_qrels(path) == RIGHT
    assert read_judgements(path).places["q2", "d3"] == min(
        number for number, line in enumerate(text.splitlines(), start=1) if "d3" in line
    )


def test_a_column_that_says_nothing_about_relevance_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The row of the table: an annotator's number stood where the grade was looked for."""
    logging.getLogger("rerank_eval").propagate = True
    lines = ["query-id\tcorpus-id\tscore\tannotator", "q1\td1\t2\t4", "q1\td2\t0\t3", "q2\td3\t1\t0"]
    with caplog.at_level("WARNING", logger="rerank_eval"):
        assert read_qrels(written(tmp_path, "\n".join(lines))) == RIGHT
    told = {id(record): record for record in caplog.records}  # a log that another test opened may hold each twice
    assert [record.getMessage().split(": ", 1)[1] for record in told.values()] == [
        "the column(s) 'annotator' are left out: they say nothing about relevance"
    ]


def test_a_judgement_that_stands_twice_is_told_and_counts_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("rerank_eval").propagate = True
    with caplog.at_level("WARNING", logger="rerank_eval"):
        read_qrels(written(tmp_path, "q1 0 d1 2\nq1 0 d1 2\nq1 0 d1 2.0\n"))
    assert "2 line(s) repeat a judgement, and count once" in caplog.text


@pytest.mark.parametrize("query", ["qid", "query-id", "query", "topic"])
def test_a_query_may_be_called_like_a_column(tmp_path: Path, query: str) -> None:
    assert read_qrels(written(tmp_path, f"{query} docid 1\nq2 d3 1\n")) == {query: {"docid": 1}, "q2": {"d3": 1}}
    assert read_qrels(written(tmp_path, f"{query} 0 docid 1\n")) == {query: {"docid": 1}}
    named = f"query-id\tcorpus-id\tscore\n{query}\tdocid\t1\n"
    assert read_qrels(written(tmp_path, named)) == {query: {"docid": 1}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\tb\tc\td\n1\t2\t3\t4\n", r":1: the header has the unknown 'a', 'b', 'c', 'd' and no column for the query"),
        ("query-id\tcorpus-id\tmark\nq\td\t1\n", r":1: the header has the unknown 'mark' and no column for the grade;"),
        ("query-id\tcorpus-id\nq\td\n", r":1: the header has none for the grade; name the columns query-id"),
        ("qid\tdocid\tscore\tlabel\nq\td\t1\t1\n", r":1: the header has 2 columns for the grade, 'score', 'label'"),
        ("qid\tdocid\trel\nq\td\n", r":2: 2 columns; the header has 3: qid, docid, rel"),
        ("qid\tdocid\trel\nq\td\t1\t7\n", r":2: 4 columns; the header has 3"),
        ("qid\tdocid\trel\nq 1\td\t1\n", r":2: the id 'q 1' holds white space"),
        ("qid\tdocid\trel\n\td\t1\n", r":2: names no query"),
        ("0\t3\t1\t2\n1\t4\t1\t3\n", r": four columns without a header .* has 2 values and the third 1; name"),
        ("q1 0\td1\t1\n", r":1: can be read in two ways, by its tabs and by its blanks"),
        ("q1 d1 3 2\n", r":1: four columns without a header are TREC's, whose second is the iteration .* not 'd1'"),
        ("q1 d1 1\nq1 d1\n", r":2: 2 columns; expected"),
        ("q1 0 d1 1\nq1 0 d1 0\n", r":2: 'q1', 'd1' is judged twice, and differently: 1 in line 1, 0 here"),
        ("q1 d1 1\nq1 d2 0.5\n", r":2: the score '0.5' is not a whole number"),
        ("q1 d1 1\nq1 d2 1_0\n", r":2: the score '1_0' is not a number"),
        ("q1 d1 1\nq1 d2 \uff11\n", r":2: the score '.' is not a number"),
        ("q1 d1 1\nq1 d2\0 1\n", r":2: holds a NUL"),
        ("q1 d1 1\nx\ny\nq1 d2 z\n", r":2: 1 columns.* \(and 2 more\)"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=rf"test\.tsv{words}") as caught:
        read_qrels(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"q1 0 \xff 1\n")
    with pytest.raises(DataError, match=r"a:1: not UTF-8"):
        read_qrels(tmp_path / "a")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="cannot be read"):
            read_qrels(path)
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"q1 0 d1 1\n" * 99)[:20])
    with pytest.raises(DataError, match="not a whole gzip file"):
        read_qrels(tmp_path / "a.gz")


def test_what_ir_measures_reads_is_read_alike(tmp_path: Path) -> None:
    path = written(tmp_path, "q1 0 d1 2\nq1\tQ0\td2\t-1\n\nq2 1 d3 1\n")
    theirs: dict[str, dict[str, int]] = {}
    for one in ir_measures.read_trec_qrels(str(path)):
        theirs.setdefault(one.query_id, {})[one.doc_id] = one.relevance
    assert read_qrels(path) == theirs


@pytest.mark.parametrize("comment", ["# relevance of each passage to its topic", "# query doc rel by assessor"])
def test_prose_in_a_comment_is_no_header(tmp_path: Path, comment: str) -> None:
    assert read_qrels(written(tmp_path, f"{comment}\nq1 0 d1 1\n")) == {"q1": {"d1": 1}}


def test_rounds_of_trec_covid_are_iterations(tmp_path: Path) -> None:
    assert read_qrels(written(tmp_path, "1 4.5 d1 2\n1 1 d2 0\n2 0.5 d3 1\n")) == {
        "1": {"d1": 2, "d2": 0},
        "2": {"d3": 1},
    }
