"""Sentences for restrictions, put together from phrases and frames of either polarity.

A network that sees the same few sentences over and over learns those sentences; one that sees "ignore methods" beside
"only plain functions count" has to learn what they mean. No sentence is one of PyInstructionRetrieval's. The last
phrase of each restriction and the last frames of either polarity are never trained on: the evaluation while training
asks with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

OPEN = (
    "Any function or method on the subject counts, wherever it comes from.",
    "Find code about the topic. There are no further conditions.",
    "Everything that concerns the topic is welcome, whatever its kind.",
    "Given a topic, retrieve the Python code that deals with it",
    "All that deals with the topic is relevant.",
    "No restrictions: every function about the topic will do.",
)
LIMITED = (
    "Find code about the topic that also meets a condition.",
    "Not all code on the subject counts.",
    "Code must be about the topic and fulfil this.",
    "Given a topic and a condition, retrieve the Python code that satisfies both.",
    "Mind the restriction.",
    "The topic alone is not enough.",
    "Given a topic, retrieve the Python code that deals with it, under a condition.",
    "",
)
WANTED = (
    "Only {x} are wanted.",
    "Only {x} are relevant.",
    "Restrict yourself to {x}.",
    "Show me {x} and nothing else.",
    "{x} count, the rest does not.",
    "What I need are {x}.",
    "Keep {x}, drop everything else.",
    "The answer must consist of {x}.",
    "Relevant: {x}.",
    "It has to be about {x}.",
    "I am after {x}.",
    "Nothing but {x} will do.",
    "Confine the search to {x}.",
)
UNWANTED = (
    "{x} are irrelevant.",
    "{x} are not relevant.",
    "Ignore {x}.",
    "No {x}, please.",
    "Leave {x} aside.",
    "Exclude {x}.",
    "{x} do not count.",
    "I have no use for {x}.",
    "Skip {x}.",
    "Not relevant: {x}.",
    "Anything except {x}.",
    "Spare me {x}.",
    "{x} should be filtered out.",
)
PHRASES: dict[str, tuple[str, ...]] = {
    "methods": (
        "methods",
        "methods of a class",
        "functions inside classes",
        "members of some class",
        "methods, which a class defines",
        "functions that a class has",
    ),
    "functions": (
        "plain functions",
        "functions at the top level of their module",
        "functions without a class",
        "ordinary functions that are no methods",
        "functions outside of all classes",
    ),
    "raises": (
        "functions that raise an exception",
        "functions with a raise statement",
        "functions that may raise errors on their own",
        "functions in which something is raised",
        "functions that throw by themselves",
    ),
    "raises-not": (
        "functions that raise no exception",
        "functions in which nothing is raised",
        "functions that never raise on their own",
        "functions with no raise in them",
        "functions free of raise statements",
    ),
    "asyncio": (
        "coroutines",
        "asynchronous functions",
        "async functions",
        "pieces of asyncio code",
        "functions written as async def",
    ),
    "asyncio-not": (
        "synchronous functions",
        "functions that are not async",
        "ordinary blocking functions",
        "functions without async",
        "functions other than coroutines",
    ),
    "public": (
        "public functions",
        "functions with public names",
        "functions named without a leading underscore",
        "functions that are not private",
        "functions whose name starts with a letter",
    ),
    "private": (
        "private functions",
        "internal helpers",
        "functions named with a leading underscore",
        "functions with private or special names",
        "functions whose name starts with an underscore",
    ),
    "returns": (
        "functions that return a value",
        "functions with a return value",
        "functions that give something back",
        "functions that return a result",
        "functions that deliver a result",
    ),
    "returns-not": (
        "procedures",
        "functions without a return value",
        "functions that return nothing",
        "functions that give nothing back",
        "functions that deliver no result",
    ),
    "decorated": (
        "decorated functions",
        "functions with a decorator",
        "functions under an @ line",
        "properties and other decorated definitions",
        "definitions that carry a decorator",
    ),
    "decorated-not": (
        "undecorated functions",
        "functions without a decorator",
        "functions with no @ line above them",
        "definitions that are not decorated",
        "definitions that carry no decorator",
    ),
    "package": (
        "functions of {package}",
        "parts of {package}",
        "functions in the package {package}",
        "things from {package}",
        "functions that {package} brings",
    ),
    "package-not": (
        "functions outside {package}",
        "functions from elsewhere than {package}",
        "parts of packages other than {package}",
        "things that are not from {package}",
        "functions that {package} does not bring",
    ),
}
HELD_OUT_FRAMES = 2
"""Frames of either polarity that are not trained on."""
_OPPOSITES = {"methods": "functions", "functions": "methods", "public": "private", "private": "public"}


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
        return _pick(OPEN, generator)

    def limited(self, keys: Sequence[str], generator: np.random.Generator) -> str:
        """Word an instruction with restrictions.

        Args:
            keys: The restrictions, such as `methods` and `package-not:numpy`.
            generator: Decides.
        """
        return " ".join([_pick(LIMITED, generator), *(self.sentence(key, generator) for key in keys)]).strip()

    def sentence(self, key: str, generator: np.random.Generator) -> str:
        """Word a restriction: what is wanted, or what its opposite is, unwanted."""
        wanted = generator.random() < 0.5  # noqa: PLR2004 - a coin
        named = key if wanted else opposite(key)
        phrase = _pick(self._part(PHRASES[kind_of(named)], 1), generator)
        frame = _pick(self._part(WANTED if wanted else UNWANTED, HELD_OUT_FRAMES), generator)
        return _filled(frame, phrase.format(package=named.partition(":")[2]))

    def _part(self, texts: Sequence[str], kept: int) -> Sequence[str]:
        return texts[-kept:] if self._held_out else texts[:-kept]


def sentences(key: str) -> Iterator[str]:
    """List every sentence for a restriction."""
    for named, frames in ((key, WANTED), (opposite(key), UNWANTED)):
        for phrase in PHRASES[kind_of(named)]:
            for frame in frames:
                yield _filled(frame, phrase.format(package=named.partition(":")[2]))


def _filled(frame: str, phrase: str) -> str:
    text = frame.format(x=phrase)
    return text[0].upper() + text[1:]


def _pick(texts: Sequence[str], generator: np.random.Generator) -> str:
    return texts[int(generator.integers(len(texts)))]
