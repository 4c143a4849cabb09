"""PyInstructionRetrieval: one topic, two instructions, and whether the ranking follows (FollowIR's kind, p-MRR).

For each pair there are two queries with the same text and the same candidates. `<pair>-og` carries an open instruction,
or one with a restriction; `<pair>-changed` adds a restriction that makes some of the relevant documents irrelevant.
p-MRR (Weller et al. 2024, https://arxiv.org/abs/2403.15246, eq. 1) looks at these alone: their ranks should fall.

Documents are functions with their docstrings, and a first line that names module and class, so that topic (`topics`)
and restrictions (`rules`) can be checked on the document.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mteb._evaluators.retrieval_metrics import evaluate_p_mrr_change

from rerank_eval.tasks.embedded.base import Content, EmbeddedTask, Size, task_metadata
from rerank_eval.tasks.embedded.rules import LIMITED, OPEN, RULES, Rule, package_rules, pick
from rerank_eval.tasks.embedded.stdlib import Function, library
from rerank_eval.tasks.embedded.texts import Split, sha_order, split_of
from rerank_eval.tasks.embedded.topics import Profile, Topic, profile, topics

TOPICS: dict[Size, int | None] = {"small": 20, "medium": None, "full": None}
PAIRS_A_TOPIC: dict[Size, int] = {"small": 1, "medium": 1, "full": 3}
CANDIDATES = 80
MIN_TOPIC, MAX_TOPIC = 5, 36
"""Functions that a topic is about: under half of the candidates."""
MIN_LEFT, MIN_EXCLUDED = 2, 2
"""Documents that a changed instruction leaves relevant, and that it excludes."""
MAX_CHARACTERS = 3_000
"""Longer functions are not used: what decides must not lie behind a reranker's cut."""
COMPOUND_EVERY = 3
"""Every third pair has a restriction in its first instruction already."""


@dataclass(frozen=True)
class Pair:
    """One topic with two instructions.

    Attributes:
        id: Such as `parse-headers.1`.
        topic: The topic.
        base: The restriction that both instructions have, if any.
        rule: The restriction that only the changed one has.
        og: Documents relevant under the first instruction.
        changed: Those of them that the changed one leaves relevant.
    """

    id: str
    topic: Topic
    base: Rule | None
    rule: Rule
    og: tuple[Function, ...]
    changed: tuple[Function, ...]

    @property
    def instructions(self) -> tuple[str, str]:
        """The first and the changed instruction."""
        limited = pick(LIMITED, f"limited:{self.id}")
        added = self.rule.sentence(self.id)
        if self.base is None:
            return pick(OPEN, f"open:{self.id}"), f"{limited} {added}"
        og = f"{limited} {self.base.sentence(self.id)}"
        return og, f"{og} {added}"

    @property
    def excluded(self) -> list[str]:
        """Ids of the documents that the changed instruction excludes, sorted."""
        return sorted({one.id for one in self.og} - {one.id for one in self.changed})


def document(function: Function) -> str:
    """Render a function as a document of this task.

    Returns:
        A comment that names its module and class, and its source with the docstring.
    """
    where = f"# module {function.module}"
    inside = function.name.rpartition(".")[0]
    return f"{where}, class {inside}\n{function.source}" if inside else f"{where}\n{function.source}"


def _options(topic: Topic, about: Sequence[Profile], compound: bool) -> list[Pair]:
    """List the pairs that a topic allows: enough documents relevant, left and excluded. Their ids are still open."""
    relevant = [one.function for one in about]
    packages = [name for name, count in Counter(one.package for one in relevant).items() if count >= MIN_EXCLUDED]
    rules = [*RULES, *(rule for package in packages for rule in package_rules(package))]
    found = []
    # "I cannot use os" would be odd before a condition that os does not meet anyway.
    for base in [rule for rule in rules if rule.key != "package-not"] if compound else [None]:
        og = [one for one in relevant if base is None or base.holds(one)]
        for rule in rules:
            changed = [one for one in og if rule.holds(one)]
            enough = len(changed) >= MIN_LEFT and len(og) - len(changed) >= MIN_EXCLUDED
            narrows = base is None or (base.aspect != rule.aspect and len(og) < len(relevant))
            if enough and narrows:
                found.append(Pair("", topic, base, rule, tuple(og), tuple(changed)))
    return found


