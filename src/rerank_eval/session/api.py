"""What a researcher calls from Python; `rerank_eval` shows it. Nothing is printed: a run's log file has it all."""

from __future__ import annotations

import itertools
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from rerank_eval.analysis import compare_render, tables
from rerank_eval.analysis.compare import SEED, Comparison
from rerank_eval.config import RerankerConfig
from rerank_eval.config.files import is_config
from rerank_eval.engine.quiet import settle
from rerank_eval.errors import ConfigError, DataError
from rerank_eval.metrics.registry import two_digits
from rerank_eval.models.recipes import explain
from rerank_eval.registry import RERANKERS
from rerank_eval.rerankers import load_reranker as load_cross_encoder
from rerank_eval.rerankers.cross_encoder import CrossEncoder
from rerank_eval.rerankers.families.python_object import scoring_function
from rerank_eval.results.frames import read_frame
from rerank_eval.results.records import load_manifests
from rerank_eval.results.runs import read_stored
from rerank_eval.session.choice import choose_config, read_config
from rerank_eval.session.comparison import ComparisonRequest, make_comparison
from rerank_eval.session.start import start
from rerank_eval.tasks.suites import suite_tasks
from rerank_eval.visible import make_console

Evaluated = str | os.PathLike[str] | RerankerConfig | CrossEncoder | object
"""A config's file or name, a model's name, a reranker's settings, a reranker that `load_reranker` returned, or an
object of your own with `score(query, documents)`, `predict(pairs)` or `rank(query, documents)`."""


@dataclass(frozen=True)
class Results:
    """What an evaluation came to: files of a results folder, read when they are asked for.

    Attributes:
        results_dir: The results folder.
        runs: Folders of the runs in it, the retriever before its rerankers.
        tasks: Names of the tasks.
        identities: One a run, as `rerank-eval runs` lists them.
    """

    results_dir: Path
    runs: tuple[Path, ...]
    tasks: tuple[str, ...]
    identities: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """Return the leaderboard of these runs and tasks.

        Returns:
            One row a run, then the ceilings; columns Model, Details, Retriever, top_k, kind, identity, notes, then
            one a task and one a complete suite, float64 on the model card's scale (0 to 100).
        """
        records = [
            record
            for record in load_manifests(self.results_dir)
            if record.identity in self.identities and record.task in self.tasks
        ]
        suites = suite_tasks()
        return tables.leaderboard(records, suites).frame

    def per_query(self) -> pd.DataFrame:
        """Return every metric of every query.

        Returns:
            One row a query of a run: model, identity, task, subset, split, query_id, then the metrics, float64 on
            mteb's scale (0 to 1).

        Raises:
            DataError: The files are gone.
        """
        frames = []
        for folder in self.runs:
            stored = read_stored(folder)
            if stored is None:
                raise DataError(f"{folder}: its results are gone; evaluate again")
            for task in self.tasks:
                frame = read_frame(stored.tasks[task] / "per_query.parquet")
                names = {"model": stored.label, "identity": stored.identity, "task": task}
                frame = frame.drop(columns=[name for name in names if name in frame.columns])
                frames.append(frame.assign(**names)[[*names, *frame.columns]])
        return pd.concat(frames, ignore_index=True)

    def __repr__(self) -> str:
        """Show the leaderboard's figures, and where the files are."""
        table = self.table()
        shown = table.drop(columns=["Retriever", "top_k", "kind", "identity", "notes"])
        return f"{shown.to_string(index=False, float_format=two_digits)}\n{self.results_dir}"


@dataclass(frozen=True, repr=False)
class Compared:
    """Runs compared query by query with the first of them.

    Attributes:
        comparison: Intervals, tests and queries that moved.
    """

    comparison: Comparison

    def table(self) -> pd.DataFrame:
        """Return one row a system and task or suite: means, difference, 95% interval, p-values, on mteb's scale."""
        return compare_render.to_frame(self.comparison)

    def __repr__(self) -> str:
        """Show the comparison as a table in Markdown."""
        return compare_render.to_markdown(self.comparison)


