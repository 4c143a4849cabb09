"""Mutations of good inputs, all decided by a stream of bytes, so that hypothesis and atheris can drive them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**40,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\ud800",
    "\x00",
    "\x1b]0;x\x07",
    "../../x",
    "=cmd|' /C calc'!A0",
    "a\nb\r\tc",
    "\u202eabc",
    "$\\frac{",
    "[red]x[/]",
    "<script>",
    "x" * 3000,
    [],
    {},
    [[]],
    {"": None},
    ["a", 1],
)
"""What stands where something else should."""


class Stream:
    """Decisions from bytes; when they are used up, all further ones are 0.

    Args:
        data: The bytes.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    @property
    def left(self) -> bool:
        """Whether there are bytes left."""
        return self._place < len(self._data)

    def below(self, limit: int) -> int:
        """Choose a number below a limit."""
        taken = self._data[self._place : self._place + 2]
        self._place += 2
        return int.from_bytes(taken, "little") % limit if limit > 0 else 0

    def take(self, count: int) -> bytes:
        """Take bytes as they are."""
        taken = self._data[self._place : self._place + count]
        self._place += count
        return taken


def mutated(data: bytes, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Make an input of a good one.

    Args:
        data: Decides everything.
        seeds: Good inputs.
        words: What is put in.
    """
    stream = Stream(data)
    value = seeds[stream.below(len(seeds))]
    if stream.below(8) == 0:
        return stream.take(len(data))
    if value[:1] == b"{" and b"\n%%%\n" not in value and stream.below(4):
        value = _json_mutated(value, stream)
        if stream.below(4):
            return value
    for _ in range(8):
        if not stream.left:
            break
        value = _MUTATIONS[stream.below(len(_MUTATIONS))](value, stream, words)
    return value


def _json_mutated(value: bytes, stream: Stream) -> bytes:
    """Put odd values into a JSON document at some places, or take keys out."""
    try:
        tree = json.loads(value)
    except ValueError:
        return value
    for _ in range(1 + stream.below(3)):
        node: Any = tree
        while isinstance(node, dict | list) and node:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = keys[stream.below(len(keys))]
            inner = node[key]
            if isinstance(inner, dict | list) and inner and stream.below(5):
                node = inner
                continue
            if stream.below(6) == 0:
                del node[key]
            else:
                node[key] = copy.deepcopy(VALUES[stream.below(len(VALUES))])
            break
    return json.dumps(tree).encode()


def _insert(value: bytes, stream: Stream, words: Sequence[bytes]) -> bytes:
    place = stream.below(len(value) + 1)
    return value[:place] + _word(stream, words) + value[place:]


def _replace(value: bytes, stream: Stream, words: Sequence[bytes]) -> bytes:
    place, length = stream.below(len(value) + 1), stream.below(12)
    return value[:place] + _word(stream, words) + value[place + length :]


def _delete(value: bytes, stream: Stream, _: Sequence[bytes]) -> bytes:
    place, length = stream.below(len(value) + 1), 1 + stream.below(20)
    return value[:place] + value[place + length :]


def _flip(value: bytes, stream: Stream, _: Sequence[bytes]) -> bytes:
    if not value:
        return value
    place = stream.below(len(value))
    return value[:place] + bytes([value[place] ^ (1 << stream.below(8))]) + value[place + 1 :]


def _repeat(value: bytes, stream: Stream, _: Sequence[bytes]) -> bytes:
    place, length = stream.below(len(value) + 1), 1 + stream.below(40)
    return (value[:place] + value[place : place + length] * (2 + stream.below(200)) + value[place + length :])[:60_000]


def _cut(value: bytes, stream: Stream, _: Sequence[bytes]) -> bytes:
    return value[: stream.below(len(value) + 1)]


def _word(stream: Stream, words: Sequence[bytes]) -> bytes:
    if words and stream.below(4):
        return words[stream.below(len(words))]
    return stream.take(1 + stream.below(6))


_MUTATIONS: tuple[Callable[[bytes, Stream, Sequence[bytes]], bytes], ...] = (
    _insert,
    _replace,
    _delete,
    _flip,
    _repeat,
    _cut,
)
