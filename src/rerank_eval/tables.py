"""One table, written once, for the terminal, Markdown, CSV and LaTeX; every text from data is escaped."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from tabulate import tabulate

from rerank_eval.visible import no_formula, visible

if TYPE_CHECKING:
    import pandas as pd

MISSING = "–"
GAP = 2
"""Blanks between two columns on the terminal."""
_K = TypeVar("_K", bound=Hashable)
_LINES = re.compile(r"[\r\n\t]+")
_SIDES = {"l": "left", "r": "right"}
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


def escape_markdown(text: str) -> str:
    """Make one line of a text and escape what Markdown, or HTML in it, would take for markup; a bare address stays."""
    text = visible(_LINES.sub(" ", text))
    for special in "\\`*_[]<>|&~$":
        text = text.replace(special, f"\\{special}")
    return text


def escape_latex(text: str) -> str:
    """Make one line of a text and escape what LaTeX would take for a command."""
    return "".join(_LATEX.get(character, character) for character in visible(_LINES.sub(" ", text)))


@dataclass(frozen=True)
class Cell:
    """A cell that is more than its text: bold as the best of its column, or with LaTeX other than its text escaped."""

    text: str
    bold: bool = False
    latex: str | None = None


@dataclass(frozen=True)
class Row:
    """A row; italic where it stands apart from the others, with a rule before it or without."""

    cells: Sequence[str | Cell]
    italic: bool = False
    rule: bool = False


@dataclass(frozen=True)
class Table:
    """A table: heads, `l` or `r` for each column, rows, and the notes below it."""

    heads: Sequence[str | Cell]
    align: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """Render as Markdown, without a line break at the end."""
        cells = [[_markdown(cell, italic=row.italic) for cell in row.cells] for row in self.rows]
        heads = [_markdown(head) for head in self.heads]
        sides = [_SIDES[side] for side in self.align]
        table = tabulate(cells, headers=heads, tablefmt="pipe", colalign=sides, disable_numparse=True)
        return "\n\n".join([table, *map(escape_markdown, self.notes)])

    def latex(self) -> str:
        """Render as a LaTeX table for the `booktabs` package."""
        lines = [r"% needs \usepackage{booktabs}", rf"\begin{{tabular}}{{{self.align}}}", r"\toprule"]
        lines += [" & ".join(map(_latex, self.heads)) + r" \\", r"\midrule"]
        for row in self.rows:
            cells = [_latex(cell) for cell in row.cells]
            cells = [rf"\textit{{{cell}}}" if cell and row.italic else cell for cell in cells]
            lines += [r"\midrule"] * row.rule + [" & ".join(cells) + r" \\"]
        lines += [r"\bottomrule", r"\end{tabular}", *(rf"\par\footnotesize {escape_latex(one)}" for one in self.notes)]
        return "\n".join(lines) + "\n"


def _markdown(cell: str | Cell, *, italic: bool = False) -> str:
    text = escape_markdown(cell if isinstance(cell, str) else cell.text)
    if isinstance(cell, Cell) and cell.bold:
        text = f"**{text}**"
    return f"*{text}*" if italic and text else text


def _latex(cell: str | Cell) -> str:
    latex = cell.latex if isinstance(cell, Cell) else None
    text = escape_latex(_text(cell)) if latex is None else latex
    return rf"\textbf{{{text}}}" if isinstance(cell, Cell) and cell.bold else text


def _text(cell: str | Cell) -> str:
    return cell if isinstance(cell, str) else cell.text


def simple(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    align: str = "",
    widths: Sequence[int | None] | None = None,
) -> str:
    """Render a plain table for the terminal.

    Args:
        heads: The columns' names.
        rows: The rows.
        align: `l` or `r` for each column; empty: all left.
        widths: Characters at which a column's texts are wrapped; None for no limit.
    """
    sides = [_SIDES[side] for side in align] or None
    return tabulate(
        rows, headers=list(heads), tablefmt="simple", colalign=sides, maxcolwidths=widths, disable_numparse=True
    )


def csv_text(frame: pd.DataFrame) -> str:
    """Render a frame as CSV without formulas: of texts and heads only, numbers stay as they are."""
    from pandas.api.types import is_numeric_dtype

    safe = frame.rename(columns=no_formula)
    for name in safe.columns[[not is_numeric_dtype(kind) for kind in safe.dtypes]]:
        safe[name] = [no_formula(value) if isinstance(value, str) else value for value in safe[name]]
    return str(safe.to_csv(index=False, lineterminator="\n"))


def grid() -> RichTable:
    """Return an empty table for the terminal, in the one style."""
    return RichTable(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False, collapse_padding=True)


def blocks(widths: Mapping[_K, int], room: int) -> list[dict[_K, int]]:
    """Share columns out to tables below each other, where they do not fit side by side: a number is never cut.

    `room` is that of one table, beside the columns that each of them repeats.
    """
    found: list[dict[_K, int]] = [{}]
    for column, width in widths.items():
        if found[-1] and sum(found[-1].values()) + width + GAP * (len(found[-1]) + 1) > room:
            found.append({})
        found[-1][column] = width
    return found
