from __future__ import annotations

import html
import io
import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from rerank_eval.analysis import render
from rerank_eval.analysis.tables import leaderboard
from rerank_eval.errors import ConfigError
from rerank_eval.results.records import ResultRecord, load_manifests, of_one_revision, of_present_candidates

HOSTILE = "<script>alert(1)</script> &lt; ~~s~~ a|b x_y%&#$~^\\{} [bold]*z*"


def record(**changes: Any) -> ResultRecord:
    values: dict[str, Any] = {
        "kind": "retriever",
        "label": "BM25",
        "detail": "",
        "order": 0,
        "notes": (),
        "identity": "r1",
        "candidates": "r1",
        "retriever": "BM25",
        "top_k": 100,
        "task": "A",
        "revision": "1",
        "main_score": "ndcg_at_10",
        "main": 0.5,
        "finished": 1.0,
        "recall": 0.9,
        "oracle": 0.8,
    }
    return ResultRecord(**{**values, **changes})


def reranker(**changes: Any) -> ResultRecord:
    return record(**{"kind": "reranker", "label": "R", "order": 1, "identity": "x1", **changes})


FORMATS = (render.to_markdown, render.to_csv, render.to_latex, render.to_html)
SUITES = {"S": ["A", "B"], "T": ["A", "C"]}


def test_rows_are_the_retriever_then_its_rerankers_then_the_ceilings() -> None:
    board = leaderboard(
        [
            reranker(identity="x2", order=2, detail="b", main=0.7),
            reranker(detail="a", main=0.6),
            record(),
            record(label="E", retriever="E", identity="r2", candidates="r2", order=5, main=0.55),
        ],
        {},
    )
    best, found = "ceiling: nDCG@10 of the best order", "ceiling: recall@100"
    assert board.names == ("BM25", "+ R", "+ R", best, found, "E", best, found)
    assert board.frame["Model"].tolist() == ["BM25", "R", "R", best, found, "E", best, found]
    assert board.frame["Retriever"].tolist() == ["BM25"] * 5 + ["E"] * 3
    assert board.frame["top_k"].tolist() == [100] * 8
    assert board.frame["Details"].tolist()[:3] == ["retriever alone, top 100", "a", "b"]
    assert board.frame["A"].tolist()[:5] == pytest.approx([50, 60, 70, 80, 90])
    assert board.frame["kind"].tolist() == [
        "retriever",
        "reranker",
        "reranker",
        "ceiling",
        "ceiling",
        "retriever",
        "ceiling",
        "ceiling",
    ]


def test_a_ceiling_has_a_suite_s_mean_only_where_all_of_it_is_ndcg() -> None:
    full = leaderboard([record(oracle=0.8), record(task="B", oracle=0.6, recall=0.7)], SUITES)
    assert full.frame["mean S"].tolist()[1:] == pytest.approx([70, 80])
    mixed = leaderboard([record(), record(task="B", main_score="recall_at_10")], SUITES)
    assert mixed.frame["mean S"].tolist()[0] == pytest.approx(50)
    assert mixed.frame[["B (recall@10)", "mean S"]].iloc[1:].isna().to_numpy().all()


def test_a_row_s_notes_come_from_all_its_tasks() -> None:
    notes = {"A": ("one",), "B": ("two", "one")}
    board = leaderboard([reranker(task=task, notes=own) for task, own in notes.items()] + [record()], {})
    assert board.names[1] == "+ R [1] [2]"
    assert board.notes == ("one", "two")
    assert board.frame["notes"].tolist()[1] == "one; two"


def test_the_latest_of_two_results_counts() -> None:
    records = [record(main=0.3, finished=2.0), record(main=0.9, finished=1.0)]
    assert leaderboard(records, {}).frame["A"].tolist()[0] == pytest.approx(30)
    assert leaderboard(records[::-1], {}).frame["A"].tolist()[0] == pytest.approx(30)


def test_a_task_may_be_called_like_a_column() -> None:
    board = leaderboard([record(task=name) for name in ("kind", "Model")], {})
    assert board.scores == ["Model (nDCG@10)", "kind (nDCG@10)"]


def test_a_suite_with_a_missing_task_has_no_mean() -> None:
    board = leaderboard([record(), record(task="B", main=0.7), reranker()], SUITES)
    assert board.scores == ["A", "B", "mean S"]
    assert board.frame["mean S"].tolist()[0] == pytest.approx(60)
    assert math.isnan(board.frame["mean S"].tolist()[1])


def test_the_mean_of_a_mixed_suite_leaves_p_mrr_out_and_says_so() -> None:
    board = leaderboard([record(), record(task="B", main_score="p-MRR", main=-0.1)], SUITES)
    assert board.scores == ["A", "B (p-MRR)", "mean S"]
    assert board.frame["mean S"][0] == pytest.approx(50)
    assert "The mean of S leaves p-MRR out" in board.caption
    only = leaderboard(
        [record(task="A", main_score="p-MRR", main=0.1), record(task="B", main_score="p-MRR", main=0.2)], SUITES
    )
    assert only.frame["mean S"][0] == pytest.approx(15)


