"""The instruction task: rules hold on the documents themselves, and p-MRR tells who reads instructions."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import mteb
import numpy as np
import pytest
from mteb.models.model_meta import ModelMeta

from rerank_eval.tasks.embedded import build
from rerank_eval.tasks.embedded.instruction_task import PyInstructionRetrieval
from rerank_eval.tasks.embedded.rules import LIMITED, OPEN, RULES, package_rules
from rerank_eval.tasks.embedded.stdlib import Function, library
from rerank_eval.tasks.embedded.texts import split_of
from rerank_eval.tasks.embedded.topics import THINGS, Topic, profile

FULL = PyInstructionRetrieval.content("full", "test")


@functools.cache
def definition(text: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return node


def own(text: str) -> list[ast.AST]:
    """Nodes of the function itself: all of them, less those of the definitions nested in it."""
    outer = definition(text)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    nested = [node for node in ast.walk(outer) if isinstance(node, kinds) and node is not outer]
    foreign = {id(inner) for node in nested for inner in ast.walk(node)}
    return [node for node in ast.walk(outer) if id(node) not in foreign]


def returns_a_value(text: str) -> bool:
    values = [node.value for node in own(text) if isinstance(node, ast.Return)]
    return any(value is not None and ast.unparse(value) != "None" for value in values)


def asynchronous(text: str) -> bool:
    return isinstance(definition(text), ast.AsyncFunctionDef) or package(text) == "asyncio"


def package(text: str) -> str:
    found = re.match(r"# module (\w+)", text)
    assert found
    return found[1]


CHECKS: dict[str, Callable[[str], bool]] = {
    "methods": lambda text: ", class " in text.split("\n")[0],
    "functions": lambda text: ", class " not in text.split("\n")[0],
    "raises": lambda text: any(isinstance(node, ast.Raise) for node in ast.walk(definition(text))),
    "raises-not": lambda text: not any(isinstance(node, ast.Raise) for node in ast.walk(definition(text))),
    "asyncio": asynchronous,
    "asyncio-not": lambda text: not asynchronous(text),
    "public": lambda text: not definition(text).name.startswith("_"),
    "private": lambda text: definition(text).name.startswith("_"),
    "returns": returns_a_value,
    "returns-not": lambda text: not returns_a_value(text),
    "decorated": lambda text: bool(definition(text).decorator_list),
    "decorated-not": lambda text: not definition(text).decorator_list,
}


def stated(instruction: str) -> list[Callable[[str], bool]]:
    """Read an instruction: the checks that its sentences ask for. It knows the wordings, not the qrels."""
    found = [CHECKS[rule.key] for rule in RULES if any(wording in instruction for wording in rule.wordings)]
    for name in sorted({one.package for one in library().functions}):
        only, never = package_rules(name)
        if any(wording in instruction for wording in only.wordings):
            found.append(lambda text, name=name: package(text) == name)
        if any(wording in instruction for wording in never.wordings):
            found.append(lambda text, name=name: package(text) != name)
    return found


class LexicalReranker:
    """A cross-encoder that counts the query's words in the document; `reads` makes it obey instructions."""

    def __init__(self, reads: bool) -> None:
        self.reads = reads
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={"name": f"test/lexical-{reads}", "revision": "1", "model_type": ["cross-encoder"]}
        )

    def predict(self, inputs1: Any, inputs2: Any, **_: Any) -> np.ndarray:
        queries = [pair for batch in inputs1 for pair in zip(batch["query"], batch["instruction"], strict=True)]
        documents = [text for batch in inputs2 for text in batch["text"]]
        checks = {one: stated(one) for one in {instruction for _, instruction in queries}} if self.reads else {}
        scores = []
        for (query, instruction), document in zip(queries, documents, strict=True):
            text = document.lower()
            score = sum(text.count(word.rstrip("s")[:5]) for word in query.lower().split()) / (len(text) + 100)
            obeys = all(check(document.strip()) for check in checks.get(instruction, []))
            scores.append(score if obeys else score - 100)
        return np.array(scores)


