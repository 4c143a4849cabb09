"""Optional experiment trackers, behind one small interface; a tracker that fails never stops or changes a run."""

from __future__ import annotations

import importlib
import io
import json
import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import pandas as pd

from rerank_eval.config.schema import TrackingConfig
from rerank_eval.errors import ConfigError

logger = logging.getLogger(__name__)

_UNNAMED = re.compile(r"[^\w\-. :/]")  # what MLflow refuses in a metric's name
PATIENCE = 30.0
"""Seconds that a run waits for its tracker, once: what does not answer by then is left alone."""

_CALLS = ("start", "log", "table", "finish")
_SHOWN = 200


@dataclass(frozen=True)
class Tracker:
    """What a tracker does.

    Attributes:
        start: Begins a run, with the config as resolved.
        log: Logs a result: name -> value.
        table: Logs the leaderboard, as CSV.
        finish: Ends the run.
    """

    start: Callable[[Mapping[str, Any]], Any]
    log: Callable[[Mapping[str, float]], Any]
    table: Callable[[str], Any]
    finish: Callable[[], Any]


def _json_lines(path: Path) -> Tracker:
    """Write a line of JSON for each thing that is told, behind what stands in the file."""

    def write(kind: str, content: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({kind: content}, ensure_ascii=False) + "\n")

    return Tracker(
        start=lambda config: write("config", config),
        log=lambda metrics: write("metrics", metrics),
        table=lambda text: write("leaderboard", text),
        finish=lambda: None,
    )


def _wandb(module: Any, project: str) -> Tracker:
    """Use Weights & Biases, or trackio, which has the same functions; `log` is another one once a run has begun."""
    return Tracker(
        start=lambda config: module.init(project=project, config=config),
        log=lambda metrics: module.log({**metrics}),
        table=lambda text: module.log({"leaderboard": module.Table(dataframe=pd.read_csv(io.StringIO(text)))}),
        finish=module.finish,
    )


def _mlflow(module: Any, project: str) -> Tracker:
    def start(config: Mapping[str, Any]) -> None:
        module.set_experiment(project)
        module.start_run()
        module.log_dict(config, "config.json")

    return Tracker(
        start=start,
        log=lambda metrics: module.log_metrics({_UNNAMED.sub("_", name): value for name, value in metrics.items()}),
        table=lambda text: module.log_text(text, "leaderboard.csv"),
        finish=module.end_run,
    )


_PACKAGES = {"trackio": _wandb, "wandb": _wandb, "mlflow": _mlflow}


class Guarded:
    """A `Tracker` whose failures do not reach the run: the first is told, and nothing more is asked of it.

    The tracker works in one thread of its own, which some of them require, and is waited for only so long: a server
    that never answers costs a run one wait. The thread is a daemon, so that it does not hold the process at its end.

    Args:
        tracker: The tracker, or None for none.
        say: Told of the failure, in one line.
        patience: Seconds to wait for each call; None takes `PATIENCE`.
    """

    def __init__(self, tracker: Tracker | None, say: Callable[[str], None], patience: float | None = None) -> None:
        self._tracker, self._say = tracker, say
        self._patience = PATIENCE if patience is None else patience
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self.start, self.log, self.table, self.finish = (partial(self._do, name) for name in _CALLS)
        if tracker is not None:
            Thread(target=_work, args=(self._calls,), name="tracker", daemon=True).start()

    def _do(self, name: str, *arguments: Any) -> None:
        if self._tracker is None:
            return
        done: Future[None] = Future()
        self._calls.put((getattr(self._tracker, name), arguments, done))
        try:
            error = done.exception(self._patience)
        except TimeoutError:
            self._stop(f"no answer to `{name}` in {self._patience:g} seconds")
            return
        if error is not None:
            logger.debug("tracking failed", exc_info=error)
            self._stop(f"{type(error).__name__}: {' '.join(str(error).split())[:_SHOWN]}")
        elif name == "finish":
            self._calls.put(None)

    def _stop(self, why: str) -> None:
        self._tracker = None
        self._calls.put(None)
        self._say(f"tracking stopped, the run goes on: {why}")


_Call = tuple[Callable[..., Any], tuple[Any, ...], Future[None]]


def _work(calls: SimpleQueue[_Call | None]) -> None:
    while (call := calls.get()) is not None:
        do, arguments, done = call
        try:
            do(*arguments)
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)


def make_tracker(config: TrackingConfig | None, results_dir: Path) -> Tracker | None:
    """Make the tracker that a config names.

    Args:
        config: The section `tracking`; None names none.
        results_dir: Where `jsonl` writes.

    Raises:
        ConfigError: Its package is not installed.
    """
    if config is None:
        return None
    if config.tool == "jsonl":
        return _json_lines(results_dir / "tracking.jsonl")
    try:
        module = importlib.import_module(config.tool)
    except ImportError:
        raise ConfigError(
            f"tracking.tool: {config.tool} is not installed; pip install {config.tool}, or leave the key out"
        ) from None
    return _PACKAGES[config.tool](module, config.project)