def test_a_missing_cell_is_a_dash_never_a_zero() -> None:
    board = leaderboard([record(), record(task="B"), reranker(main=0.0)], {})
    row = next(line for line in render.to_markdown(board).splitlines() if line.startswith("| + R"))
    assert [cell.strip() for cell in row.split("|")[3:5]] == ["0.00", "–"]
    assert ",0.0,\n" in render.to_csv(board)


def test_the_best_is_bold_among_real_rows_only() -> None:
    board = leaderboard([record(main=0.5), reranker(main=0.6)], {})
    assert render.to_markdown(board).count("**") == 2
    assert "**60.00**" in render.to_markdown(board)
    level = leaderboard([record(main=0.5, oracle=0.6), reranker(main=0.6)], {})  # a reranker that reached the ceiling
    assert render.to_markdown(level).count("**60.00**") == 1
    assert r"\textit{60.00}" in render.to_latex(level)
    assert render.to_html(level).count("<strong>") == 1
    assert r"\textbf{60.00}" in render.to_latex(board)
    assert "<strong>60.00</strong>" in render.to_html(board)


def test_notes_are_numbered_and_told_in_every_format() -> None:
    board = leaderboard([record(), reranker(notes=("random weights: noise",))], {})
    console = Console(file=io.StringIO(), width=100)
    console.print(render.to_rich(board))
    for text in (console.file.getvalue(), render.to_markdown(board), render.to_latex(board), render.to_html(board)):
        assert "random weights: noise" in text
    assert "+ R [1]" in console.file.getvalue()
    assert pd.read_csv(io.StringIO(render.to_csv(board)))["notes"].tolist()[1] == "random weights: noise"


TASKS = {"PyFunctionRetrieval": "ndcg_at_10", "PyModuleRetrieval": "ndcg_at_10", "PyInstructionRetrieval": "p-MRR"}
MTEB_R = [
    *["ArguAna", "CQADupstackGamingRetrieval", "CQADupstackUnixRetrieval", "ClimateFEVERHardNegatives"],
    *["FEVERHardNegatives", "FiQA2018", "HotpotQAHardNegatives", "SCIDOCS", "TRECCOVID", "Touche2020Retrieval.v3"],
]


@pytest.mark.parametrize("soft_wrap", [True, False])
@pytest.mark.parametrize(
    ("width", "tables", "tasks"),
    [(100, 1, TASKS), (80, 2, TASKS), (60, 2, TASKS), (100, 3, dict.fromkeys(MTEB_R, "ndcg_at_10"))],
)
def test_the_terminal_shows_every_number_whole(width: int, tables: int, tasks: dict[str, str], soft_wrap: bool) -> None:
    rows = []
    for place, (task, score) in enumerate(tasks.items()):
        same = {"task": task, "main_score": score}
        rows.append(record(label="all-MiniLM-L6-v2", main=0.1111 + place / 100, **same))
        detail = "instruction=task, bfloat16, max_length=8192"
        rows.append(reranker(label="Qwen3-Reranker-0.6B", detail=detail, main=0.5111 + place / 100, **same))
    board = leaderboard(rows, {"Embedded": list(tasks)})
    console = Console(file=io.StringIO(), width=width, soft_wrap=soft_wrap)
    console.print(render.to_rich(board))
    printed = console.file.getvalue()
    assert max(len(line.rstrip()) for line in printed.splitlines()) <= width
    assert printed.count("Model ") == tables
    words = printed.split()
    for value in board.frame[board.scores].iloc[:2].to_numpy().ravel():
        assert f"{value:.2f}" in words
    assert "mean Embedded" in " ".join(words)


def test_results_on_other_data_are_left_out() -> None:
    old, new = record(revision="1", finished=1.0), reranker(revision="2", finished=2.0)
    assert of_one_revision([new, old], {}) == ([new], [old])
    assert of_one_revision([new, old], {"A": "1"}) == ([old], [new])


