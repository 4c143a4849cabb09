"""Renders verdicts: the terminal, Markdown, CSV and JSON. A number of ours stands only where it was run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from rerank_eval.files import write_json, write_text
from rerank_eval.metrics.registry import two_digits
from rerank_eval.reproduce.published import LOOSE
from rerank_eval.reproduce.verdicts import (
    AMBIGUOUS,
    BESIDE,
    CLOSE,
    INCOMPLETE,
    NOT_RUN,
    OFF,
    PUBLISHED_FILE,
    REPRODUCED,
    VERDICTS,
    Verdict,
    Verdicts,
)
from rerank_eval.tables import MISSING, Row, Table, csv_text, escape_markdown, grid

SCHEMA = 1
_LISTED = 20
_HEADS = ("Published", "Ours", "Difference", "Tolerance", "Verdict")
_STYLES = {REPRODUCED: "green", CLOSE: "yellow", OFF: "bold red", INCOMPLETE: "magenta", AMBIGUOUS: "magenta"}


def _numbers(verdict: Verdict) -> list[str]:
    ours, difference = verdict.ours, verdict.difference
    return [
        two_digits(verdict.published),
        MISSING if ours is None else two_digits(ours),
        MISSING if difference is None else two_digits(difference, "+"),
        MISSING if ours is None or verdict.verdict == BESIDE else f"± {verdict.tolerance.points:g}",
    ]


class _Footnotes:
    """Numbers footnotes in the order in which they are met."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, verdict: Verdict) -> str:
        marks = [f"[{self._numbers.setdefault(note, len(self._numbers) + 1)}]" for note in verdict.notes]
        return " ".join([verdict.verdict, *marks])

    def lines(self) -> list[str]:
        return [f"[{number}] {note}" for note, number in self._numbers.items()]


def summary(checked: Verdicts) -> str:
    """Count the table's verdicts in one line, and say where published files were held against themselves."""
    counts = [f"{checked.count(verdict)} {verdict}" for verdict in _verdicts(checked) if checked.count(verdict)]
    text = f"{len(checked.cells)} cells: {', '.join(counts)}"
    if any(one.verdict == PUBLISHED_FILE for one in [*checked.cells, *checked.tasks]):
        text += "; published file: the published results held against themselves, nothing was run to reproduce them"
    if checked.published.retriever is None:
        text += "; beside: a mean over several retrievers, which no single run can be held against"
    elif not checked.published.known_in_full:
        text += "; close at best: the published protocol is not known in full, so nothing counts as reproduced"
    return text


def _verdicts(checked: Verdicts) -> tuple[str, ...]:
    return VERDICTS if checked.published.retriever is not None else (BESIDE, *VERDICTS)


def _details(checked: Verdicts) -> list[str]:
    """Say what is missing, what could not be read and what was not compared."""
    verdicts = [*checked.cells, *checked.tasks]
    lines = [
        f"{one.model}, {one.name}: {one.verdict}: {'; '.join(one.missing)}"
        for one in dict.fromkeys(verdicts)
        if one.missing
    ]
    for said, items in (("not usable", checked.problems), ("not judged, other settings", checked.set_aside)):
        lines += [f"{said}: {item}" for item in items[:_LISTED]]
        if len(items) > _LISTED:
            lines.append(f"{said}: {len(items) - _LISTED} more, all of them in {checked.stem}.json")
    return lines


def to_rich(checked: Verdicts) -> RenderableType:
    """Render for the terminal: the table, the retriever's tasks, then what a reader has to know."""
    notes = _Footnotes()
    parts: list[RenderableType] = [_table(checked.cells, ("Model", "Suite"), notes)]
    if any(one.verdict != NOT_RUN for one in checked.tasks):
        parts += [Text("The retriever, task by task"), _table(checked.tasks, ("Model", "Task"), notes)]
    lines = [*_details(checked), *notes.lines()]
    parts += [Text(line, style="dim", no_wrap=False, overflow="fold") for line in lines]
    return Group(*parts)


def _table(verdicts: Sequence[Verdict], names: tuple[str, str], notes: _Footnotes) -> RichTable:
    table = grid()
    for name in names:
        table.add_column(name, overflow="fold")
    for name in _HEADS:
        table.add_column(name, justify="left" if name == "Verdict" else "right", no_wrap=name != "Verdict")
    for row, verdict in enumerate(verdicts):
        before = verdicts[row - 1].model if row else None
        last = row + 1 == len(verdicts) or verdicts[row + 1].model != verdict.model
        # Text, never markup: a note may hold [bold].
        table.add_row(
            Text(verdict.model if verdict.model != before else ""),
            Text(verdict.name),
            *map(Text, _numbers(verdict)),
            Text(notes.mark(verdict), style=_STYLES.get(verdict.verdict, "dim")),
            end_section=last,
        )
    return table


