"""Sentences for restrictions, put together from phrases and frames of either polarity.

A network that sees the same few sentences over and over learns those sentences; one that sees "ignore methods" beside
"only plain functions count" has to learn what they mean. No sentence is one of PyInstructionRetrieval's. The last
phrases of each restriction and the last frames of either polarity are never trained on: the evaluation while training
asks with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rerank_demo.frames import BEFORE, LIMITED, OPEN, capital, continued, draw, every, pick

PHRASES: dict[str, tuple[str, ...]] = {
    "methods": (
        "{head} defined within a class",
        "{head} of classes",
        "{head} that some class owns",
        "{head} called on an instance",
        "{head} that do not stand alone",
        "methods",
        "methods of a class",
        "{head} inside a class",
        "members of some class",
        "{head} that belong to a class",
        "methods, which a class defines",
        "{head} with a self",
        "class members",
        "{head} that a class has",
    ),
    "functions": (
        "{head} not in any class",
        "{head} that are not methods",
        "{head} that no class contains",
        "{head} that need no class",
        "{head} directly in a module",
        "non-methods",
        "plain functions",
        "{head} at the top level of a module",
        "{head} without a class",
        "module-level {head}",
        "{head} that stand alone in their module",
        "free functions",
        "{head} of no class",
        "ordinary functions that are no methods",
        "{head} outside of all classes",
    ),
    "raises": (
        "{head} containing raise",
        "{head} where raise occurs",
        "{head} that report errors with raise",
        "{head} raising exceptions",
        "{head} that can fail with an exception of their own",
        "{head} that raise an exception",
        "{head} with a raise statement",
        "{head} that may raise errors on their own",
        "{head} with raise in the body",
        "{head} that signal errors by raise",
        "raising {head}",
        "{head} in which something is raised",
        "{head} that throw by themselves",
    ),
    "raises-not": (
        "{head} where no raise occurs",
        "{head} not containing raise",
        "{head} that do not throw exceptions",
        "{head} which never throw",
        "{head} that raise no errors",
        "{head} that raise no exception",
        "{head} in which nothing is raised",
        "{head} that never raise on their own",
        "{head} without raise in the body",
        "{head} that do not raise",
        "{head} lacking a raise statement",
        "{head} with no raise in them",
        "{head} free of raise statements",
    ),
    "asyncio": (
        "{head} from asyncio",
        "{head} defined as async",
        "{head} to be awaited",
        "{head} in asynchronous style",
        "coroutines",
        "asynchronous {head}",
        "async {head}",
        "{head} of the package asyncio",
        "{head} with async in front of def",
        "{head} for the event loop",
        "pieces of asyncio code",
        "{head} written as async def",
    ),
    "asyncio-not": (
        "{head} neither async nor from asyncio",
        "{head} that are not coroutines",
        "non-async {head}",
        "{head} that nobody awaits",
        "{head} outside asyncio and not async",
        "synchronous {head}",
        "{head} that are not async",
        "ordinary blocking {head}",
        "{head} with a plain def and no async",
        "{head} that have nothing to do with asyncio",
        "{head} that need no event loop",
        "{head} without async",
        "{head} other than coroutines",
    ),
    "public": (
        "{head} that anyone may call",
        "{head} not starting with an underscore",
        "{head} whose name has no underscore in front",
        "non-private {head}",
        "official {head}",
        "public {head}",
        "{head} with public names",
        "{head} named without a leading underscore",
        "{head} of the public interface",
        "{head} with no underscore in front of the name",
        "{head} meant for users",
        "{head} that are not private",
        "{head} whose name starts with a letter",
    ),
    "private": (
        "{head} starting with an underscore",
        "{head} hidden behind an underscore",
        "non-public {head}",
        "{head} that are not public",
        "{head} not meant for users",
        "private {head}",
        "internal helpers",
        "{head} named with a leading underscore",
        "{head} with an underscore in front of the name",
        "internal {head}",
        "{head} that users do not call",
        "{head} with private or special names",
        "{head} whose name starts with an underscore",
    ),
    "returns": (
        "{head} giving a value back",
        "{head} that produce a result",
        "{head} with a value after return",
        "{head} returning something",
        "{head} that do return something",
        "{head} that return a value",
        "{head} with a return value",
        "{head} that give something back",
        "{head} that hand back a value",
        "{head} that end in the return of something",
        "{head} with a result to use",
        "{head} that return a result",
        "{head} that deliver a result",
    ),
    "returns-not": (
        "{head} with no return value",
        "{head} that do not return anything",
        "{head} returning nothing",
        "{head} that do not give a value back",
        "{head} that lack a result",
        "procedures",
        "{head} without a return value",
        "{head} that return nothing",
        "{head} called for their effects",
        "{head} that return None",
        "{head} without a result",
        "{head} that give nothing back",
        "{head} that deliver no result",
    ),
    "decorated": (
        "{head} having a decorator",
        "{head} with @ above them",
        "{head} marked by a decorator",
        "properties, static methods and the like",
        "decorated {head}",
        "{head} with a decorator",
        "{head} under an @ line",
        "{head} with one decorator or more",
        "properties, class methods and other decorated {head}",
        "{head} below a line that starts with @",
        "properties and other decorated definitions",
        "{head} that carry a decorator",
    ),
    "decorated-not": (
        "{head} having no decorator",
        "{head} with no @ above",
        "{head} without any decorator",
        "{head} not marked by decorators",
        "undecorated {head}",
        "{head} without a decorator",
        "{head} with no @ line above them",
        "{head} that have no decorator",
        "bare {head} without decorators",
        "{head} with nothing above their def",
        "{head} that are not decorated",
        "{head} that carry no decorator",
    ),
    "package": (
        "{head} defined in {package}",
        "{head} from {package}",
        "what {package} offers",
        "members of {package}",
        "{package}'s own {head}",
        "{head} of {package}",
        "parts of {package}",
        "{head} in the package {package}",
        "{package} {head}",
        "{head} out of {package}",
        "{head} that belong to {package}",
        "things from {package}",
        "{head} that {package} brings",
    ),
    "package-not": (
        "{head} not from {package}",
        "{head} defined outside of {package}",
        "{head} which {package} does not offer",
        "{head} from packages that are not {package}",
        "what is not in {package}",
        "{head} outside {package}",
        "{head} from elsewhere than {package}",
        "parts of packages other than {package}",
        "{head} that do not belong to {package}",
        "{head} of other packages than {package}",
        "non-{package} {head}",
        "things that are not from {package}",
        "{head} that {package} does not bring",
    ),
}
HELD_OUT_PHRASES = 2
"""Phrases of each restriction that are not trained on."""
HEADS = ("functions", "code", "functions or methods", "definitions", "things", "functions and methods", "documents")
"""What a phrase speaks of."""
BOTH = 0.2
"""Share of restrictions that are worded from both sides."""
_OPPOSITES = {"methods": "functions", "functions": "methods", "public": "private", "private": "public"}


@dataclass(frozen=True)
class Clause:
    """A sentence of an instruction.

    Attributes:
        named: The restriction whose phrase it has.
        wanted: Whether that is wanted; else its opposite is.
        end: Characters of the instruction up to the sentence's end.
    """

    named: str
    wanted: bool
    end: int

    @property
    def key(self) -> str:
        """What it wants."""
        return self.named if self.wanted else opposite(self.named)


def kind_of(key: str) -> str:
    """Return what a restriction restricts to: `package` for `package:numpy`."""
    return key.partition(":")[0]


def opposite(key: str) -> str:
    """Return the restriction that holds where this one does not."""
    kind, colon, package = key.partition(":")
    other = _OPPOSITES.get(kind) or (kind.removesuffix("-not") if kind.endswith("-not") else f"{kind}-not")
    return f"{other}{colon}{package}"


class Wordings:
    """Words restrictions.

    Args:
        held_out: Use the phrases and frames that are not trained on, and those alone.
    """

    def __init__(self, *, held_out: bool = False) -> None:
        self._held_out = held_out

    def open(self, generator: np.random.Generator) -> str:
        """Word an instruction without a restriction."""
        return pick(OPEN, generator)

    def limited(self, keys: Sequence[str], generator: np.random.Generator) -> tuple[str, list[Clause]]:
        """Word an instruction with restrictions.

        Args:
            keys: The restrictions, such as `methods` and `package-not:numpy`.
            generator: Decides.

        Returns:
            The text, and its sentences that restrict.
        """
        text, clauses = pick(LIMITED, generator), list[Clause]()
        for key in keys:
            added, own = self.sentence(key, generator)
            start = len(text) + 1 if text else 0
            text = f"{text} {added}" if text else added
            clauses += [replace(one, end=start + one.end) for one in own]
        return text, clauses

    def sentence(self, key: str, generator: np.random.Generator) -> tuple[str, list[Clause]]:
        """Word a restriction: what is wanted, or what its opposite is, unwanted, or both in either order.

        Returns:
            The text, and its sentences.
        """
        forms = [(key, True), (opposite(key), False)]
        drawn = generator.random()
        chosen = forms if drawn < BOTH else forms[:1] if drawn < (1 + BOTH) / 2 else forms[1:]
        if generator.random() < 0.5:  # noqa: PLR2004 - a coin
            chosen = chosen[::-1]
        whole, clauses = "", list[Clause]()
        for named, wanted in chosen:
            text = self._framed(named, wanted, generator)
            whole = continued(whole, text, generator) if whole else text
            clauses.append(Clause(named, wanted, len(whole)))
        return whole, clauses

    def _framed(self, named: str, wanted: bool, generator: np.random.Generator) -> str:
        phrases = PHRASES[kind_of(named)]
        phrases = phrases[-HELD_OUT_PHRASES:] if self._held_out else phrases[:-HELD_OUT_PHRASES]
        frame = draw(wanted, self._held_out, generator)
        return pick(BEFORE, generator) + _filled(frame, pick(phrases, generator), named, pick(HEADS, generator))


def worded(key: str, texts: Collection[str]) -> set[str]:
    """Return which of some texts are sentences for a restriction, of which there are millions."""
    lower = [text.lower() for text in texts]
    found = set[str]()
    for named, wanted in ((key, True), (opposite(key), False)):
        for phrase, head in itertools.product(PHRASES[kind_of(named)], HEADS):
            if any(_filled("{x}", phrase, named, head).lower() in text for text in lower):
                found |= {text for frame in every(wanted) if (text := _filled(frame, phrase, named, head)) in texts}
    return found


def _filled(frame: str, phrase: str, key: str, head: str) -> str:
    return capital(frame.format(x=phrase.format(package=key.partition(":")[2], head=head)))
