"""Small real text: sentences and functions of the Python that runs this, and generated Chinese ones. Seeded."""

from __future__ import annotations

import difflib
import functools
import inspect
import json.decoder
import random
import re
import statistics
import textwrap
from pydoc_data.topics import topics
from types import ModuleType

_SENTENCE = re.compile(r"[A-Z][^.!?]{40,160}\.")
_WORD = re.compile(r"\w{4,}")
_MODULES: tuple[ModuleType, ...] = (difflib, json.decoder, statistics, textwrap, inspect)
_WHO = ["医生", "老师", "工程师", "学生", "农民", "司机"]
_DOES = ["正在研究", "喜欢", "介绍", "购买", "讨论"]
_WHAT = ["疫苗", "手机", "视频", "茶叶", "论文", "地图"]


@functools.cache
def sentences() -> tuple[str, ...]:
    """Return a few thousand sentences of Python's manual."""
    return tuple(" ".join(found.split()) for text in topics.values() for found in _SENTENCE.findall(text))


@functools.cache
def functions() -> tuple[str, ...]:
    """Return the sources of a few hundred functions of the standard library."""
    found: dict[str, None] = {}
    for module in _MODULES:
        for _, member in inspect.getmembers(module, inspect.isfunction):
            if member.__module__ == module.__name__:
                found.setdefault(inspect.getsource(member))
    return tuple(found)


class Writer:
    """Writes documents and queries of one kind.

    Args:
        kind: `english`, `chinese` or `code`.
        seed: The same seed gives the same texts.
    """

    def __init__(self, kind: str, seed: str) -> None:
        self.kind = kind
        self._random = random.Random(seed)

    def document(self, characters: int = 0) -> str:
        """Write a document of at least so many characters."""
        text = self._passage()
        while len(text) < characters:
            text += " " + self._passage()
        return text

    def query(self, document: str) -> str:
        """Ask for a document by some of its words."""
        if self.kind == "chinese":
            return f"谁在{document[:12]}"
        words = list(dict.fromkeys(_WORD.findall(document[:600])))
        return "which passage tells of " + " ".join(self._random.sample(words, min(6, len(words))))

    def _passage(self) -> str:
        if self.kind == "code":
            return self._random.choice(functions())
        if self.kind == "chinese":
            return "".join(self._chinese_sentence() for _ in range(3))
        return " ".join(self._random.sample(sentences(), 2))

    def _chinese_sentence(self) -> str:
        who, does, what = (self._random.choice(words) for words in (_WHO, _DOES, _WHAT))
        return f"{who}{does}第{self._random.randrange(10_000)}号{what}。"
