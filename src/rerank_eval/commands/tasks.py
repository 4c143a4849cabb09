"""The command `tasks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from rerank_eval.commands import app, console
from rerank_eval.errors import ConfigError

_SPLITS_WIDTH = 24


@app.command()
def tasks(
    suite: Annotated[str | None, typer.Argument(help="Show this suite's tasks; without it, all suites.")] = None,
) -> None:
    """List every suite and task with splits, subsets, queries and pairs at 100 candidates."""
    from rerank_eval.names import did_you_mean
    from rerank_eval.tables import simple
    from rerank_eval.tasks.registry import catalogue
    from rerank_eval.tasks.suites import load_suites

    rows, suites = catalogue(), load_suites()
    names = list(dict.fromkeys(row.suite for row in rows))
    wanted = {name.lower(): name for name in names}
    if suite is not None and suite.lower() not in wanted:
        raise ConfigError(f"unknown suite {suite!r}; {did_you_mean(suite, names)}")
    shown = [row for row in rows if suite is None or row.suite == wanted[suite.lower()]]
    lines = [
        [
            row.suite,
            row.name,
            row.main_score,
            _splits(row.splits),
            row.subsets,
            _count(row.queries),
            _count(row.pairs),
        ]
        for row in shown
    ]
    heads = ["suite", "task", "main score", "splits", "subsets", "queries", "pairs"]
    console.print(simple(heads, lines, "llllrrr"), markup=False)
    for name in dict.fromkeys(row.suite for row in shown):
        members = [row for row in shown if row.suite == name]
        queries, pairs = sum(row.queries or 0 for row in members), sum(row.pairs or 0 for row in members)
        size = f"{queries:,} queries, {pairs:,} pairs at 100 candidates" if pairs else "sized by embedded.size"
        console.print(f"{name}: {len(members)} task(s), {size}", markup=False)
        how = suites[name].published_with if suite is not None else None
        if how is not None:
            console.print(
                f"its published numbers: reranker.recipe={how.recipe} reranker.instruction={how.instruction} "
                f"retriever.instruction={how.retriever_instruction}",
                markup=False,
            )
    console.print(
        "\nGive any of these names to --task or `tasks:`; any other retrieval task of mteb and any BEIR folder do too.",
        markup=False,
    )


def _splits(splits: Sequence[str]) -> str:
    joined = ", ".join(splits)
    return joined if len(joined) <= _SPLITS_WIDTH else f"{len(splits)} splits"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
