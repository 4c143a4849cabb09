"""Rules about texts that the embedded tasks share: sentences, what makes a query, splits, fixed orders."""

from __future__ import annotations

import hashlib
import inspect
import re
from typing import Literal

MIN_QUERY_WORDS = 4
MAX_QUERY_CHARACTERS = 400

Split = Literal["train", "test"]

_WORD = re.compile(r"[A-Za-z][A-Za-z'-]+")
_SIGNATURE = re.compile(r"^[A-Za-z_][\w.]*\s?\(.*\)(\s*->.*)?[.:]?$")
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)(?<!\betc)(?<!\bcf)[.!?](?=\s+[^a-z\s]|\s*$)")
_POINTER = re.compile(
    r"^(see|same as|like|as for|ditto|overrid\w*|deprecated|undocumented|internal|todo|implements?|implementation of)\b"
    r"(?!.*\b(return|read|write|convert|parse|create|check)s?\b)",
    re.IGNORECASE,
)
_GRAMMAR = re.compile(r"^[\w-]+ = |\[?CFWS\]?")


def split_of(package: str) -> Split:
    """Assign a top-level module or package to the train or the test split.

    Args:
        package: Top-level name. `_pydatetime` and `datetime`, `_collections_abc` and `collections` are families: they
            hold the same code in one version or another, and a family is never divided.

    Returns:
        The split, by the first bit of the SHA-256 of "split 196:" and the family's name. 196 was chosen so that the
        halves hold about the same number of functions on Python 3.11 to 3.13, `asyncio`, `email`, `http` and
        `logging` are tested on, and the 200 look-alikes of `tkinter` are not.
    """
    family = re.sub(r"^_(py)?", "", package).partition("_")[0]
    return "test" if hashlib.sha256(f"split 196:{family}".encode()).digest()[0] < 128 else "train"  # noqa: PLR2004


def sha_order(text: str) -> str:
    """Return a key that sorts texts in an order that is fixed and means nothing.

    Args:
        text: An id; prefix it with a purpose so that two uses do not share one order.

    Returns:
        The SHA-256 of the text, in hexadecimal.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def normalised(text: str) -> str:
    """Return a text in lower case with its letters and digits only, words parted by one blank.

    Returns:
        What two texts share when they say the same in another layout.
    """
    return " ".join(re.findall(r"[a-z0-9]+", text.casefold()))


def sentences(docstring: str) -> list[str]:
    """Split the first telling paragraph of a docstring into sentences.

    Args:
        docstring: As `ast.get_docstring` returns it. A first paragraph that only repeats the signature
            (`loads(s) -> object`) is passed over.

    Returns:
        The sentences, each on one line; empty when there is no text.
    """
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        text = " ".join(paragraph.split())
        if not text or _SIGNATURE.match(text):
            continue
        found, start = [], 0
        for end in _SENTENCE_END.finditer(text):
            found.append(text[start : end.end()].strip())
            start = end.end()
        rest = text[start:].strip()
        return [*found, rest] if rest else found
    return []


def informative(query: str) -> bool:
    """Tell whether a docstring's sentence can serve as a query.

    Returns:
        False for fewer than four words, more than 400 characters, and sentences that only point elsewhere
        ("See base class."), and rules of a grammar, as `email` has them.
    """
    enough = len(_WORD.findall(query)) >= MIN_QUERY_WORDS and len(query) <= MAX_QUERY_CHARACTERS
    return enough and not _POINTER.match(query) and not _GRAMMAR.search(query)
