"""Shows the leaderboard of a results folder, and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from rerank_eval.analysis import cards, render, tables
from rerank_eval.errors import ConfigError
from rerank_eval.files import sweep
from rerank_eval.names import did_you_mean
from rerank_eval.results.records import ResultRecord, load_manifests, of_one_revision, of_present_candidates
from rerank_eval.store import LOCK
from rerank_eval.store.locks import locked
from rerank_eval.tasks.suites import published_suites, suite_tasks
from rerank_eval.typed import command

Records = list[ResultRecord]


def show_leaderboard(
    results_dir: Path, revisions: Mapping[str, str], console: Console, insert: Path | None = None
) -> None:
    """Print the leaderboard of a results folder and write it in four formats.

    Args:
        results_dir: The folder.
        revisions: Task name -> data revision; results of these tasks on other data are left out.
        console: Where it is printed.
        insert: A Markdown file whose part between the leaderboard's markers is replaced, or None.

    Raises:
        ConfigError: The folder holds no results, or the file has no markers.
    """
    records, left_out, stale = _comparable(results_dir, revisions)
    board = tables.leaderboard(records, suite_tasks())
    console.print()
    console.print(render.to_rich(board))
    for dropped, what in (
        (left_out, "result(s) on other data of"),
        (stale, "reranking(s) of candidates that have changed,"),
    ):
        if dropped:
            tasks = ", ".join(sorted({record.task for record in dropped}))
            console.print(f"left out: {len(dropped)} {what} {tasks}", markup=False)
    with locked(results_dir / LOCK):
        sweep(results_dir)
        written = render.write_all(board, results_dir)
    if insert is not None:
        written.append(render.insert_markdown(board, insert))
    console.print("written: " + ", ".join(str(path) for path in written), markup=False)


def print_leaderboard(results_dir: Path, layout: str, model: str | None) -> str:
    """Render the results of a folder, or of one model of it, for a paper or a model card.

    Raises:
        ConfigError: The folder holds no results, or the layout or the model is unknown.
    """
    records, _, _ = _comparable(results_dir, {})
    if model is not None:
        known = sorted({record.label for record in records})
        records = [record for record in records if model.lower() in {record.label.lower(), record.model.lower()}]
        if not records:
            raise ConfigError(f"--model {model!r}: has no result in {results_dir}; {did_you_mean(model, known)}")
    suites = suite_tasks()
    plain = {"md": render.to_markdown, "csv": render.to_csv, "tex": render.to_latex}
    if layout in plain:
        return plain[layout](tables.leaderboard(records, suites))
    if layout == "card":
        return cards.to_card(records, {name: suites[name] for name in published_suites()})
    if layout == "model-index":
        return cards.to_model_index(records)
    raise ConfigError(f"--format {layout!r}: {did_you_mean(layout, [*plain, 'card', 'model-index'])}")


def _comparable(results_dir: Path, revisions: Mapping[str, str]) -> tuple[Records, Records, Records]:
    """Return results that may stand under each other, those on other data, and those of candidates that changed."""
    records, left_out = of_one_revision(load_manifests(results_dir), revisions)
    records, stale = of_present_candidates(records)
    if not records:
        raise ConfigError(
            f"{results_dir}: no results there; run `{command('eval')}` first, or name another folder with --results"
        )
    return records, left_out, stale