def test_the_table_goes_between_the_markers(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{render.BEGIN}\nold\n{render.END}\nafter\n")
    board = leaderboard([record()], {})
    render.insert_markdown(board, path)
    render.insert_markdown(board, path)
    assert path.read_text() == f"before\n{render.BEGIN}\n\n{render.to_markdown(board)}\n{render.END}\nafter\n"
    path.write_text("no markers")
    with pytest.raises(ConfigError, match="leaderboard:begin"):
        render.insert_markdown(board, path)


def test_rows_that_read_alike_get_their_identity() -> None:
    board = leaderboard([record(), reranker(detail="a"), reranker(detail="a", identity="x2", order=2)], {})
    details = board.frame["Details"].tolist()
    assert details[1:3] == ["a (id x1)", "a (id x2)"]
    assert details[0] == "retriever alone, top 100"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_text_from_data_is_escaped_in_every_format() -> None:
    board = leaderboard([record(label=HOSTILE, retriever=HOSTILE, task=HOSTILE, notes=(HOSTILE,))], {})
    page = Tags()
    page.feed(render.to_html(board))
    assert "script" not in page.tags
    assert any(HOSTILE in text for text in page.text)
    markdown = render.to_markdown(board)
    assert "<script" not in markdown.replace("\\<", "")
    assert {line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("|")} == {4}
    parser = MarkdownIt().enable(["table", "strikethrough"])
    back = [cell.content for cell in parser.parse(markdown) if cell.content]
    assert [parser.renderInline(text) for text in back].count(html.escape(f"{HOSTILE} [1]")) == 1
    assert r"\$" in markdown  # GitHub sets what stands between dollars as a formula
    latex = render.to_latex(board)
    assert r"\textless{}script\textgreater{}alert(1)" in latex
    assert r"a\textbar{}b x\_y\%\&\#\$\textasciitilde{}\textasciicircum{}\textbackslash{}\{\}" in latex
    back = pd.read_csv(io.StringIO(render.to_csv(board)))
    assert back["Model"][0] == HOSTILE
    assert back["notes"][0] == HOSTILE
    console = Console(file=io.StringIO(), width=400)
    console.print(render.to_rich(board))
    assert f"{HOSTILE} [1]" in console.file.getvalue()


def test_a_name_cannot_start_an_argument_of_latex_s_line_break() -> None:
    # `\\` looks for a star or [length] on the next line, too.
    lines = render.to_latex(leaderboard([record(label="[x]"), reranker()], {})).splitlines()
    assert r"{[}x{]} & retriever alone, top 100 & \textbf{50.00} \\" in lines
    assert not [line for line in lines if line.startswith(("[", "*"))]


def test_line_breaks_and_terminal_codes_do_not_get_through() -> None:
    bad = "a\nb\x1b[31m\ud800\x85c"
    board = leaderboard([record(label=bad, detail=bad, task=bad, notes=(bad,), retriever=bad)], {"s": [bad]})
    console = Console(file=io.StringIO(), width=200)
    console.print(render.to_rich(board))
    for text in (console.file.getvalue(), *(draw(board) for draw in FORMATS)):
        assert "a b [31m c" in text.replace("\\[", "[").replace("{[}", "[")
        assert not {"\x1b", "\ud800", "\x85"} & set(text)


def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path: Path) -> None:
    records = [
        record(),
        record(task="B"),
        reranker(notes=("one",)),
        reranker(identity="x2", order=2, notes=("two",)),
        record(label="E", retriever="E", identity="r2", candidates="r2"),
    ]
    texts = set()
    for order in (records, records[::-1]):
        board = leaderboard(order, SUITES)
        for path in render.write_all(board, tmp_path):
            texts.add((path.name, path.read_bytes()))
    assert len(texts) == 4


def test_a_foreign_manifest_is_skipped_with_a_warning_that_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, text in {
        "a": "{",
        "b": json.dumps({"schema": 1, "complete": True}),
        "c": "[]",
        "d": json.dumps({"schema": 9, "complete": True}),
    }.items():
        folder = tmp_path / "runs" / "x" / "y" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(text)
    import logging

    logging.getLogger("rerank_eval").propagate = True
    with caplog.at_level("WARNING", logger="rerank_eval"):
        assert load_manifests(tmp_path) == []
    assert "y/a/manifest.json" in caplog.text
    assert "y/b/manifest.json" in caplog.text


def test_analysis_never_imports_torch_or_mteb() -> None:
    code = (
        "import sys, rerank_eval.metrics.per_query, rerank_eval.results.trec, rerank_eval.analysis.tables, "
        "rerank_eval.analysis.render, rerank_eval.results.records\n"
        "print([name for name in ('torch', 'mteb', 'transformers', 'sentence_transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_reranking_of_candidates_that_have_changed_is_left_out() -> None:
    first = record(digest="new")
    stale, fresh = reranker(made_from="old"), reranker(identity="x2", made_from="new")
    elsewhere = reranker(candidates="r9", made_from="old")  # its retriever's row is not here
    kept, left_out = of_present_candidates([first, stale, fresh, elsewhere])
    assert kept == [first, fresh, elsewhere]
    assert left_out == [stale]


@pytest.mark.parametrize(("top_k", "shown"), [(100, True), (300, False)])
def test_recall_at_100_is_a_ceiling_only_of_100_candidates(top_k: int, shown: bool) -> None:
    board = leaderboard([record(top_k=top_k), reranker(top_k=top_k)], {})
    assert ("ceiling: recall@100" in board.frame["Model"].tolist()) == shown
