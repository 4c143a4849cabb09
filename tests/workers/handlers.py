"""A worker without a model: items say what is to happen to the process that meets them."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rerank_eval.errors import ModelError


@dataclass(frozen=True)
class Item:
    """A text to digest, and what happens on the way.

    Attributes:
        text: The text.
        seconds: How long it takes.
        act: `die`, `raise` or `refuse`; empty for nothing.
        until: A file that counts how often it happened; it stops at `times`.
        times: How often it happens.
    """

    text: str
    seconds: float = 0.0
    act: str = ""
    until: str = ""
    times: int = 1_000_000

    def happens(self) -> bool:
        if not self.act:
            return False
        path = Path(self.until)
        count = int(path.read_text()) if path.exists() else 0
        if count >= self.times:
            return False
        path.write_text(str(count + 1))
        return True


class Digester:
    """Digests texts."""

    device = "none"

    def __init__(self) -> None:
        self._done = 0

    def run(self, items: Sequence[Item]) -> list[tuple[str, int]]:
        return [self._one(item) for item in items]

    def _one(self, item: Item) -> tuple[str, int]:
        time.sleep(item.seconds)
        if item.happens():
            if item.act == "die":
                os._exit(1)
            if item.act == "raise":
                raise ZeroDivisionError(item.text)
            raise ModelError(f"{item.text}: not to be scored")
        self._done += 1
        return item.text, zlib.crc32(item.text.encode())

    @property
    def stats(self) -> np.ndarray:
        return np.array([self._done])

    def process(self) -> int:
        return os.getpid()

    def variable(self, name: str) -> str | None:
        return os.environ.get(name)


@dataclass(frozen=True)
class DigesterSpec:
    """How a worker becomes a digester.

    Attributes:
        act: What happens while it loads; see `Item`.
        until: See `Item`.
        times: See `Item`.
        spared: Loads that go well before that.
    """

    act: str = ""
    until: str = ""
    times: int = 1_000_000
    spared: int = 0
    key: str = "digester"

    def load(self) -> Digester:
        first = Item("model.safetensors", act="load", until=f"{self.until}.spared", times=self.spared)
        if not (self.spared and first.happens()):
            Digester().run([Item("model.safetensors", act=self.act, until=self.until, times=self.times)])
        return Digester()

    def unpack(self, answer: list[tuple[str, int]]) -> list[tuple[str, int]]:
        return list(answer)


def weigh(item: Item) -> float:
    return len(item.text)


def name(item: Item) -> str:
    return f"item {item.text!r}"


def digests(items: Sequence[Item]) -> list[tuple[str, int]]:
    """What comes out, computed here."""
    return [(item.text, zlib.crc32(item.text.encode())) for item in items]
