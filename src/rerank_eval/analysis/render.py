"""Renders a leaderboard for the terminal, Markdown, CSV, LaTeX and HTML; every text from data is escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from pandas.api.types import is_numeric_dtype
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text
from tabulate import tabulate

from rerank_eval.analysis.tables import DETAIL, KIND, MODEL, Leaderboard
from rerank_eval.errors import ConfigError
from rerank_eval.files import write_text
from rerank_eval.metrics.registry import two_digits
from rerank_eval.results.locate import LEADERBOARDS
from rerank_eval.visible import no_formula, visible

MISSING = "–"
BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"
_PARTS = re.compile(r"\([^)]*\)|[A-Z]+[^A-Z (]*|[^A-Z (]+| +|\(")
_LINES = re.compile(r"[\r\n\t]+")
_HEAD_WIDTH = 13
_TEXT_SHARE = 0.22  # of the terminal, for each of the two columns of text, where room is short
_GAP = 2
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
    "<": r"\textless{}",  # in LaTeX's old default encoding these three print as other characters
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the start of a row it would be read as an argument of the line break before it, as would *
    "]": "{]}",
    "*": "{*}",
}


def _number(value: float) -> str:
    return MISSING if math.isnan(value) else two_digits(value)


def _is_best(board: Leaderboard, row: int, column: str) -> bool:
    # Compared as shown: two scores that print alike are both best.
    value = float(board.frame[column].iloc[row])
    return board.frame[KIND].iloc[row] != "ceiling" and _number(value) == _number(board.best(column)) != MISSING


def to_rich(board: Leaderboard) -> RenderableType:
    """Render for the terminal, fitted to its width when printed.

    Where the columns do not fit side by side, they come in several tables below each other: a number is never cut.
    """
    return _Terminal(board)


@dataclass(frozen=True)
class _Terminal:
    board: Leaderboard

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = {column: self._width(column) for column in self.board.scores}
        natural = [max(map(cell_len, texts), default=0) for texts in (self.board.names, self.board.frame[DETAIL])]
        free = options.max_width - _GAP - sum(width + _GAP for width in widths.values())
        capped = [min(width, int(_TEXT_SHARE * options.max_width)) for width in natural]
        texts = _shares(natural, free) if free >= sum(capped) else capped
        texts = [max(width, len(name)) for width, name in zip(texts, (MODEL, DETAIL), strict=True)]
        room = options.max_width - _GAP - sum(texts)
        blocks: list[list[str]] = [[]]
        for column, width in widths.items():
            if blocks[-1] and sum(widths[other] + _GAP for other in blocks[-1]) + width + _GAP > room:
                blocks.append([])
            blocks[-1].append(column)
        for block in blocks:
            yield self._table({column: widths[column] for column in block}, texts)
            yield Text("")
        for line in (self.board.caption, *_footnotes(self.board)):
            yield Text(line, style="dim", no_wrap=False, overflow="fold")

    def _width(self, column: str) -> int:
        lines = [*_wrapped(column).split("\n"), *(_number(value) for value in self.board.frame[column])]
        return max(map(cell_len, lines))

    def _table(self, widths: Mapping[str, int], texts: Sequence[int]) -> Table:
        table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False, collapse_padding=True)
        for name, width in zip((MODEL, DETAIL), texts, strict=True):
            table.add_column(name, overflow="fold", width=width)
        for column, width in widths.items():
            table.add_column(Text(_wrapped(column)), justify="right", no_wrap=True, width=width)
        kinds = self.board.frame[KIND].tolist()
        for row, kind in enumerate(kinds):
            # Text, never markup: a name may hold [bold] or :smile: .
            cells = [Text(self.board.names[row]), Text(str(self.board.frame[DETAIL].iloc[row]))]
            for column in widths:
                text = _number(float(self.board.frame[column].iloc[row]))
                cells.append(Text(text, style="bold" if _is_best(self.board, row, column) else ""))
            last = row + 1 < len(kinds) and kinds[row + 1] == "retriever"
            table.add_row(*cells, style="dim italic" if kind == "ceiling" else "", end_section=last)
        return table


def _shares(natural: Sequence[int], free: int) -> list[int]:
    """Share out `free` cells between the two columns of text, giving neither more than it can use."""
    first = min(natural[0], max(free // 2, free - natural[1]))
    return [first, min(natural[1], free - first)]


def _wrapped(head: str) -> str:
    """Break a long head at its inner capitals and blanks, so that columns of numbers stay narrow."""
    lines = [""]
    for part in _PARTS.findall(head):
        if len(lines[-1]) + len(part) > _HEAD_WIDTH and lines[-1]:
            lines.append("")
        lines[-1] += part
        while len(lines[-1]) > _HEAD_WIDTH:
            lines[-1:] = [lines[-1][:_HEAD_WIDTH], lines[-1][_HEAD_WIDTH:]]
    return "\n".join(line.strip() for line in lines)


def _footnotes(board: Leaderboard) -> list[str]:
    return [f"[{number}] {note}" for number, note in enumerate(board.notes, start=1)]


def escape_markdown(text: str) -> str:
    """Make one line of a text and escape what Markdown, or HTML in it, would take for markup.

    A bare address stays one: some readers make a link of it, and there is no way to tell them not to.
    """
    text = visible(_LINES.sub(" ", text))
    for special in "\\`*_[]<>|&~$":
        text = text.replace(special, f"\\{special}")
    return text


def to_markdown(board: Leaderboard) -> str:
    """Render as a Markdown table with caption and footnotes."""
    plain = escape_markdown
    rows = []
    for row in range(len(board.frame)):
        ceiling = board.frame[KIND].iloc[row] == "ceiling"
        texts = [plain(board.names[row]), plain(str(board.frame[DETAIL].iloc[row]))]
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
    """Render as CSV at full precision: whose candidates, identity and notes in every row; a missing score is empty."""
    return csv_text(board.frame)


def csv_text(frame: pd.DataFrame) -> str:
    """Render a frame as CSV without formulas: of texts and heads only, numbers stay as they are.

    Args:
        frame: The frame.
    """
    safe = frame.rename(columns=no_formula)
    for name in safe.columns[[not is_numeric_dtype(kind) for kind in safe.dtypes]]:
        safe[name] = [no_formula(value) if isinstance(value, str) else value for value in safe[name]]
    return str(safe.to_csv(index=False, lineterminator="\n"))


def escape_latex(text: str) -> str:
    """Make one line of a text and escape what LaTeX would take for a command."""
    return "".join(_LATEX.get(character, character) for character in visible(_LINES.sub(" ", text)))


def to_latex(board: Leaderboard) -> str:
    """Render as a LaTeX table for the `booktabs` package, best scores in bold."""
    plain = escape_latex
    columns = ["l", "l", *["r"] * len(board.scores)]
    heads = " & ".join(plain(column) for column in (MODEL, DETAIL, *board.scores))
    lines = [r"% needs \usepackage{booktabs}", r"\begin{tabular}{" + "".join(columns) + "}", r"\toprule"]
    lines += [heads + r" \\", r"\midrule"]
    kinds = board.frame[KIND].tolist()
    for row, kind in enumerate(kinds):
        if row and kind == "retriever":
            lines.append(r"\midrule")
        cells = [plain(board.names[row]), plain(str(board.frame[DETAIL].iloc[row]))]
        for column in board.scores:
            text = plain(_number(float(board.frame[column].iloc[row])))
            cells.append(rf"\textbf{{{text}}}" if _is_best(board, row, column) else text)
        if kind == "ceiling":
            cells = [rf"\textit{{{cell}}}" if cell else "" for cell in cells]
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
            "model": board.names[row],
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
            heads=[_PARTS.findall(head) if len(head) > _HEAD_WIDTH else [head] for head in board.scores],
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
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
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
    rendered = render_all(board, results_dir)
    for path, text in rendered.items():
        write_text(path, text)
    return list(rendered)


def render_all(board: Leaderboard, results_dir: Path) -> dict[Path, str]:
    """Return what `write_all` writes: the files and their content.

    Args:
        board: The leaderboard.
        results_dir: Where to.
    """
    renders = (to_markdown, to_csv, to_latex, to_html)
    return {path: render(board) for path, render in zip(leaderboard_files(results_dir), renders, strict=True)}


def leaderboard_files(results_dir: Path) -> list[Path]:
    """List the files that `write_all` writes.

    Args:
        results_dir: Where to.
    """
    return [results_dir / name for name in LEADERBOARDS]
