"""The worker's side: one process that holds a model and answers blocks. torch is imported after threads are set."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rerank_eval.engine.quiet import hush
from rerank_eval.errors import RerankEvalError
from rerank_eval.names import digest
from rerank_eval.workers.messages import BlockDone, Broken, Handler, Loaded, Refused, Spec

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_TRACE_CHARACTERS = 8_000

Result = TypeVar("Result")


class Worker:
    """What becomes a Ray actor.

    Exceptions never leave it as objects: many cannot be pickled, or not be read back where a library is missing.

    Args:
        threads: Threads of the model and of the tokenizer.
        environment: Variables that the driver found out for all, such as that the hub is out of reach.
    """

    def __init__(self, threads: int, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
        hush()
        self._threads = threads
        self._handler: Handler | None = None
        self._heard: list[str] = []
        logger = logging.getLogger("rerank_eval")
        logger.propagate = False
        logger.addHandler(_Listener(self._heard))

    def load(self, spec: Spec) -> Loaded | Refused | Broken:
        """Load the model."""

        def load() -> Loaded:
            import ray
            import torch

            node = ray.get_runtime_context().get_node_id()

            torch.set_num_threads(self._threads)
            started = time.perf_counter()
            with first_alone(f"{node}-{spec.key}"):
                self._handler = spec.load()
            if "torch" in sys.modules:  # which read the variables above, unless a library told it otherwise
                sys.modules["torch"].set_num_threads(self._threads)
            seconds = time.perf_counter() - started
            device = _named(self._handler.device)
            return Loaded(socket.gethostname(), node, os.getpid(), device, seconds, self._said())

        return _caught(load)

    def run(self, items: Sequence[Any]) -> BlockDone | Refused | Broken:
        """Answer a block of items."""

        def run() -> BlockDone:
            assert self._handler is not None  # noqa: S101 - a worker gets blocks once it is loaded
            before, started = self._handler.stats, time.perf_counter()
            answer = self._handler.run(items)
            seconds = time.perf_counter() - started
            work = None if before is None else self._handler.stats - before
            return BlockDone(answer, work, seconds, self._said())

        return _caught(run)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call any method of the handler."""
        return _caught(lambda: getattr(self._handler, method)(*arguments))

    def _said(self) -> tuple[str, ...]:
        said = tuple(self._heard)
        self._heard.clear()
        return said


class _Listener(logging.Handler):
    """Keeps warnings until the next answer takes them along: a worker has no log file of its own."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(record.getMessage())


def _named(device: str) -> str:
    """Say which device a model is on, as a single process does; a model of unknown kind may not tell."""
    from rerank_eval.engine.errors import EngineError
    from rerank_eval.engine.loading import device_name

    try:
        return device_name(device)
    except EngineError:
        return device


def _caught(call: Callable[[], Result]) -> Result | Refused | Broken:
    try:
        return call()
    except RerankEvalError as error:
        return Refused(type(error).__name__, str(error), socket.gethostname())
    except Exception as error:
        return Broken(f"{type(error).__name__}: {error}", traceback.format_exc()[-_TRACE_CHARACTERS:])


@contextmanager
def first_alone(key: str) -> Iterator[None]:
    """Let the first process of a host do what `key` names alone, and the others after it, all at once.

    Eight workers that start together would read the same checkpoint from a slow disk eight times over; behind the
    first, they find it in the system's cache.
    """
    try:
        import fcntl
    except ImportError:  # Windows: all at once
        yield
        return
    path = Path(tempfile.gettempdir()) / f"rerank-eval-{os.getuid()}-{digest([key])}.lock"
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        first = not path.stat().st_size
        if not first:
            fcntl.flock(handle, fcntl.LOCK_UN)
        yield
        if first:  # on an error the file stays empty, and the next one is the first
            handle.write(f"{os.getpid()}\n")
