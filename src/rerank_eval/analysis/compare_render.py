"""Renders a comparison for the terminal, Markdown, CSV, LaTeX and JSON; every text from data is escaped."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from rerank_eval.analysis.compare import Comparison, Difference, Moved
from rerank_eval.analysis.statistics import LEVEL
from rerank_eval.files import write_json, write_text
from rerank_eval.metrics.registry import DEFAULT, direction, percent, shown
from rerank_eval.tables import MISSING, Cell, Row, Table, blocks, csv_text, escape_markdown, grid

SIGNIFICANT = 0.05
_NAME = 24  # columns that names get where room is short
_MARKS = ((0.001, "***"), (0.01, "**"), (SIGNIFICANT, "*"))
HEADS = ("task", "system", "queries", "baseline", "score", "difference", "95% interval", "p", "Holm", "BH", "W/T/L")
AGAINST = "against"
"""Head of the column that names each row's baseline, where there are several."""
CHANGE_HEADS = ("task", "system", "top 10 changed", "overlap@10", "tau", "shared", "ties", "worst to best")
_NESTED = {"up", "down", "churn", "shift", "tied"}


def _percent(value: float) -> str:
    return MISSING if math.isnan(value) else f"{100 * value:.1f}%"


def _points(value: float, sign: str = "") -> str:
    return MISSING if math.isnan(value) else percent(value, sign)


def _p(value: float) -> str:
    return MISSING if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"  # noqa: PLR2004


def mark(difference: Difference) -> str:
    """Return the stars of a difference: its p-value by Holm's correction is below 0.05, 0.01, 0.001."""
    return next((stars for bound, stars in _MARKS if difference.p_holm < bound), "")


def scope(difference: Difference) -> str:
    """Name a task or suite, with its measure where that is not nDCG@10."""
    name = f"mean {difference.scope}" if difference.suite else difference.scope
    return name if difference.measure == DEFAULT else f"{name} ({shown(difference.measure)})"


def tables(comparison: Comparison) -> tuple[Table, Table]:
    """Return the differences, and what changed in the rankings; a column names the baseline where there are several."""
    found = [_row(comparison, one, _cells(one)) for one in comparison.differences]
    changed = [_row(comparison, one, _change_cells(one)) for one in comparison.differences if not one.suite]
    return _table(comparison, HEADS, found, notes(comparison)), _table(comparison, CHANGE_HEADS, changed)


def _table(
    comparison: Comparison, heads: Sequence[str | Cell], rows: Sequence[Row], notes: Sequence[str] = ()
) -> Table:
    against = [AGAINST] if _several(comparison) else []
    align = "l" * (2 + len(against)) + "r" * (len(heads) - 2)
    return Table([*heads[:2], *against, *heads[2:]], align, rows, notes)


def _row(comparison: Comparison, one: Difference, numbers: Sequence[str | Cell], *, rule: bool = False) -> Row:
    against = [one.against] if _several(comparison) else []
    return Row([scope(one), one.system, *against, *numbers], rule=rule)


def _several(comparison: Comparison) -> bool:
    return len(comparison.baselines) > 1


def _cells(one: Difference) -> list[str]:
    return [
        f"{one.queries:,}",
        _points(one.baseline),
        _points(one.mean),
        _points(one.difference, "+") + mark(one),
        f"{_points(one.low, '+')} to {_points(one.high, '+')}",
        _p(one.p),
        _p(one.p_holm),
        _p(one.p_bh),
        f"{one.wins}/{one.ties}/{one.losses}",
    ]


def _change_cells(one: Difference) -> list[str]:
    churn, tied = one.churn, one.tied
    found = [MISSING] * 4
    if churn is not None:
        found = [
            _percent(churn.changed),
            _percent(churn.overlap),
            _tau(churn.tau),
            _percent(churn.shared),
        ]
    ties = [MISSING] * 2 if tied is None else [_percent(tied.rate), f"{_points(tied.worst)} to {_points(tied.best)}"]
    return found + ties


def _tau(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:.3f}"


def notes(comparison: Comparison) -> list[str]:
    """Say in words what the tables hold."""
    names = ", ".join(comparison.baselines)
    first = f"Baselines: {names}; each row is compared with the one it names" if _several(comparison) else None
    unit = "Main scores x 100, nDCG@10 where a row names no measure"
    found = [
        f"{first or f'Baseline: {names}'}. {unit}. {LEVEL:.0%} intervals: BCa bootstrap over queries, "
        f"{comparison.resamples:,} samples, inside each split and subset; p: paired randomisation test, two-sided, "
        f"{comparison.resamples:,} rounds; seed {comparison.seed}.",
        "Holm: corrected so that any false alarm among these tests has a chance below 5%. BH (Benjamini-Hochberg): so "
        "that below 5% of what is called different is not, on average. W/T/L: queries won, tied and lost against the "
        "baseline. * ** ***: p by Holm below 0.05, 0.01, 0.001.",
    ]
    if any(one.suite for one in comparison.differences):
        found.append("A suite's mean follows from its tasks; suites are corrected among themselves.")
    found += comparison.notes
    found += [_shift_note(one) for one in comparison.differences if one.shift is not None]
    return found


def _shift_note(one: Difference) -> str:
    shift = one.shift
    assert shift is not None  # noqa: S101 - asked for these only
    return (
        f"{scope(one)}, {one.system}: margins differ from the baseline's by {shift.largest:.3g} at most, the middle "
        f"90% by {shift.quantiles['0.05']:+.3g} to {shift.quantiles['0.95']:+.3g}, over {shift.pairs:,} pairs; P(yes) "
        f"is 0 or 1 in 32-bit floats for {shift.saturated:.1%} of them ({shift.saturated_before:.1%} in the baseline)."
    )


