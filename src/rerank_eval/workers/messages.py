"""What driver and workers say to each other. Imports neither ray nor torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Handler(Protocol):
    """What a worker holds once its model is loaded; `device` says for people where that is."""

    device: str

    def run(self, items: Sequence[Any]) -> Any:
        """Answer a block's items; what is returned goes to `Spec.unpack`."""
        ...

    @property
    def stats(self) -> Any:
        """What was computed since the model was loaded: adds and subtracts; None where nothing counts."""
        ...


class Spec(Protocol):
    """How a worker gets its model; it travels to the worker by pickle and holds no weights."""

    @property
    def key(self) -> str:
        """Names the model, for those who wait until the first one on a host has read it from the disk."""

    def load(self) -> Handler:
        """Load the model and run it once, so that the first block finds it warm; runs in the worker."""
        ...

    def unpack(self, answer: Any) -> list[Any]:
        """Turn what `Handler.run` returned into one result an item; runs in the driver."""
        ...


@dataclass(frozen=True)
class Loaded:
    """A worker is ready: its host, Ray's id of its node, its process, how long it took, what its log said."""

    host: str
    node: str
    pid: int
    device: str
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class BlockDone:
    """A block is done: what `Handler.run` returned, by how much `Handler.stats` grew, how long it took."""

    answer: Any
    work: Any
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """An error that a user can mend: its class in `rerank_eval.errors`, its line, the host where it was met.

    Another worker would say the same, unless it is met while loading what others have loaded.
    """

    kind: str
    message: str
    host: str


@dataclass(frozen=True)
class Broken:
    """An exception that nobody foresaw; the worker is not to be trusted any more."""

    message: str
    trace: str
