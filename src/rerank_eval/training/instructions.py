"""Groups whose relevance follows the instruction: the same topic and documents under two instructions.

Topics and restrictions are those of PyInstructionRetrieval, the functions those of the training packages, and the
sentences are worded otherwise than the task's, so that the task tests a wording that was not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerank_eval.tasks.embedded.instruction_task import document
from rerank_eval.tasks.embedded.rules import RULES
from rerank_eval.tasks.embedded.stdlib import Function
from rerank_eval.tasks.embedded.topics import Topic, profile, topics

OPEN = (
    "Any function or method on the subject counts, wherever it comes from.",
    "Find code about the topic. There are no further conditions.",
    "Everything that concerns the topic is welcome, whatever its kind.",
    "Given a topic, retrieve the Python code that deals with it",
)
LIMITED = (
    "Find code about the topic that also meets a condition.",
    "Not all code on the subject counts.",
    "Code must be about the topic and fulfil this.",
    "Given a topic and a condition, retrieve the Python code that satisfies both.",
)
WORDINGS: dict[str, tuple[str, ...]] = {
    "methods": (
        "Restrict yourself to methods; plain functions outside a class are irrelevant.",
        "It must be defined in a class.",
        "Functions at module level should be ignored, methods are fine.",
    ),
    "functions": (
        "Restrict yourself to plain functions outside any class; methods are irrelevant.",
        "It must not be defined in a class.",
        "Ignore methods: only functions at the level of the module are wanted.",
    ),
    "raises": (
        "It must raise an exception somewhere in its body.",
        "Without a raise statement it is irrelevant.",
        "Only functions that may raise errors on their own are wanted.",
    ),
    "raises-not": (
        "It must not raise any exception in its body.",
        "With a raise statement in it, it is irrelevant.",
        "Functions that raise errors on their own are unwanted.",
    ),
    "asyncio": (
        "It must be asynchronous: a coroutine written as async def.",
        "Synchronous code is irrelevant, only async def is wanted.",
        "Restrict yourself to asyncio code and coroutines.",
    ),
    "asyncio-not": (
        "It must not be asynchronous: no coroutine, no asyncio.",
        "Anything written as async def is irrelevant.",
        "Restrict yourself to synchronous code.",
    ),
    "public": (
        "It must be public: its name may not start with an underscore.",
        "Private helpers and special methods, whose names start with an underscore, are irrelevant.",
        "Ignore everything with a leading underscore in its name.",
    ),
    "private": (
        "It must be private or special: its name has to start with an underscore.",
        "Public functions are irrelevant, only internal ones with a leading underscore are wanted.",
        "Restrict yourself to names that start with an underscore.",
    ),
    "returns": (
        "It must return a value.",
        "Without a return statement that gives a value it is irrelevant.",
        "Ignore procedures: something has to be returned.",
    ),
    "returns-not": (
        "It must not return any value.",
        "If it returns a value it is irrelevant: only procedures are wanted.",
        "Ignore everything that gives back a result.",
    ),
    "decorated": (
        "It must carry a decorator.",
        "Without an @ decorator it is irrelevant.",
        "Restrict yourself to decorated definitions, for instance properties.",
    ),
    "decorated-not": (
        "It must not carry a decorator.",
        "With an @ decorator, for instance as a property, it is irrelevant.",
        "Ignore decorated definitions.",
    ),
}
PACKAGE = (
    "It must belong to {package}.",
    "Anything outside {package} is irrelevant.",
    "Restrict yourself to the package {package}.",
)
PACKAGE_NOT = (
    "It must not belong to {package}.",
    "Anything inside {package} is irrelevant.",
    "Ignore the package {package}.",
)
MAX_CHARACTERS = 2_000
MIN_TOPIC, MAX_TOPIC = 6, 400
FEWEST = 2
"""Documents that a restriction has to leave, and to exclude, among those drawn for a topic."""


@dataclass(frozen=True)
class Instructed:
    """Documents with two instructions.

    Attributes:
        query: The topic's text.
        instructions: Two instructions.
        documents: Rendered documents.
        relevant: (2, documents) relevance under each.
    """

    query: str
    instructions: tuple[str, str]
    documents: tuple[str, ...]
    relevant: NDArray[np.float32]


@dataclass(frozen=True)
class _About:
    topic: Topic
    matching: tuple[int, ...]
    missing: tuple[int, ...]


class InstructedGroups:
    """Draws groups from one list of functions.

    Args:
        functions: Functions of packages that may be trained on.
        max_characters: Longer documents are not used: what an instruction asks for must not lie behind a cut.
    """

    def __init__(self, functions: Sequence[Function], max_characters: int = MAX_CHARACTERS) -> None:
        self._functions = [one for one in functions if len(document(one)) <= max_characters]
        profiles = [profile(one) for one in self._functions]
        place = {id(one.function): number for number, one in enumerate(profiles)}
        self._topics = []
        for topic, about in topics(profiles, MIN_TOPIC, MAX_TOPIC):
            matching = tuple(place[id(one.function)] for one in about)
            modules = {one.function.module for one in about}
            missing = [n for n, one in enumerate(profiles) if one.function.module in modules and topic.misses(one)]
            if len(missing) >= FEWEST:
                self._topics.append(_About(topic, matching, tuple(missing[:500])))

    def __len__(self) -> int:
        """Return the number of topics."""
        return len(self._topics)

    def draw(self, documents: int, generator: np.random.Generator) -> Instructed:
        """Draw a topic, a restriction and documents.

        Args:
            documents: How many.
            generator: Decides all.

        Returns:
            The group: under the first instruction the restriction holds, under the second its opposite or none.
        """
        while True:
            about = self._topics[int(generator.integers(len(self._topics)))]
            count = min(len(about.matching), documents * 2 // 3)
            on_topic = generator.permutation(about.matching)[:count].tolist()
            off_topic = generator.permutation(about.missing)[: documents - count].tolist()
            chosen = [self._functions[i] for i in on_topic + off_topic]
            if len(chosen) < documents:
                continue
            options = [one for one in self._options(chosen[:count]) if FEWEST <= sum(one[1]) <= count - FEWEST]
            if not options:
                continue
            # A topic has as many restrictions to packages as packages, but each kind is drawn as often as any other.
            kinds = sorted({_kind(key) for key, _ in options})
            kind = kinds[int(generator.integers(len(kinds)))]
            options = [one for one in options if _kind(one[0]) == kind]
            key, holds = options[int(generator.integers(len(options)))]
            return self._instructed(about.topic, chosen, key, holds, generator)

    def _options(self, on_topic: Sequence[Function]) -> list[tuple[str, list[bool]]]:
        """List restrictions with whether each document on the topic meets them."""
        found = [(rule.key, [rule.holds(one) for one in on_topic]) for rule in RULES]
        for package in sorted({one.package for one in on_topic}):
            found.append((f"package:{package}", [one.package == package for one in on_topic]))
            found.append((f"package-not:{package}", [one.package != package for one in on_topic]))
        return found

    def _instructed(
        self, topic: Topic, chosen: Sequence[Function], key: str, holds: list[bool], generator: np.random.Generator
    ) -> Instructed:
        relevant = np.zeros((2, len(chosen)), dtype=np.float32)
        relevant[0, : len(holds)] = holds
        opposite = _opposite(key) if generator.random() < 0.5 else None  # noqa: PLR2004 - a coin
        relevant[1, : len(holds)] = 1.0 if opposite is None else 1.0 - relevant[0, : len(holds)]

        def pick(wordings: Sequence[str]) -> str:
            return wordings[int(generator.integers(len(wordings)))]

        first = f"{pick(LIMITED)} {pick(_wordings(key))}"
        second = pick(OPEN) if opposite is None else f"{pick(LIMITED)} {pick(_wordings(opposite))}"
        order = generator.permutation(len(chosen))
        documents = tuple(document(chosen[i]) for i in order)
        return Instructed(topic.query, (first, second), documents, np.ascontiguousarray(relevant[:, order]))


def _kind(key: str) -> str:
    return key.partition(":")[0]


def _opposite(key: str) -> str:
    name, colon, package = key.partition(":")
    if colon:
        return f"{'package' if name == 'package-not' else 'package-not'}:{package}"
    pairs = {"methods": "functions", "functions": "methods", "public": "private", "private": "public"}
    return pairs.get(key) or (key.removesuffix("-not") if key.endswith("-not") else f"{key}-not")


def _wordings(key: str) -> tuple[str, ...]:
    name, colon, package = key.partition(":")
    if not colon:
        return WORDINGS[key]
    return tuple(one.format(package=package) for one in (PACKAGE if name == "package" else PACKAGE_NOT))
