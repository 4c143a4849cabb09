"""Optional experiment trackers, behind one small interface; a tracker that fails never stops or changes a run."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, Protocol

from rerank_eval.config.schema import TrackingConfig
from rerank_eval.errors import ConfigError

logger = logging.getLogger(__name__)

_UNNAMED = re.compile(r"[^\w\-. :/]")  # what MLflow refuses in a metric's name
PATIENCE = 30.0
"""Seconds that a run waits for its tracker, once: what does not answer by then is left alone."""

_TOLD = 200
_PACKAGES = {"trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow"}


class Tracker(Protocol):
    """What a tracker is told."""

    def start(self, config: Mapping[str, Any]) -> None:
        """Begin a run.

        Args:
            config: The config as resolved.
        """
        ...

    def log(self, metrics: Mapping[str, float]) -> None:
        """Log a result.

        Args:
            metrics: Name -> value.
        """
        ...

    def table(self, text: str) -> None:
        """Log the leaderboard.

        Args:
            text: CSV.
        """
        ...

    def finish(self) -> None:
        """End the run."""
        ...


class JsonLines:
    """Writes a line of JSON for each thing it is told, to a file in the results folder.

    Args:
        path: The file; what stands there stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def _write(self, kind: str, content: Any) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({kind: content}, ensure_ascii=False) + "\n")

    def start(self, config: Mapping[str, Any]) -> None:
        """See `Tracker.start`."""
        self._write("config", dict(config))

    def log(self, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._write("metrics", dict(metrics))

    def table(self, text: str) -> None:
        """See `Tracker.table`."""
        self._write("leaderboard", text)

    def finish(self) -> None:
        """See `Tracker.finish`."""


class Wandb:
    """Weights & Biases, or trackio, which has the same functions.

    Args:
        module: The imported package.
        project: Its project.
    """

    def __init__(self, module: Any, project: str) -> None:
        self._module, self._project = module, project

    def start(self, config: Mapping[str, Any]) -> None:
        """See `Tracker.start`."""
        self._module.init(project=self._project, config=dict(config))

    def log(self, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._module.log(dict(metrics))

    def table(self, text: str) -> None:
        """See `Tracker.table`."""
        import io

        import pandas as pd

        self._module.log({"leaderboard": self._module.Table(dataframe=pd.read_csv(io.StringIO(text)))})

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._module.finish()


class Mlflow:
    """MLflow.

    Args:
        module: The imported package.
        project: Its experiment.
    """

    def __init__(self, module: Any, project: str) -> None:
        self._module, self._project = module, project

    def start(self, config: Mapping[str, Any]) -> None:
        """See `Tracker.start`."""
        self._module.set_experiment(self._project)
        self._module.start_run()
        self._module.log_dict(dict(config), "config.json")

    def log(self, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._module.log_metrics({_UNNAMED.sub("_", name): value for name, value in metrics.items()})

    def table(self, text: str) -> None:
        """See `Tracker.table`."""
        self._module.log_text(text, "leaderboard.csv")

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._module.end_run()


class Guarded:
    """Keeps a tracker's failures from the run: the first is told, and nothing more is asked of it.

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
        self._asked: SimpleQueue[_Call | None] = SimpleQueue()
        if tracker is not None:
            Thread(target=_work, args=(self._asked,), name="tracker", daemon=True).start()

    def start(self, config: Mapping[str, Any]) -> None:
        """See `Tracker.start`."""
        self._do("start", config)

    def log(self, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._do("log", metrics)

    def table(self, text: str) -> None:
        """See `Tracker.table`."""
        self._do("table", text)

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._do("finish")

    def _do(self, name: str, *arguments: Any) -> None:
        if self._tracker is None:
            return
        call = _Call(getattr(self._tracker, name), arguments)
        self._asked.put(call)
        if not call.done.wait(self._patience):
            self._stop(f"no answer to `{name}` in {self._patience:g} seconds")
        elif call.error is not None:
            logger.debug("tracking failed", exc_info=call.error)
            self._stop(f"{type(call.error).__name__}: {' '.join(str(call.error).split())[:_TOLD]}")
        elif name == "finish":
            self._asked.put(None)

    def _stop(self, why: str) -> None:
        self._tracker = None
        self._asked.put(None)
        self._say(f"tracking stopped, the run goes on: {why}")


@dataclass
class _Call:
    """Something asked of a tracker."""

    do: Callable[..., None]
    arguments: tuple[Any, ...]
    done: Event = field(default_factory=Event)
    error: BaseException | None = None


def _work(asked: SimpleQueue[_Call | None]) -> None:
    while (call := asked.get()) is not None:
        try:
            call.do(*call.arguments)
        except BaseException as error:
            call.error = error
        call.done.set()


def make_tracker(config: TrackingConfig | None, results_dir: Path) -> Tracker | None:
    """Make the tracker that a config names.

    Args:
        config: The section `tracking`, or None.
        results_dir: Where `jsonl` writes.

    Returns:
        The tracker, or None where none is named.

    Raises:
        ConfigError: Its package is not installed.
    """
    if config is None:
        return None
    if config.tool == "jsonl":
        return JsonLines(results_dir / "tracking.jsonl")
    import importlib

    try:
        module = importlib.import_module(_PACKAGES[config.tool])
    except ImportError:
        raise ConfigError(
            f"tracking.tool: {config.tool} is not installed; pip install {_PACKAGES[config.tool]}, or leave the key out"
        ) from None
    return Mlflow(module, config.project) if config.tool == "mlflow" else Wandb(module, config.project)
