"""Renders a leaderboard for the terminal, Markdown, CSV, LaTeX and HTML; every text from data is escaped."""

from __future__ import annotations

import math
import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from tabulate import tabulate

from rerank_eval.analysis.tables import DETAIL, KIND, MODEL, Leaderboard
from rerank_eval.errors import ConfigError
from rerank_eval.files import write_text

MISSING = "–"
BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"
_PARTS = re.compile(r"\([^)]*\)|[A-Z]+[^A-Z (]*|[^A-Z (]+| +|\(")
_HEAD_WIDTH = 14
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "×": r"$\times$",
}


def _number(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.2f}"


def _is_best(board: Leaderboard, row: int, column: str) -> bool:
    # Compared as shown: two scores that print alike are both best.
    value = float(board.frame[column].iloc[row])
    return board.frame[KIND].iloc[row] != "ceiling" and _number(value) == _number(board.best(column)) != MISSING


def to_rich(board: Leaderboard) -> Table:
    """Render for the terminal; long heads wrap."""
    table = Table(caption=_caption(board), caption_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(MODEL, overflow="fold", min_width=20)
    table.add_column(DETAIL, overflow="fold", min_width=20)
    for column in board.scores:
        table.add_column(escape(_wrapped(column)), justify="right", overflow="fold", min_width=6)
    kinds = board.frame[KIND].tolist()
    for row, kind in enumerate(kinds):
        texts = [escape(str(board.frame[column].iloc[row])) for column in (MODEL, DETAIL)]
        cells = []
        for column in board.scores:
            text = _number(float(board.frame[column].iloc[row]))
            cells.append(f"[bold]{text}[/]" if _is_best(board, row, column) else text)
        last = row + 1 == len(kinds) or kinds[row + 1] == "retriever"
        table.add_row(*texts, *cells, style="dim italic" if kind == "ceiling" else "", end_section=last)
    return table


def _wrapped(head: str) -> str:
    """Break a long head at its inner capitals and blanks, so that columns of numbers stay narrow."""
    lines = [""]
    for part in _PARTS.findall(head):
        if len(lines[-1]) + len(part) > _HEAD_WIDTH and lines[-1]:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def _caption(board: Leaderboard) -> str:
    return escape("\n".join([board.caption, *_footnotes(board)]))


def _footnotes(board: Leaderboard) -> list[str]:
    return [f"[{number}] {note}" for number, note in enumerate(board.notes, start=1)]


def to_markdown(board: Leaderboard) -> str:
    """Render as a Markdown table with caption and footnotes."""

    def plain(text: str) -> str:
        for special in "\\`*_[]<>|":
            text = text.replace(special, f"\\{special}")
        return text

    rows = []
    for row in range(len(board.frame)):
        ceiling = board.frame[KIND].iloc[row] == "ceiling"
        texts = [plain(str(board.frame[column].iloc[row])) for column in (MODEL, DETAIL)]
        cells = []
        for column in board.scores:
            text = _number(float(board.frame[column].iloc[row]))
            cells.append(f"**{text}**" if _is_best(board, row, column) else text)
        rows.append([f"*{text}*" if ceiling and text else text for text in (*texts, *cells)])
    heads = [plain(column) for column in (MODEL, DETAIL, *board.scores)]
    align = ["left", "left", *["right"] * len(board.scores)]
    table = tabulate(rows, headers=heads, tablefmt="pipe", colalign=align, disable_numparse=True)
    return "\n\n".join([table, plain(board.caption), *(plain(note) for note in _footnotes(board))]) + "\n"


def to_csv(board: Leaderboard) -> str:
    """Render as CSV at full precision, ceilings and identities included; a missing score is empty."""
    return str(board.frame.to_csv(index=False, lineterminator="\n"))


def to_latex(board: Leaderboard) -> str:
    """Render as a LaTeX table for the `booktabs` package, best scores in bold."""

    def plain(text: str) -> str:
        return "".join(_LATEX.get(character, character) for character in text)

    columns = ["l", "l", *["r"] * len(board.scores)]
    heads = " & ".join(plain(column) for column in (MODEL, DETAIL, *board.scores))
    lines = [r"% needs \usepackage{booktabs}", r"\begin{tabular}{" + "".join(columns) + "}", r"\toprule"]
    lines += [heads + r" \\", r"\midrule"]
    kinds = board.frame[KIND].tolist()
    for row, kind in enumerate(kinds):
        if row and kind == "retriever":
            lines.append(r"\midrule")
        cells = [plain(str(board.frame[column].iloc[row])) for column in (MODEL, DETAIL)]
        for column in board.scores:
            text = plain(_number(float(board.frame[column].iloc[row])))
            cells.append(rf"\textbf{{{text}}}" if _is_best(board, row, column) else text)
        if kind == "ceiling":
            cells = [rf"\textit{{{cell}}}" for cell in cells]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize {plain(text)}" for text in (board.caption, *_footnotes(board))]
    return "\n".join(lines) + "\n"


def to_html(board: Leaderboard) -> str:
    """Render as one self-contained page, light and dark."""
    environment = Environment(
        loader=PackageLoader("rerank_eval.analysis", "templates"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = [
        {
            "kind": board.frame[KIND].iloc[row],
            "model": board.frame[MODEL].iloc[row],
            "detail": board.frame[DETAIL].iloc[row],
            "cells": [
                {"text": _number(float(board.frame[column].iloc[row])), "best": _is_best(board, row, column)}
                for column in board.scores
            ],
        }
        for row in range(len(board.frame))
    ]
    template = environment.get_template("leaderboard.html.j2")
    return (
        template.render(
            heads=[_PARTS.findall(head) for head in board.scores],
            rows=rows,
            caption=board.caption,
            notes=_footnotes(board),
        )
        + "\n"
    )


def insert_markdown(board: Leaderboard, path: Path) -> Path:
    """Replace what stands between a Markdown file's two markers by the leaderboard.

    Args:
        board: The leaderboard.
        path: The file; it holds `<!-- leaderboard:begin -->` and, below, `<!-- leaderboard:end -->`.

    Returns:
        The file.

    Raises:
        ConfigError: The file is missing, or has no markers.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{path}: has no lines {BEGIN} and {END}; put them where the table shall stand")
    write_text(path, f"{before}{begin}\n\n{to_markdown(board)}\n{end}{after}")
    return path


def write_all(board: Leaderboard, results_dir: Path) -> list[Path]:
    """Write leaderboard.md, .csv, .tex and .html.

    Args:
        board: The leaderboard.
        results_dir: Where to.

    Returns:
        The files written.
    """
    written = []
    for suffix, render in (("md", to_markdown), ("csv", to_csv), ("tex", to_latex), ("html", to_html)):
        path = results_dir / f"leaderboard.{suffix}"
        write_text(path, render(board))
        written.append(path)
    return written
