"""Sentences for restrictions, put together from phrases and frames of either polarity.

A network that sees the same few sentences over and over learns those sentences; one that sees "ignore methods" beside
"only plain functions count" has to learn what they mean. No sentence is one of PyInstructionRetrieval's. The last
phrases of each restriction and the last frames of either polarity are never trained on: the evaluation while training
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
    "Only {x} matter.",
    "Only {x} are of interest.",
    "Only {x} are what I want, that is all.",
    "Nothing counts but {x}.",
    "I need {x}, and only those.",
    "I am looking for {x}.",
    "Just {x}, please.",
    "Show {x} only.",
    "Show me only {x}.",
    "Return {x} alone.",
    "Give me {x} exclusively.",
    "Relevant are {x} and no others.",
    "What counts are {x}; the rest is not relevant.",
    "A document counts if it is among {x}.",
    "A document is relevant only if it belongs to {x}.",
    "Documents must be {x}.",
    "It must be one of the {x}.",
    "What I want must be found among {x}.",
    "Everything but {x} is to be left out.",
    "Leave out all but {x}.",
    "Leave out whatever does not belong to {x}.",
    "Drop what is not among {x}.",
    "I have to work with {x}.",
    "I work with {x} and with nothing else.",
    "My interest is in {x}.",
    "Prefer {x} to all others.",
    "The code has to be among {x}.",
    "{x} are relevant, others are not.",
    "{x} are what I want to see.",
    "{x} alone are relevant.",
    "{x} alone will help me.",
    "{x} it has to be.",
    "Only {x} count.",
    "I only want {x}.",
    "There have to be {x}.",
    "I am interested in {x}, so leave out the rest.",
    "Limit yourself to {x}.",
    "A document must be among {x}.",
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
    "{x} are all that I want.",
    "Only {x} will help me.",
    "I would like to see {x} alone.",
    "A document has to be one of the {x}.",
)
UNWANTED = (
    "Leave {x} out.",
    "Leave out all {x}.",
    "Please leave out {x}.",
    "Drop {x}.",
    "Omit {x}.",
    "Hide {x}.",
    "Remove {x} from the answer.",
    "Do not show {x}.",
    "Do not return {x}.",
    "Do not give me {x}.",
    "Never mind {x}.",
    "Nothing of {x}, please.",
    "I am not looking for {x}.",
    "I am not interested in {x}.",
    "I do not need {x}.",
    "I know {x} already.",
    "I must not use {x}.",
    "I cannot work with {x}.",
    "I must do without {x}.",
    "It must not be one of the {x}.",
    "A document must not be among {x}.",
    "A document among {x} is not relevant.",
    "A document does not count if it belongs to {x}.",
    "{x} are not what I want.",
    "{x} are not of interest.",
    "{x} are of no use to me.",
    "{x} must be left out.",
    "{x} must not appear.",
    "{x} do not matter.",
    "{x} would not help.",
    "All but {x} are relevant.",
    "Everything is relevant except {x}.",
    "Leave out {x}.",
    "{x} do not help me.",
    "I do not want {x}.",
    "There is no need for {x}, so drop them.",
    "Without {x}.",
    "{x} are out of the question.",
    "I cannot use {x}.",
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
    "{x} are not needed.",
    "Do not include {x}.",
    "I have no interest in {x}.",
    "Please show nothing of {x}.",
)
PHRASES: dict[str, tuple[str, ...]] = {
    "methods": (
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
BEFORE = ("", "", "", "", "Here, ", "This time, ", "For my program: ", "One more thing. ", "In short: ")
"""What may stand in front of a sentence."""
HEADS = ("functions", "code", "functions or methods", "definitions", "things", "functions and methods", "documents")
"""What a phrase speaks of."""
HELD_OUT_FRAMES = 4
"""Frames of either polarity that are not trained on."""
BOTH = 0.2
"""Share of restrictions that are worded from both sides."""
Named = tuple[str, bool]
"""What a sentence names, and whether as wanted."""
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

    def limited(self, keys: Sequence[str], generator: np.random.Generator) -> tuple[str, list[Named]]:
        """Word an instruction with restrictions.

        Args:
            keys: The restrictions, such as `methods` and `package-not:numpy`.
            generator: Decides.

        Returns:
            The text, and what it names.
        """
        texts, named = [_pick(LIMITED, generator)], []
        for key in keys:
            text, own = self.sentence(key, generator)
            texts.append(text)
            named += own
        return " ".join(texts).strip(), named

    def sentence(self, key: str, generator: np.random.Generator) -> tuple[str, list[Named]]:
        """Word a restriction: what is wanted, or what its opposite is, unwanted, or both.

        Returns:
            The text, and what it names.
        """
        forms = [(key, True), (opposite(key), False)]
        drawn = generator.random()
        chosen = forms if drawn < BOTH else forms[:1] if drawn < (1 + BOTH) / 2 else forms[1:]
        frames = {True: WANTED, False: UNWANTED}
        return " ".join(self._framed(named, frames[wanted], generator) for named, wanted in chosen), chosen

    def _framed(self, named: str, frames: Sequence[str], generator: np.random.Generator) -> str:
        phrase = _pick(self._part(PHRASES[kind_of(named)], HELD_OUT_PHRASES), generator)
        frame = _pick(self._part(frames, HELD_OUT_FRAMES), generator)
        return _pick(BEFORE, generator) + _filled(frame, phrase, named, _pick(HEADS, generator))

    def _part(self, texts: Sequence[str], kept: int) -> Sequence[str]:
        return texts[-kept:] if self._held_out else texts[:-kept]


def sentences(key: str) -> Iterator[str]:
    """List every sentence for a restriction."""
    for named, frames in ((key, WANTED), (opposite(key), UNWANTED)):
        for phrase in PHRASES[kind_of(named)]:
            for frame in frames:
                yield from (_filled(frame, phrase, named, head) for head in HEADS)


def _filled(frame: str, phrase: str, key: str, head: str) -> str:
    text = frame.format(x=phrase.format(package=key.partition(":")[2], head=head))
    return text[0].upper() + text[1:]


def _pick(texts: Sequence[str], generator: np.random.Generator) -> str:
    return texts[int(generator.integers(len(texts)))]