def evaluate(
    what: Evaluated | None = None,
    /,
    tasks: str | Sequence[str] = (),
    *,
    results_dir: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Results:
    """Retrieve, rerank and score, as `rerank-eval eval` does; what is done already is not done again.

    Args:
        what: A config's file, a model's name, a reranker's settings, a reranker that `load_reranker` returned, or an
            object or function of your own (see `rerankers.families.python_object`). An object's results are reused by
            another process only where it has an attribute `revision`. None takes the default config.
        tasks: Suites, tasks or BEIR folders in place of the config's.
        results_dir: Results folder in place of the config's.
        **settings: Further keys of the config, such as `device="cpu"`, `retriever={"model": "bm25"}` or
            `**{"embedded.size": "small"}`.

    Returns:
        The runs' results.

    Raises:
        ConfigError: A name or a setting is unknown.
        RerankEvalError: Any other problem that a user can mend, as in the command line.
    """
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    with _quiet():
        path, changes = _asked(what)
        chosen, _ = choose_config(names, path)
        folder = None if results_dir is None else Path(results_dir)
        loaded = read_config(chosen, names, _overrides(changes | settings), folder)
        session = start(loaded, make_console(quiet=True))
        plan, _ = session.run(loaded=what if isinstance(what, CrossEncoder) else None)
        session.tracker.finish()
    return Results(
        plan.results_dir,
        tuple(spec.folder(plan.results_dir, "any").parent for spec in plan.rows),
        tuple(task.name for task in plan.tasks),
        tuple(spec.digest for spec in plan.rows),
    )


def compare(
    *runs: Results | str | os.PathLike[str],
    tasks: str | Sequence[str] = (),
    results_dir: str | os.PathLike[str] | None = None,
    measure: str | None = None,
    missing: str = "",
    seed: int = SEED,
) -> Compared:
    """Compare runs query by query with the first of them, as `rerank-eval compare` does; no file is written.

    Args:
        *runs: Two or more: results of `evaluate` (of each, its rerankers; its retriever where it has none), or
            identities, models, folders or run files.
        tasks: Only these; empty for all that the runs have.
        results_dir: Where identities and models are looked up; `results` by default.
        measure: What to compare instead of main scores, such as `recall_at_100`.
        missing: What is done about queries that a run lacks: `zero` or `intersection`; empty refuses them.
        seed: Of the draws.

    Returns:
        The comparison.

    Raises:
        ConfigError: A name stands for nothing, or there is nothing to compare.
        DataError: The runs are not of the same queries.
    """
    names = [name for run in runs for name in (_compared(run) if isinstance(run, Results) else [os.fspath(run)])]
    request = ComparisonRequest(
        tuple(names),
        (tasks,) if isinstance(tasks, str) else tuple(tasks),
        None if results_dir is None else Path(results_dir),
        measure=measure,
        missing=missing,
        seed=seed,
    )
    with _quiet():
        comparison, _, _ = make_comparison(request, make_console(quiet=True))
    return Compared(comparison)


def _compared(results: Results) -> list[str]:
    """Return the folders of an evaluation's rerankers, or of its retrievers where it has no reranker."""
    stored = [one for one in map(read_stored, results.runs) if one is not None]
    rerankers = [one for one in stored if one.candidates != one.identity]
    return [str(folder) for folder in results.runs if folder.name in {one.identity for one in rerankers or stored}]


def load_reranker(
    model: str | os.PathLike[str] | RerankerConfig, *, device: str = "auto", **settings: Any
) -> CrossEncoder:
    """Load a reranker to score with, or to evaluate by a plain `mteb.evaluate`.

    Args:
        model: A model's name, a config's file (of a grid, its first run's reranker), or a reranker's settings.
        device: `auto` or a torch device.
        **settings: Further keys of the config's `reranker` section, such as `dtype="bfloat16"`.

    Returns:
        An mteb cross-encoder; `score(query, documents)` scores without mteb.

    Raises:
        ConfigError: A setting is unknown, or the config has no reranker.
        DeviceError: This machine has no such device.
        ModelError: The model cannot be loaded as a reranker.
        OfflineError: It has to come from the hub and the hub cannot be reached.
    """
    with _quiet():
        if isinstance(model, RerankerConfig):
            config: RerankerConfig | None = _changed(model, settings)
        else:
            path, changes = _config_or_model(os.fspath(model))
            changes |= {f"reranker.{key}": value for key, value in settings.items()}
            config = read_config(path or choose_config((), None)[0], (), _overrides(changes)).runs[0].reranker
        if config is None:
            raise ConfigError(f"{model}: reranker: is null; there is nothing to score with")
        return load_cross_encoder(config, device)


def _asked(what: Evaluated | None) -> tuple[Path | None, dict[str, Any]]:
    """Return the config that is asked for, and what it changes of it."""
    if what is None:
        return None, {}
    if isinstance(what, str | os.PathLike):
        return _config_or_model(os.fspath(what))
    if isinstance(what, CrossEncoder):
        if what.config is None:
            raise ConfigError("evaluate: this reranker is not from rerank_eval.load_reranker; pass its model's name")
        return None, {"reranker": what.config.model_dump(mode="json"), "device": what.device}
    if isinstance(what, RerankerConfig):
        return None, {"reranker": what.model_dump(mode="json")}
    if scoring_function(what) is None:
        raise ConfigError(
            f"evaluate: a {type(what).__name__} cannot be evaluated; pass a config's file, a model's name, what "
            "rerank_eval.load_reranker returns, or an object with score(query, documents)"
        )
    return None, {"reranker": RerankerConfig(model=_registered(what)).model_dump(mode="json")}


def _registered(part: object) -> str:
    """Return the name of an object of this process, under which a config can name it."""
    title = getattr(part, "__name__", type(part).__name__)
    for number in itertools.count(1):
        name = title if number == 1 else f"{title}-{number}"
        if name not in RERANKERS:
            RERANKERS.register(name, part)
            return name
        if RERANKERS.source(name) is None and RERANKERS.get(name) is part:
            return name
    raise AssertionError


def _config_or_model(name: str) -> tuple[Path | None, dict[str, Any]]:
    """Return the config that a name stands for, or the setting that makes it the reranker's model."""
    return (Path(name), {}) if is_config(name) else (None, {"reranker.model": name})


def _overrides(changes: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value, default=str)}" for key, value in changes.items()]


def _changed(config: RerankerConfig, settings: dict[str, Any]) -> RerankerConfig:
    try:
        return RerankerConfig.model_validate({**config.model_dump(), **settings})
    except ValidationError as error:
        raise ConfigError(f"load_reranker: {explain(error, RerankerConfig)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep libraries' warnings off a notebook, and leave the caller's own warnings as they were."""
    settle()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.captureWarnings(capture=False)
