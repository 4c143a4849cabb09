"""What the commands do, between the command line and the rooms behind it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from rerank_eval.config import LoadedConfig, load_config
from rerank_eval.config.loading import find_config
from rerank_eval.errors import ConfigError
from rerank_eval.typed import command

OFFLINE_CONFIG, HUB_CONFIG = Path("offline"), Path("qwen3-0.6b")
_SPLITS_WIDTH = 24


def choose_config(tasks: Sequence[str], config: Path | None) -> tuple[Path, str]:
    """Choose the config, and say why.

    Args:
        tasks: Tasks given on the command line.
        config: The config given on the command line, or None.

    Returns:
        The config, by its file or, where it is a shipped one, by its name; and the reason.

    Raises:
        ConfigError: A task or the config's name is unknown.
    """
    chosen, why = (config, "you named it") if config is not None else _fitting(tasks)
    shown, file = find_config(chosen)
    return shown, why if shown == file else f"{why}; comes with rerank-eval"


def _fitting(tasks: Sequence[str]) -> tuple[Path, str]:
    if not tasks:
        return OFFLINE_CONFIG, "the default: no GPU and no hub needed"
    from rerank_eval.tasks.registry import resolve

    kinds = {ref.kind for ref in resolve(tasks, where="--task")}
    if "mteb" in kinds:
        return HUB_CONFIG, "the task is hub data; name another with --config"
    if "beir" in kinds and _gpu():
        return HUB_CONFIG, "the task is a folder and a GPU is here; name another with --config"
    if "beir" in kinds:
        return OFFLINE_CONFIG, "the task is a folder and no GPU is here; name another with --config"
    return OFFLINE_CONFIG, "the task is embedded: no GPU and no hub needed"


def _gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _load(tasks: Sequence[str], config: Path | None, overrides: Sequence[str], console: Console) -> LoadedConfig:
    path, why = choose_config(tasks, config)
    console.print(f"config: {path} ({why})", markup=False)
    return _read(path, tasks, overrides)


def _read(path: Path, tasks: Sequence[str], overrides: Sequence[str]) -> LoadedConfig:
    return load_config(path, overrides, {"tasks": list(tasks)} if tasks else None)


def run_doctor(
    tasks: Sequence[str],
    config: Path | None,
    overrides: Sequence[str],
    console: Console,
    *,
    weights: bool,
    json_file: Path | None,
) -> None:
    """Check the set-up that `run_eval` would meet with the same arguments.

    Args:
        tasks: Tasks from the command line; empty keeps the config's.
        config: The config from the command line, or None.
        overrides: `--set` arguments.
        console: Where it is printed.
        weights: Whether to load models.
        json_file: File for everything as JSON, or None.

    Raises:
        SetupError: A check failed.
    """
    from rerank_eval.doctor.case import Case
    from rerank_eval.doctor.report import doctor

    def load() -> tuple[LoadedConfig, str]:
        path, why = choose_config(tasks, config)
        return _read(path, tasks, overrides), f"{path} ({why})"

    doctor(Case(load, weights), console, json_file)


def run_eval(tasks: Sequence[str], config: Path | None, overrides: Sequence[str], console: Console) -> None:
    """Plan, run, and show the leaderboard.

    Args:
        tasks: Tasks from the command line; empty keeps the config's.
        config: The config from the command line, or None.
        overrides: `--set` arguments.
        console: For what the user asked for.
    """
    started = time.monotonic()
    loaded = _load(tasks, config, overrides, console)
    from rerank_eval.session import start

    session = start(loaded, console)
    plan, reporter = session.plan, session.reporter
    names = ", ".join(task.told for task in plan.tasks)
    reporter.say(f"tasks: {names}")
    reporter.say(
        f"runs: {len(plan.retrievers)} retriever(s), {len(plan.rerankers())} reranker run(s); log: {session.log}"
    )
    _, outcome = session.run()
    seconds = time.monotonic() - started
    reporter.say(f"computed {len(outcome.computed)}, done before {len(outcome.skipped)}, {seconds:.0f} s in all")
    show_leaderboard(plan.results_dir, outcome.revisions, console)
    session.tracker.table((plan.results_dir / "leaderboard.csv").read_text(encoding="utf-8"))
    session.tracker.finish()


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
    from rerank_eval.analysis import render, tables
    from rerank_eval.files import sweep
    from rerank_eval.results.records import load_manifests, of_one_revision, of_present_candidates
    from rerank_eval.store import LOCK
    from rerank_eval.store.locks import locked
    from rerank_eval.tasks.suites import load_suites

    records, left_out = of_one_revision(load_manifests(results_dir), revisions)
    records, stale = of_present_candidates(records)
    if not records:
        raise ConfigError(
            f"{results_dir}: no results there; run `{command('eval')}` first, or name another folder with --results"
        )
    suites = {name: [task.name for task in suite.tasks] for name, suite in load_suites().items()}
    board = tables.leaderboard(records, suites)
    console.print()
    console.print(render.to_rich(board))
    if left_out:
        tasks = ", ".join(sorted({record.task for record in left_out}))
        console.print(f"left out: {len(left_out)} result(s) on other data of {tasks}", markup=False)
    if stale:
        tasks = ", ".join(sorted({record.task for record in stale}))
        console.print(f"left out: {len(stale)} reranking(s) of candidates that have changed, {tasks}", markup=False)
    with locked(results_dir / LOCK):
        sweep(results_dir)
        written = render.write_all(board, results_dir)
    if insert is not None:
        written.append(render.insert_markdown(board, insert))
    console.print("written: " + ", ".join(str(path) for path in written), markup=False)


def print_leaderboard(results_dir: Path, layout: str, model: str | None) -> str:
    """Render the results of a folder for a paper or a model card.

    Args:
        results_dir: The folder.
        layout: `md`, `csv`, `tex`, `card` or `model-index`.
        model: Only this model, by its short or full name; None for all.

    Raises:
        ConfigError: The folder holds no results, or the layout or the model is unknown.
    """
    from rerank_eval.analysis import cards, render, tables
    from rerank_eval.names import did_you_mean
    from rerank_eval.results.records import load_manifests, of_one_revision, of_present_candidates
    from rerank_eval.tasks.suites import load_suites

    records, _ = of_one_revision(load_manifests(results_dir), {})
    records, _ = of_present_candidates(records)
    if not records:
        raise ConfigError(
            f"{results_dir}: no results there; run `{command('eval')}` first, or name another folder with --results"
        )
    if model is not None:
        known = sorted({record.label for record in records})
        records = [record for record in records if model.lower() in {record.label.lower(), record.model.lower()}]
        if not records:
            raise ConfigError(f"--model {model!r}: has no result in {results_dir}; {did_you_mean(model, known)}")
    suites = {name: [task.name for task in suite.tasks] for name, suite in load_suites().items()}
    plain = {"md": render.to_markdown, "csv": render.to_csv, "tex": render.to_latex}
    if layout in plain:
        return plain[layout](tables.leaderboard(records, suites))
    if layout == "card":
        return cards.to_card(records, suites)
    if layout == "model-index":
        return cards.to_model_index(records)
    raise ConfigError(f"--format {layout!r}: {did_you_mean(layout, [*plain, 'card', 'model-index'])}")


def show_tasks(suite: str | None, console: Console) -> None:
    """List suites, or the tasks of one.

    Args:
        suite: A suite's name, or None for all.
        console: Where it is printed.

    Raises:
        ConfigError: The suite is unknown.
    """
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
        own = [row for row in shown if row.suite == name]
        queries, pairs = sum(row.queries or 0 for row in own), sum(row.pairs or 0 for row in own)
        size = f"{queries:,} queries, {pairs:,} pairs at 100 candidates" if pairs else "sized by embedded.size"
        console.print(f"{name}: {len(own)} task(s), {size}", markup=False)
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


def score_pair(
    pair: tuple[str, str], instruction: str | None, config: Path | None, overrides: Sequence[str], console: Console
) -> None:
    """Score one pair and show what the model read.

    Args:
        pair: Query and document.
        instruction: The instruction, or None for what the config says.
        config: The config from the command line, or None.
        overrides: `--set` arguments.
        console: Where it is printed.

    Raises:
        ConfigError: The config has no reranker.
        ModelError: It cannot be loaded.
    """
    loaded = _load([], config, overrides, console)
    reranker = loaded.runs[0].reranker
    if reranker is None:
        raise ConfigError(f"{loaded.path}: reranker: is null; there is nothing to score with")
    from rerank_eval.engine.interface import QueryGroup
    from rerank_eval.models.resolve import resolve_model
    from rerank_eval.models.statements import check_reranker
    from rerank_eval.rerankers.cross_encoder import score_groups
    from rerank_eval.rerankers.loading import Prompting, load_reranking_engine, make_policy

    ref = resolve_model(reranker.model, reranker.revision, f"{loaded.path}: reranker.model", loaded.base.model_folder)
    prompting = Prompting.of(reranker)
    ref = check_reranker(reranker, ref, prompting.recipe)
    engine = load_reranking_engine(reranker, ref, loaded.base.device, prompting)
    chosen = make_policy(reranker, ref, prompting).choose(None, None)[1] if instruction is None else instruction
    query, document = pair
    [scores] = score_groups(engine, [QueryGroup(query, chosen, [document])])
    prompt = engine.render(query, document, chosen)
    console.rule("prompt")
    console.print(prompt.text, markup=False)
    console.rule()
    cut = ", cut to max_length" if prompt.truncated else ""
    console.print(f"tokens:  {len(prompt.token_ids)}{cut}")
    console.print(f"model:   {ref.label} ({ref.revision})", markup=False)
    for note in ref.notes:
        console.print(f"note:    {note}", markup=False)
    special = dict.fromkeys(
        token for text in (query, document, chosen or "") for token in engine.special_tokens.found(text)
    )
    if special:
        read = "read as tokens" if reranker.special_tokens == "keep" else "read as plain text"
        console.print(f"special: {', '.join(special)} in the texts, {read}", markup=False)
    margin, probability = ("margin", "P(yes)") if engine.causal else ("logit", "sigmoid")
    console.print(f"{margin + ':':<9}{scores.margins[0]:.6f}")
    console.print(f"{probability + ':':<9}{0.5 + math.tanh(scores.margins[0] / 2) / 2:.6f}")