def evaluate(reads: bool, size: str = "small") -> dict[str, Any]:
    task = build("PyInstructionRetrieval", size)  # type: ignore[arg-type]
    result = mteb.evaluate(LexicalReranker(reads), task, cache=None, co2_tracker=False, show_progress_bar=False)[0]
    return result.scores["test"][0]


def test_every_judgement_follows_from_the_document() -> None:
    for query, relevant in FULL.qrels.items():
        checks = stated(FULL.instructions[query])
        for one in relevant:
            assert all(check(FULL.documents[one]) for check in checks), (query, one)
    for pair, excluded in FULL.changed.items():
        checks = stated(FULL.instructions[f"{pair}-changed"])
        for one in excluded:
            assert not all(check(FULL.documents[one]) for check in checks), (pair, one)


def test_what_is_not_relevant_breaks_a_rule_or_misses_the_topic() -> None:
    for query, listed in FULL.candidates.items():
        checks = stated(FULL.instructions[query])
        topics = [topic for topic in every_topic() if topic.id == query.rpartition(".")[0]]
        assert len(topics) == 1
        for one in set(listed) - set(FULL.qrels[query]):
            about = topics[0].matches(profile(library().by_id[one]))
            assert not about or not all(check(FULL.documents[one]) for check in checks), (query, one)


def every_topic() -> list[Topic]:
    from rerank_eval.tasks.embedded.topics import ACTIONS

    return [Topic(things, action) for things in THINGS for action in ["", *ACTIONS]]


def test_instructions_are_varied_and_the_changed_one_says_more() -> None:
    kinds: Counter[str] = Counter()
    for pair in FULL.changed:
        og, changed = (stated(FULL.instructions[f"{pair}-{suffix}"]) for suffix in ("og", "changed"))
        assert len(og) < len(changed) <= 2
        text = FULL.instructions[f"{pair}-og"]
        assert text in OPEN or text.startswith(LIMITED)
        kinds["compound" if og else "plain"] += 1
    assert min(kinds["plain"], kinds["compound"]) > 20
    wordings = {FULL.instructions[f"{pair}-changed"] for pair in FULL.changed}
    assert len(wordings) > 0.5 * len(FULL.changed)
    used = {rule.key for rule in RULES for text in wordings if any(one in text for one in rule.wordings)}
    assert used == set(CHECKS)


def test_wordings_name_one_rule_each() -> None:
    wordings = [wording for rule in [*RULES, *package_rules("email")] for wording in rule.wordings]
    assert len(set(wordings)) == len(wordings)
    assert not [one for one in wordings for other in wordings if one != other and one in other]


def test_documents_come_from_the_splits_modules_alone() -> None:
    for split in ("train", "test"):
        content = PyInstructionRetrieval.content("small", split)
        assert {split_of(re.split(r"[.:]", one)[0]) for one in content.documents} == {split}


def function(name: str, summary: str, code: str) -> Function:
    head, _, body = code.partition(": ")
    source = f'{head}:\n    """{summary}"""\n    {body}'
    return Function(f"m:{name}", "m", name, code, source, summary, False, False, False, False, False, ())


def test_topics_by_hand() -> None:
    headers, parse = Topic("headers"), Topic("headers", "parse")
    one = profile(function("load", "Parse the message headers of a file.", "def load(f): return f"))
    assert headers.matches(one)
    assert parse.matches(one)
    # The thing stands behind a preposition: about headers, but what is parsed is a date.
    two = profile(function("x", "Parse a date in the headers.", "def x(f): return f"))
    assert headers.matches(two)
    assert not parse.matches(two)
    assert not parse.misses(two)
    three = profile(function("parse_header", "Do it.", "def parse_header(f): return f"))
    assert parse.matches(three)
    four = profile(function("sum", "Return the sum.", "def sum(subheader): return subheader"))
    assert not headers.matches(four)
    assert not headers.misses(four)
    assert parse.misses(four)
    five = profile(function("sum", "Parse the sum.", "def sum(a): return a"))
    assert headers.misses(five)
    assert parse.misses(five)