def to_markdown(checked: Verdicts) -> str:
    """Render as Markdown: what was compared, both tables, tolerances with reasons, footnotes."""
    notes = _Footnotes()
    published = checked.published
    parts = [
        f"# {escape_markdown(published.name)}: published and ours",
        escape_markdown(f"Published: {published.source}. Scale: {published.scale_note}."),
        escape_markdown(summary(checked)) + ".",
        _markdown_table(checked.cells, ("Model", "Suite"), notes),
    ]
    if any(one.verdict != NOT_RUN for one in checked.tasks):
        parts += ["## The retriever, task by task", _markdown_table(checked.tasks, ("Model", "Task"), notes)]
    parts += ["## Tolerances", _bullets(_tolerances(checked))]
    if details := _details(checked):
        parts += ["## Left out", _bullets(details)]
    if lines := notes.lines():
        parts += ["## Differences of protocol", _bullets(lines)]
    return "\n\n".join(parts) + "\n"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape_markdown(line)}" for line in lines)


def _tolerances(checked: Verdicts) -> list[str]:
    tolerances = checked.published.tolerances
    if checked.published.retriever is None:
        return ["None: a mean over several retrievers is published, and nothing is judged."]
    if tolerances is None:
        return [f"± {LOOSE.points:g}: {LOOSE.reason}", "Within it a score is close, beyond it is off."]
    lines = [f"{name}: ± {one.points:g} for a rerun: {one.reason}" for name, one in tolerances.suites.items()]
    others = (tolerances.task, tolerances.small_task, tolerances.same_run)
    lines += [f"± {one.points:g}: {one.reason}" for one in others]
    lines.append(f"Beyond a tolerance, up to {tolerances.close:g} times as much is close, more is off.")
    if not checked.published.known_in_full:
        lines.append("Within a tolerance a score is close too, since the published protocol is not known in full.")
    return lines


def _markdown_table(verdicts: Sequence[Verdict], names: tuple[str, str], notes: _Footnotes) -> str:
    rows = [Row([one.model, one.name, *_numbers(one), notes.mark(one)]) for one in verdicts]
    return Table([*names, *_HEADS], "llrrrrl", rows).markdown()


def as_data(checked: Verdicts) -> dict[str, Any]:
    """Return everything as JSON-serialisable data, numbers at full precision, null where nothing was run."""
    published = checked.published
    return {
        "schema": SCHEMA,
        "published": {
            "name": published.name,
            "source": published.source,
            "scale": published.scale,
            "recipe": published.recipe,
            "mteb": published.mteb,
            "retriever": published.retriever,
            "top_k": published.top_k,
        },
        "counts": {verdict: checked.count(verdict) for verdict in _verdicts(checked)},
        "cells": [_row(one) for one in checked.cells],
        "tasks": [_row(one) for one in checked.tasks],
        "problems": list(checked.problems),
        "set_aside": list(checked.set_aside),
    }


def _row(one: Verdict) -> dict[str, Any]:
    return {
        "model": one.model,
        "name": one.name,
        "published": one.published,
        "ours": one.ours,
        "difference": one.difference,
        "tolerance": None if one.verdict == BESIDE else one.tolerance.points,
        "tolerance_reason": None if one.verdict == BESIDE else one.tolerance.reason,
        "verdict": one.verdict,
        "missing": list(one.missing),
        "notes": list(one.notes),
        "source": one.source,
        "settings": one.settings,
    }


def to_csv(checked: Verdicts) -> str:
    """Render as CSV at full precision: the table's cells, then the retriever's tasks; what was not run is empty."""
    rows = [
        {"level": level, **_row(one), "missing": "; ".join(one.missing), "notes": "; ".join(one.notes)}
        for level, verdicts in (("suite", checked.cells), ("task", checked.tasks))
        for one in verdicts
    ]
    return csv_text(pd.DataFrame(rows))


def write_all(checked: Verdicts, folder: Path) -> list[Path]:
    """Write the verdicts as Markdown, CSV and JSON, under the name that they have (`reproduction`).

    Returns:
        The files written.

    Raises:
        StorageError: The folder cannot be written.
    """
    paths = [folder / f"{checked.stem}.{suffix}" for suffix in ("md", "csv", "json")]
    write_text(paths[0], to_markdown(checked))
    write_text(paths[1], to_csv(checked))
    write_json(paths[2], as_data(checked))
    return paths
