"""Renders a leaderboard for the terminal, Markdown, CSV, LaTeX and HTML; every text from data is escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from rerank_eval.analysis.tables import DETAIL, KIND, MODEL, Leaderboard
from rerank_eval.errors import ConfigError
from rerank_eval.files import write_text
from rerank_eval.metrics.registry import two_digits
from rerank_eval.results.locate import LEADERBOARDS
from rerank_eval.tables import GAP, MISSING, Cell, Row, Table, blocks, csv_text, grid

BEGIN, END = "<!-- leaderboard:begin -->", "<!-- leaderboard:end -->"
_PARTS = re.compile(r"\([^)]*\)|[A-Z]+[^A-Z (]*|[^A-Z (]+| +|\(")
_HEAD_WIDTH = 13
_TEXT_SHARE = 0.22  # of the terminal, for each of the two columns of text, where room is short


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
        free = options.max_width - GAP - sum(width + GAP for width in widths.values())
        capped = [min(width, int(_TEXT_SHARE * options.max_width)) for width in natural]
        texts = _shares(natural, free) if free >= sum(capped) else capped
        texts = [max(width, len(name)) for width, name in zip(texts, (MODEL, DETAIL), strict=True)]
        room = options.max_width - GAP - sum(texts)
        for block in blocks(widths, room):
            yield self._table(block, texts)
            yield Text("")
        for line in (self.board.caption, *self.board.footnotes):
            yield Text(line, style="dim", no_wrap=False, overflow="fold")

    def _width(self, column: str) -> int:
        lines = [*_wrapped(column).split("\n"), *(_number(value) for value in self.board.frame[column])]
        return max(map(cell_len, lines))

    def _table(self, widths: Mapping[str, int], texts: Sequence[int]) -> RichTable:
        table = grid()
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


def _table(board: Leaderboard) -> Table:
    frame, rows = board.frame, []
    for row, kind in enumerate(frame[KIND].tolist()):
        texts = [board.names[row], str(frame[DETAIL].iloc[row])]
        numbers = [Cell(_number(frame[name].iloc[row]), bold=_is_best(board, row, name)) for name in board.scores]
        rows.append(Row([*texts, *numbers], italic=kind == "ceiling", rule=bool(row) and kind == "retriever"))
    heads = [MODEL, DETAIL, *board.scores]
    return Table(heads, "ll" + "r" * len(board.scores), rows, [board.caption, *board.footnotes])


def to_markdown(board: Leaderboard) -> str:
    """Render as a Markdown table with caption and footnotes."""
    return _table(board).markdown() + "\n"


def to_csv(board: Leaderboard) -> str:
    """Render as CSV at full precision: whose candidates, identity and notes in every row; a missing score is empty."""
    return csv_text(board.frame)


def to_latex(board: Leaderboard) -> str:
    """Render as a LaTeX table for the `booktabs` package, best scores in bold."""
    return _table(board).latex()


def to_html(board: Leaderboard) -> str:
    """Render as one self-contained page, light and dark."""
    return page(
        "leaderboard.html.j2",
        heads=[_PARTS.findall(head) if len(head) > _HEAD_WIDTH else [head] for head in board.scores],
        rows=zip(board.frame[KIND], _table(board).rows, strict=True),
        caption=board.caption,
        notes=board.footnotes,
    )


def page(template: str, **values: Any) -> str:
    """Render one of the HTML pages among `templates`; all that stands in it is escaped."""
    environment = Environment(
        loader=PackageLoader("rerank_eval.analysis", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values) + "\n"


def insert_markdown(board: Leaderboard, path: Path) -> Path:
    """Replace what stands between a Markdown file's two markers by the leaderboard, and return the file.

    Raises:
        ConfigError: The file is missing, or lacks `<!-- leaderboard:begin -->` or, below, `<!-- leaderboard:end -->`.
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
    """Write leaderboard.md, .csv, .tex and .html, and return the files."""
    rendered = render_all(board, results_dir)
    for path, text in rendered.items():
        write_text(path, text)
    return list(rendered)


def render_all(board: Leaderboard, results_dir: Path) -> dict[Path, str]:
    """Return what `write_all` writes: the files and their content."""
    renders = (to_markdown, to_csv, to_latex, to_html)
    return {path: render(board) for path, render in zip(leaderboard_files(results_dir), renders, strict=True)}


def leaderboard_files(results_dir: Path) -> list[Path]:
    """List the files that `write_all` writes."""
    return [results_dir / name for name in LEADERBOARDS]