def _pairs(found: Sequence[tuple[Topic, list[Profile]]], a_topic: int, limit: int | None) -> list[Pair]:
    """Choose pairs so that all rules are used about equally often, until `limit` topics have some.

    Each topic takes, of the restrictions it allows, those used least so far; some topics allow none.
    """
    used: Counter[str] = Counter()
    pairs: list[Pair] = []
    for topic, about in found:
        if limit is not None and len({pair.topic for pair in pairs}) == limit:
            break
        taken: set[str] = set()
        for number in range(1, a_topic + 1):
            compound = len(pairs) % COMPOUND_EVERY == COMPOUND_EVERY - 1
            options = _options(topic, about, compound) or _options(topic, about, False)
            options = [one for one in options if one.rule.key not in taken]
            if not options:
                break
            name = f"{topic.id}.{number}"

            def order(one: Pair, name: str = name) -> tuple[int, str]:
                """Least used first, then an order that means nothing."""
                base = "" if one.base is None else one.base.sentence(name)
                return used[one.rule.key], sha_order(f"{name}:{base}:{one.rule.sentence(name)}")

            best = min(options, key=order)
            used[best.rule.key] += 1
            taken.add(best.rule.key)
            pairs.append(Pair(name, topic, best.base, best.rule, best.og, best.changed))
    return pairs


@functools.cache
def _profiles(split: Split) -> tuple[Profile, ...]:
    functions = (one for one in library().functions if split_of(one.package) == split)
    return tuple(profile(one) for one in functions if len(document(one)) <= MAX_CHARACTERS)


@functools.cache
def _topics(split: Split) -> list[tuple[Topic, list[Profile]]]:
    return topics(_profiles(split), MIN_TOPIC, MAX_TOPIC)


@functools.cache
def _candidates(topic: Topic, split: Split) -> list[str]:
    """List a topic's candidates: what is about it, and what is clearly not, preferably from the same modules.

    Functions about the topic that a pair's first instruction excludes are among them: they are the hard negatives of
    both queries. The order is that of digests, so that a constant score tells nothing.
    """
    about = [one.function for one in _profiles(split) if topic.matches(one)]
    near = {one.module for one in about}
    missing = [one.function for one in _profiles(split) if topic.misses(one)]
    missing.sort(key=lambda one: (one.module not in near, sha_order(f"distractor:{topic.id}:{one.id}")))
    chosen = [*about, *missing][:CANDIDATES]
    return sorted((one.id for one in chosen), key=lambda one: sha_order(f"candidate:{topic.id}:{one}"))


class PyInstructionRetrieval(EmbeddedTask):
    """Query: a topic with an instruction. Document: a function with its docstring. Main score: p-MRR, -1 to 1.

    Each query comes with 80 candidates of its own. Documents and topics are those of the split's modules only. `small`
    has 20 topics with a pair of instructions each, `medium` all topics, `full` all topics with three pairs each.
    """

    metadata = task_metadata(
        "PyInstructionRetrieval",
        "Rerank functions of the Python standard library for a topic under an open and under a restricting "
        "instruction; p-MRR tells whether what the restriction excludes moves down.",
        type="InstructionReranking",
        main_score="p-MRR",
        prompt={"query": "Retrieve the Python code that is relevant to the topic under the given conditions"},
    )

    @staticmethod
    @functools.cache
    def content(size: Size, split: Split) -> Content:
        """Build one split.

        Returns:
            The content, with instructions, candidates and changed relevance.
        """
        pairs = _pairs(_topics(split), PAIRS_A_TOPIC[size], TOPICS[size])
        queries: dict[str, str] = {}
        qrels: dict[str, list[str]] = {}
        instructions: dict[str, str] = {}
        candidates: dict[str, list[str]] = {}
        for pair in pairs:
            listed = _candidates(pair.topic, split)
            both = zip(("og", "changed"), pair.instructions, (pair.og, pair.changed), strict=True)
            for suffix, instruction, relevant in both:
                query = f"{pair.id}-{suffix}"
                queries[query], instructions[query], candidates[query] = pair.topic.query, instruction, listed
                qrels[query] = sorted(one.id for one in relevant)
        kept = {one for listed in candidates.values() for one in listed}
        return Content(
            documents={one.id: document(one) for one in library().functions if one.id in kept},
            queries=queries,
            qrels=qrels,
            instructions=instructions,
            candidates=candidates,
            changed={pair.id: pair.excluded for pair in pairs},
        )

    def task_specific_scores(
        self,
        scores: dict[str, dict[str, float]],
        qrels: dict[str, dict[str, int]],
        results: dict[str, dict[str, float]],
        hf_split: Split,
        hf_subset: str,
    ) -> dict[str, float]:
        """Compute p-MRR, and all metrics for the two kinds of queries apart, with mteb's own code.

        Args:
            scores: Per-query metrics; not used.
            qrels: Query id -> document id -> grade.
            results: Query id -> document id -> score.
            hf_split: Which split was run.
            hf_subset: Always `default`; not used.

        Returns:
            `p-MRR` (-1 to 1; 0 for a model that does not read instructions), `og` and `changed`.
        """
        changed = self.content(self.size, hf_split).changed
        found: dict[str, float] = evaluate_p_mrr_change(qrels, results, changed, self.k_values)
        return found