def test_queries_read_as_english() -> None:
    assert {Topic("sockets", "wait").query} <= {
        "wait for sockets",
        "waiting for sockets",
        "code that waits for sockets",
        "how to wait for sockets",
    }
    assert not [topic.query for topic in every_topic() if "{" in topic.query or "  " in topic.query]


@pytest.fixture
def task() -> PyInstructionRetrieval:
    return PyInstructionRetrieval("small")


def scored(task: PyInstructionRetrieval, results: dict[str, dict[str, float]]) -> dict[str, Any]:
    content = task.content("small", "test")
    qrels = {query: dict.fromkeys(ids, 1) for query, ids in content.qrels.items()}
    return task.task_specific_scores({}, qrels, results, "test", "default")


def test_p_mrr_of_one_move_by_hand(task: PyInstructionRetrieval) -> None:
    content = task.content("small", "test")
    results = {
        query: {one: -float(place) for place, one in enumerate(listed)} for query, listed in content.candidates.items()
    }
    pair, excluded = next(iter(content.changed.items()))
    moved, *rest = excluded
    for query in (f"{pair}-og", f"{pair}-changed"):
        # The pair's other excluded documents stay at the end, so that only one of them changes its rank.
        results[query].update({one: -1000.0 - place for place, one in enumerate(rest)})
    results[f"{pair}-og"][moved] = 10.0
    leaders = [one for one in content.candidates[f"{pair}-changed"] if one not in excluded][:3]
    results[f"{pair}-changed"].update({moved: 10.0, **dict.fromkeys(leaders, 20.0)})
    # Rank 1 becomes rank 4: 1 - (1/4) / (1/1) = 0.75 for this document, nothing for all others.
    expected = 0.75 / len(excluded) / len(content.changed)
    assert scored(task, results)["p-MRR"] == pytest.approx(expected, rel=1e-12)
    swapped = {query: results[other] for query, other in ((f"{pair}-og", f"{pair}-changed"),)}
    swapped[f"{pair}-changed"] = results[f"{pair}-og"]
    assert scored(task, {**results, **swapped})["p-MRR"] == pytest.approx(-expected, rel=1e-12)


def test_p_mrr_against_the_formula(task: PyInstructionRetrieval) -> None:
    content = task.content("small", "test")
    random = np.random.default_rng(7)
    results = {
        query: dict(zip(listed, map(float, random.permutation(len(listed))), strict=True))
        for query, listed in content.candidates.items()
    }

    def rank(query: str, one: str) -> int:
        return 1 + sum(score > results[query][one] for score in results[query].values())

    means = []
    for pair, excluded in content.changed.items():
        values = []
        for one in excluded:
            og, new = rank(f"{pair}-og", one), rank(f"{pair}-changed", one)
            values.append(new / og - 1 if og > new else 1 - og / new)
        means.append(sum(values) / len(values))
    found = scored(task, results)
    assert found["p-MRR"] == pytest.approx(sum(means) / len(means), rel=1e-12)
    assert set(found) == {"p-MRR", "og", "changed"}


def test_who_reads_instructions_scores_higher() -> None:
    blind, aware = evaluate(reads=False), evaluate(reads=True)
    assert blind["main_score"] == blind["p-MRR"] == 0
    assert aware["main_score"] == aware["p-MRR"] > 0.3
    assert aware["changed"]["ndcg_at_10"] > blind["changed"]["ndcg_at_10"] + 0.1
    # The topic is hardly a matter of luck: a random order of 80 candidates would find a fifth.
    assert blind["og"]["ndcg_at_10"] > 0.5