def to_rich(comparison: Comparison) -> RenderableType:
    """Render both tables for the terminal, fitted to its width; `notes` says what they hold."""
    # A name is no number: it stands above the rows, where it has room.
    against = [f", against {one.against}" if _several(comparison) else "" for one in comparison.differences]
    both = list(zip(comparison.differences, against, strict=True))
    table = [[scope(one) + name, one.system, *_cells(one)] for one, name in both]
    changed = [[scope(one) + name, one.system, *_change_cells(one)] for one, name in both if not one.suite]
    return Group(_Terminal(HEADS, table), _Terminal(CHANGE_HEADS, changed))


@dataclass(frozen=True)
class _Terminal:
    """A table whose numbers are never cut: where they do not fit side by side, they come in several tables."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        numbers = range(2, len(self.heads))
        widths = {n: max(len(self.heads[n]), *(len(row[n]) for row in self.rows), 1) for n in numbers}
        names = max([len(self.heads[1]), *(len(row[1]) for row in self.rows)], default=0)
        for block in blocks(widths, options.max_width - min(names, _NAME)):
            yield self._table(block)
            yield Text("")

    def _table(self, widths: Mapping[int, int]) -> RichTable:
        table = grid()
        table.add_column(Text(self.heads[1]), overflow="fold")
        for number, width in widths.items():
            table.add_column(Text(self.heads[number]), justify="right", no_wrap=True, width=width)
        before = ""
        for row in self.rows:
            if row[0] != before:
                table.add_row(Text(row[0], style="bold"))
                before = row[0]
            table.add_row(Text(row[1]), *(Text(row[number]) for number in widths))
        return table


def to_markdown(comparison: Comparison) -> str:
    """Render as Markdown: both tables, notes, and the queries that moved most."""
    scores, changes = tables(comparison)
    moved = [_moved(one) for one in comparison.differences if one.up or one.down]
    return "\n\n".join(["# Comparison", scores.markdown(), "## Rankings", changes.markdown(), *moved]) + "\n"


def _moved(one: Difference) -> str:
    def line(moved: Moved) -> str:
        cell = "" if moved.subset == "default" else f" ({moved.subset}/{moved.split})"
        query = escape_markdown(f"{moved.query_id}{cell}")
        return f"- {query}: {_points(moved.before)} to {_points(moved.after)}"

    title = f"## Queries that moved most: {escape_markdown(scope(one))}, {escape_markdown(one.system)}"
    return "\n".join([title, "", *(line(moved) for moved in (*one.up, *one.down))])


def to_frame(comparison: Comparison) -> pd.DataFrame:
    """Return one row a difference, at full precision, on mteb's scale."""
    rows = []
    for one in comparison.differences:
        row = {key.name: getattr(one, key.name) for key in dataclasses.fields(one) if key.name not in _NESTED}
        if one.churn is not None:
            row |= {f"churn_{key}": value for key, value in dataclasses.asdict(one.churn).items()}
        if one.tied is not None:
            row |= {f"ties_{key}": value for key, value in dataclasses.asdict(one.tied).items()}
        if one.shift is not None:
            values = dataclasses.asdict(one.shift)
            quantiles = values.pop("quantiles")
            row |= {f"shift_{key}": value for key, value in values.items()}
            row |= {f"shift_q{key}": value for key, value in quantiles.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def to_latex(comparison: Comparison) -> str:
    """Render as a LaTeX table for the `booktabs` package; the best of each task in bold, the stars explained."""
    found: list[Row] = []
    before = ""
    for one in comparison.differences:
        sign = direction(one.measure)
        best = max(sign * other.mean for other in comparison.differences if other.scope == one.scope)
        stars = mark(one)
        points, low, high = (_points(value, "+") for value in (one.difference, one.low, one.high))
        cells: list[str | Cell] = [
            *(
                Cell(_points(value), bold=sign * value >= max(best, sign * one.baseline))
                for value in (one.baseline, one.mean)
            ),
            Cell(points + stars, latex=f"${points}" + (f"^{{{stars}}}$" if stars else "$")),
            Cell(f"{low} to {high}", latex=f"$[{low}, {high}]$"),
            _p(one.p_holm),
        ]
        found.append(_row(comparison, one, cells, rule=bool(before) and before != one.scope))
        before = one.scope
    titles = ("task", "system", "baseline", "score", "difference", "95% interval", Cell("p", latex="$p$ (Holm)"))
    return _table(comparison, titles, found, notes(comparison)).latex()


def as_data(comparison: Comparison) -> dict[str, Any]:
    """Return everything for JSON: runs, differences on mteb's scale, how it was drawn."""
    return {
        "baseline": None if _several(comparison) else comparison.baselines[0],
        "notes": list(comparison.notes),
        "runs": [
            {"name": run.name, "label": run.label, "detail": run.detail, "identity": run.identity}
            for run in comparison.runs
        ],
        "resamples": comparison.resamples,
        "seed": comparison.seed,
        "level": LEVEL,
        "baseline_ties": {task: dataclasses.asdict(ties) for task, ties in comparison.baseline_ties.items()},
        "differences": [_without_nan(dataclasses.asdict(one)) for one in comparison.differences],
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_all(comparison: Comparison, folder: Path, name: str = "comparison") -> list[Path]:
    """Write the comparison as md, csv, tex and json, and return the files."""
    texts = {"md": to_markdown(comparison), "csv": csv_text(to_frame(comparison)), "tex": to_latex(comparison)}
    for suffix, text in texts.items():
        write_text(folder / f"{name}.{suffix}", text)
    write_json(folder / f"{name}.json", as_data(comparison))
    return [folder / f"{name}.{suffix}" for suffix in (*texts, "json")]
