"""Listwise rerankers, as a package of somebody else's would declare them: what they say depends on the list."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def _note(documents: Sequence[str]) -> None:
    """Write down how many documents were ranked, and die after so many windows where a test asks for it."""
    if log := os.environ.get("LIST_ORDER_LOG"):
        with Path(log).open("a") as handle:
            print(len(documents), file=handle)
        if len(Path(log).read_text().split()) == int(os.environ.get("LIST_ORDER_DIES_AFTER", "0")):
            os.kill(os.getpid(), signal.SIGKILL)


class FirstWins:
    """Ranks by common words, but favours what stands at the top of the window, as language models do.

    Args:
        bias: What the first document of a window has ahead of the last one, in words.
    """

    revision = "1"

    def __init__(self, bias: float = 1.0) -> None:
        self.bias = bias

    def rank(self, query: str, documents: Sequence[str], instruction: str | None) -> list[int]:
        _note(documents)
        asked = words(f"{instruction or ''} {query}")
        shares = [len(asked & words(one)) - self.bias * place / len(documents) for place, one in enumerate(documents)]
        return sorted(range(len(documents)), key=lambda place: -shares[place])


class Talks(FirstWins):
    """Answers in text, and forgets the last document of each window."""

    def rank(self, query: str, documents: Sequence[str], instruction: str | None) -> str:  # type: ignore[override]
        ranking = super().rank(query, documents, instruction)
        return " > ".join(f"[{place + 1}]" for place in ranking[:-1])


class Together:
    """Scores a list at once: each document by the words that no document before it has."""

    listwise = True
    revision = "1"

    def score(self, query: str, documents: Sequence[str]) -> list[float]:
        left, scores = words(query), []
        for document in documents:
            found = left & words(document)
            scores.append(float(len(found)))
            left -= found
        return scores


class Keeps:
    """Leaves every window as it is."""

    revision = "1"

    def rank(self, query: str, documents: Sequence[str]) -> list[int]:
        return list(range(len(documents)))


class OneBased:
    """Counts documents from 1."""

    revision = "1"

    def rank(self, query: str, documents: Sequence[str], instruction: str | None) -> list[int]:
        return list(range(1, len(documents) + 1))


class Fails:
    """Raises what it likes."""

    revision = "1"

    def rank(self, query: str, documents: Sequence[str], instruction: str | None) -> list[int]:
        raise KeyError("a key")
