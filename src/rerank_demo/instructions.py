"""Groups whose relevance follows the instruction: the same topic and documents under two instructions.

Topics and restrictions are those of PyInstructionRetrieval, the functions those of the training packages, and the
sentences are worded otherwise than the task's, so that the task tests a wording that was not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerank_demo.probes import KEYS, properties, restrictions
from rerank_demo.wordings import Clause, Wordings, kind_of, opposite
from rerank_eval.tasks.embedded.instruction_task import document
from rerank_eval.tasks.embedded.rules import RULES
from rerank_eval.tasks.embedded.stdlib import Function
from rerank_eval.tasks.embedded.topics import Topic, profile, topics

MAX_CHARACTERS = 2_000
MIN_TOPIC, MAX_TOPIC = 6, 400
FEWEST = 2
"""Documents that a restriction has to leave, and to exclude, among those drawn for a topic."""
COMPOUND = 1 / 3
"""Share of groups both of whose instructions have a restriction in common, as every third of the task's."""
_ASPECTS = {rule.key: rule.aspect for rule in RULES}


Restriction = tuple[str, list[bool]]
"""A restriction's key, and of which documents it holds."""


@dataclass(frozen=True)
class Instructed:
    """Documents with two instructions.

    Attributes:
        query: The topic's text.
        instructions: Two instructions.
        documents: Rendered documents.
        relevant: (2, documents) relevance under each.
        restrictions: (2, RESTRICTIONS) what each instruction wants, and how it says so.
        clauses: The sentences of each that restrict.
        properties: (documents, PROPERTIES) what the documents are.
    """

    query: str
    instructions: tuple[str, str]
    documents: tuple[str, ...]
    relevant: NDArray[np.float32]
    restrictions: NDArray[np.float32]
    clauses: tuple[list[Clause], list[Clause]]
    properties: NDArray[np.float32]


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
        held_out: Word instructions as none is worded that is trained on.
    """

    def __init__(
        self, functions: Sequence[Function], max_characters: int = MAX_CHARACTERS, *, held_out: bool = False
    ) -> None:
        self._wordings = Wordings(held_out=held_out)
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
            The group: under the first instruction the restriction holds, under the second its opposite or none; a third
            of the groups have a second restriction under both.
        """
        while True:
            about = self._topics[int(generator.integers(len(self._topics)))]
            count = min(len(about.matching), documents * 2 // 3)
            on_topic = generator.permutation(about.matching)[:count].tolist()
            off_topic = generator.permutation(about.missing)[: documents - count].tolist()
            chosen = [self._functions[i] for i in on_topic + off_topic]
            if len(chosen) < documents:
                continue
            options = self._options(chosen[:count])
            first = _draw([one for one in options if FEWEST <= sum(one[1]) <= count - FEWEST], generator)
            if first is None:
                continue
            base = _draw(_bases(options, first), generator) if generator.random() < COMPOUND else None
            return self._instructed(about.topic, chosen, first, base, generator)

    def instruction(self, generator: np.random.Generator) -> tuple[str, NDArray[np.float32], list[Clause]]:
        """Draw an instruction without documents: as often as any restriction, none.

        Returns:
            Its text, its restrictions, (RESTRICTIONS,), and its sentences that restrict.
        """
        kinds: list[str | None] = [None, *KEYS]
        first = kinds[int(generator.integers(len(kinds)))]
        if first is None:
            return self._wordings.open(generator), restrictions([], []), []
        others = [key for key in KEYS if _aspect(key) != _aspect(first)]
        second = others[int(generator.integers(len(others)))] if generator.random() < COMPOUND else None
        package = self._functions[int(generator.integers(len(self._functions)))].package
        keys = [f"{key}:{package}" if _aspect(key) == "package" else key for key in (first, second) if key is not None]
        text, clauses = self._wordings.limited(keys, generator)
        return text, restrictions(keys, clauses), clauses

    def _options(self, on_topic: Sequence[Function]) -> list[Restriction]:
        """List restrictions with whether each document on the topic meets them."""
        found: list[Restriction] = [(rule.key, [rule.holds(one) for one in on_topic]) for rule in RULES]
        for package in sorted({one.package for one in on_topic}):
            found.append((f"package:{package}", [one.package == package for one in on_topic]))
            found.append((f"package-not:{package}", [one.package != package for one in on_topic]))
        return found

    def _instructed(
        self,
        topic: Topic,
        chosen: Sequence[Function],
        first: Restriction,
        base: Restriction | None,
        generator: np.random.Generator,
    ) -> Instructed:
        key, holds = first
        common = np.array(base[1] if base is not None else [True] * len(holds))
        relevant = np.zeros((2, len(chosen)), dtype=np.float32)
        relevant[0, : len(holds)] = common & np.array(holds)
        turned = generator.random() < 0.5  # noqa: PLR2004 - a coin
        relevant[1, : len(holds)] = common & ~np.array(holds) if turned else common
        shared = [base[0]] if base is not None else []
        asked = [[*shared, key], [*shared, opposite(key)] if turned else shared]
        words = self._wordings
        (one, own), (other, others) = (
            words.limited(keys, generator) if keys else (words.open(generator), []) for keys in asked
        )
        order = generator.permutation(len(chosen))
        ordered = [chosen[i] for i in order]
        return Instructed(
            topic.query,
            (one, other),
            tuple(map(document, ordered)),
            np.ascontiguousarray(relevant[:, order]),
            np.stack([restrictions(asked[0], own), restrictions(asked[1], others)]),
            (own, others),
            properties(ordered),
        )


def _draw(options: Sequence[Restriction], generator: np.random.Generator) -> Restriction | None:
    """Draw a restriction, or None where there is none.

    A topic has as many restrictions to packages as packages, but each kind is drawn as often as any other.
    """
    kinds = sorted({kind_of(key) for key, _ in options})
    if not kinds:
        return None
    kind = kinds[int(generator.integers(len(kinds)))]
    own = [one for one in options if kind_of(one[0]) == kind]
    return own[int(generator.integers(len(own)))]


def _bases(options: Sequence[Restriction], first: Restriction) -> list[Restriction]:
    """List restrictions to other aspects that leave enough documents on either side of the first one."""
    found = []
    for key, holds in options:
        left = sum(a and b for a, b in zip(holds, first[1], strict=True))
        if _aspect(key) != _aspect(first[0]) and left >= FEWEST and sum(holds) - left >= FEWEST:
            found.append((key, holds))
    return found


def _aspect(key: str) -> str:
    return _ASPECTS.get(key, "package")
