"""What a long run shows: a bar with rates on a terminal, a line now and then elsewhere, a log file always."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from rerank_eval.errors import StorageError
from rerank_eval.files import storage_error
from rerank_eval.visible import VisibleFormatter, make_console

logger = logging.getLogger("rerank_eval")

_QUIET_SECONDS = 30.0
"""Without a terminal, a stage that lasts longer than this reports once in so many seconds."""


class Bar:
    """Progress of one stage of one task.

    Args:
        say: Told how far it is, where there is no terminal.
        label: What is being done, such as `rerank SciFact`.
        total: Items in all.
        unit: What an item is: `pairs` or `texts`.
        progress: The live display, or None where there is no terminal.
    """

    def __init__(
        self, say: Callable[[str], None], label: str, total: int, unit: str, *, progress: Progress | None
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self.tokens = self.stored = 0
        self.started = self._last_line = time.monotonic()
        self._say, self._progress = say, progress
        self._task = progress.add_task(label, total=total, speed="") if progress is not None else None

    def advance(self, items: int, tokens: int = 0, stored: int = 0) -> None:
        """Count items as done.

        Args:
            items: How many.
            tokens: Prompt tokens that went through the model for them.
            stored: Items among them that were done in an earlier run; they say nothing of this one's speed.
        """
        self.done += items
        self.tokens += tokens
        self.stored += stored
        if self._progress is not None and self._task is not None:
            speed = self._speed() if self.done > self.stored else ""
            self._progress.update(self._task, advance=items, speed=speed)
        elif time.monotonic() - self._last_line >= _QUIET_SECONDS:
            self._last_line = time.monotonic()
            self._say(f"  {self.label}: {self.describe()}")

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self.started

    def _speed(self) -> str:
        seconds = max(self.seconds, 1e-9)
        text = f"{(self.done - self.stored) / seconds:,.0f} {self.unit}/s"
        return f"{text}, {self.tokens / seconds:,.0f} tokens/s" if self.tokens else text

    def describe(self) -> str:
        """Say how far it is, how fast, and how long it still takes."""
        fresh = self.done - self.stored
        text = f"{self.done:,}/{self.total:,} {self.unit}, {self._speed()}"
        if self.stored:
            text += f", {self.stored:,} from the score cache"
        if self.done >= self.total:
            return f"{text}, {self.seconds:,.1f} s"
        left = (self.total - self.done) * self.seconds / fresh if fresh else float("inf")
        return f"{text}, {left:,.0f} s left"


class Reporter:
    """Prints what happens on standard output and writes it to a log file; progress goes to standard error.

    Args:
        console: For what the user asked for.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or make_console(soft_wrap=True)
        self._progress_console = make_console(file=sys.stderr)
        self._live = self._progress_console.is_terminal and not self.console.quiet

    def say(self, text: str) -> None:
        """Print a line and log it; the text is not markup."""
        self.console.print(text, markup=False)
        logger.info(text.strip())

    @contextmanager
    def bar(self, label: str, total: int, unit: str) -> Iterator[Bar]:
        """Show one stage's progress: yields the `Bar` to advance."""
        if not self._live:
            yield Bar(self.say, label, total, unit, progress=None)
            return
        with Progress(
            # Where room is short the name gives way, not the numbers.
            TextColumn("  {task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=12, table_column=Column(min_width=12)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.fields[speed]}", style="progress.data.speed", markup=False, table_column=Column(no_wrap=True)
            ),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            expand=True,
            console=self._progress_console,
            transient=True,
        ) as progress:
            yield Bar(self.say, label, total, unit, progress=progress)


class _Once(logging.Filter):
    """Lets a message pass once: each row that reads a data set has the same to say of it."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in self._seen
        self._seen.add(message)
        return new


def open_log(results_dir: Path, console: Console) -> Path:
    """Send our log to a file in the results folder, and warnings to the console as well, each once.

    Args:
        results_dir: The results folder; the file stands under its `logs`, and its path is returned.
        console: For warnings.

    Raises:
        StorageError: The folder cannot be written.
    """
    path = results_dir / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise storage_error(error, path) or StorageError(f"{path}: cannot be written ({error.strerror})") from error
    handler.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    shown = RichHandler(console=console, show_time=False, show_path=False, level=logging.WARNING, markup=False)
    shown.addFilter(_Once())
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    logger.addHandler(shown)
    _quieten(handler)
    return path


def leave_nothing(results_dir: Path, log: Path) -> None:
    """Remove the results folder of a run that could not begin, where it holds nothing but this log."""
    if any(path.is_file() and path != log for path in results_dir.rglob("*")):
        return
    for handler in list(logger.handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename) == log.absolute():
            logger.removeHandler(handler)
            handler.close()
    with suppress(OSError):  # another process has begun to write there
        log.unlink(missing_ok=True)
        for folder in sorted((path for path in results_dir.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        results_dir.rmdir()


def _quieten(handler: logging.Handler) -> None:
    """Keep other libraries' bars and chatter off the terminal; their warnings go to the log file."""
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.captureWarnings(capture=True)
    for name in ("mteb", "datasets", "sentence_transformers", "bm25s", "huggingface_hub", "py.warnings"):
        other = logging.getLogger(name)
        other.handlers = [handler]
        other.setLevel(logging.WARNING)
        other.propagate = False
