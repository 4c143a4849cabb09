"""What comes from outside never acts: not on a terminal, in a log, in a spreadsheet, in Markdown or in LaTeX."""

from __future__ import annotations

import csv
import io
import logging
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from rerank_eval.tables import csv_text, escape_latex, escape_markdown
from rerank_eval.visible import VisibleFormatter, make_console, visible

TITLE = "\x1b]0;owned\x07"
CLIPBOARD = "\x1b]52;c;Y3VybA==\x07"
REVERSED = "\u202egnp.exe\u202c"
C1 = "\x9b31mred\x9b0m"


@pytest.mark.parametrize(
    "text", [TITLE, CLIPBOARD, REVERSED, C1, "a\rb", "\x00", "\u2066x\u2069", "\ufeffid", "\ud800"]
)
def test_acting_characters_are_written_out(text: str) -> None:
    shown = visible(text)
    assert all(character.isprintable() for character in shown)
    assert "\\" in shown


@pytest.mark.parametrize(
    "text", ["", "plain", "two\nlines\twith a tab", "日本語 العربية עברית", "👩‍💻", "re\u00adhyphen", "\\x1b"]
)
def test_other_texts_stay(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize("live", [False, True])
@given(text=st.text() | st.sampled_from([TITLE, CLIPBOARD, REVERSED, C1, "[red]x[/]", "[link=file:///etc]x[/link]"]))
def test_a_console_obeys_nothing_that_is_printed(live: bool, text: str) -> None:
    out = io.StringIO()
    console = make_console(file=out, force_terminal=live, width=60, soft_wrap=True)
    console.print(text, markup=False)
    table = Table("id")
    table.add_row(Text(text))
    console.print(table)
    console.print(Text(text, style="bold"))
    printed = out.getvalue()
    if live:
        printed = re.sub(r"\x1b\[[0-9;]*m", "", printed)  # the console's own styles
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", printed)


def test_styles_of_our_own_stay() -> None:
    out = io.StringIO()
    make_console(file=out, force_terminal=True).print("[bold]x[/]")
    assert "\x1b[1m" in out.getvalue()


def test_a_log_line_is_written_out() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "query %s", (TITLE,), None)
    assert VisibleFormatter("%(message)s").format(record) == "query \\x1b]0;owned\\x07"


def test_no_cell_is_a_formula() -> None:
    names = ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\tx", "plain", "a=b"]
    frame = pd.DataFrame({"=head": names, "score": [-1.5, 2.0, 0.0, 1e-300, float("nan"), 1.0, 2.0]})
    rows = list(csv.reader(io.StringIO(csv_text(frame))))
    assert rows[0] == ["'=head", "score"]
    assert [row[0] for row in rows[1:]] == [f"'{name}" for name in names[:5]] + names[5:]
    assert rows[1][1] == "-1.5"


def test_a_plain_frame_is_written_as_pandas_writes_it() -> None:
    frame = pd.DataFrame(
        {"name": ["a", None, "b"], "n": [1, 2, 3], "x": [0.1, float("nan"), -3.0], "b": [True, False, True]}
    )
    assert csv_text(frame) == frame.to_csv(index=False, lineterminator="\n")


@pytest.mark.parametrize(
    "text", ["a|b", "a\n\n# Heading", "[x](http://y)", "![x](y)", "<script>", "`x`", "**x**", TITLE]
)
def test_markdown_cells_stay_text(text: str) -> None:
    shown = escape_markdown(text)
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert not re.search(r"(?<!\\)[|\[\]<>`*]", shown)


@pytest.mark.parametrize("text", [r"\input{/etc/passwd}", "a & b % c $x$ #1 _ {y} ~ ^", "a\n\nb", "\x00"])
def test_latex_cells_stay_text(text: str) -> None:
    shown = escape_latex(text)
    assert "\n" not in shown
    plain = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textbar|textless|textgreater)\{\}", "", shown)
    plain = re.sub(r"\\[&%$#_{}]", "", plain)
    assert "\\" not in plain
    assert not set(plain) & set("&%$#_~^\x00")
