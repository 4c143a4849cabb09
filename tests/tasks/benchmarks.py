"""What the installed mteb says of a suite, beside what evals/suites says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mteb

from rerank_eval.tasks.suites import Suite, SuiteTask

KINDS = {"FollowIR": "InstructionReranking"}
"""Suite -> type of the tasks that count; `Retrieval` otherwise."""
_CANDIDATES = 100

Find = Callable[[str], Any]


def benchmark_tasks(suite: Suite) -> dict[str, Any]:
    """Return name -> task of all that mteb's benchmark has of a suite's type."""
    if suite.benchmark is None:  # MLDR is a task and no benchmark of mteb's
        return {task.name: mteb.get_task(task.name, eval_splits=list(task.splits)) for task in suite.tasks}
    kind = KINDS.get(suite.name, "Retrieval")
    tasks = mteb.get_benchmark(suite.benchmark).tasks
    return {task.metadata.name: task for task in tasks if task.metadata.type == kind}


def differences(suite: Suite, theirs: Mapping[str, Any]) -> list[str]:
    """Compare a suite with mteb's tasks.

    Args:
        suite: The suite.
        theirs: Name -> mteb's task.

    Returns:
        A line for each difference; it names suite, task and both values.
    """
    ours = {task.name: task for task in suite.tasks}
    found = [f"{suite.name}: {name} is no longer in {suite.benchmark}" for name in ours.keys() - theirs.keys()]
    found += [f"{suite.name}: {name} is new in {suite.benchmark}" for name in theirs.keys() - ours.keys()]
    for name in ours.keys() & theirs.keys():
        for what, own, other in _facts(ours[name], theirs[name]):
            if own != other:
                found.append(f"{suite.name}: {name}: {what}: the suite has {_shown(own, other)}")
    return sorted(found)


def _facts(ours: SuiteTask, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    yield "splits", sorted(ours.splits), sorted(theirs.eval_splits)
    yield "subsets", ours.subsets, len(theirs.hf_subsets)
    yield "subset_names", sorted(ours.subset_names), sorted(theirs.hf_subsets)
    yield "main_score", ours.main_score, theirs.metadata.main_score
    yield "members", sorted(ours.members), sorted(one.metadata.name for one in members(theirs))
    counted = count(theirs, ours.splits)
    if counted is not None:
        yield "queries", ours.queries, counted[0]
        yield "pairs", ours.pairs, counted[1]


def _shown(own: Any, other: Any) -> str:
    if isinstance(own, list):
        missing, new = sorted(set(other) - set(own)), sorted(set(own) - set(other))
        return f"not {missing}, but {new}"
    return f"{own}, mteb {other}"


def members(task: Any) -> list[Any]:
    """Return the tasks that mteb defines a task as the mean of; none for a task of its own."""
    return list(getattr(task.metadata, "tasks", ()))


def count(task: Any, splits: Sequence[str]) -> tuple[int, int] | None:
    """Count queries and pairs by mteb's descriptive statistics.

    Returns:
        Queries and pairs over the splits, and over the members of a mean; None where mteb has no statistics of them.
    """
    if parts := members(task):
        counted = [count(part, splits) for part in parts]
        known = [one for one in counted if one is not None]
        whole = (sum(queries for queries, _ in known), sum(pairs for _, pairs in known))
        return whole if len(known) == len(parts) else None
    statistics = task.metadata.descriptive_stats or {}
    if not set(splits) <= set(statistics):
        return None
    totals = [_split(statistics[split], len(task.hf_subsets)) for split in splits]
    return sum(queries for queries, _ in totals), sum(pairs for _, pairs in totals)


def _split(statistics: Mapping[str, Any], subsets: int) -> tuple[int, int]:
    parts = list((statistics.get("hf_subset_descriptive_stats") or {}).values())
    if len(parts) != subsets or subsets == 1:  # MLQARetrieval's list 7 of its 49 subsets, and the totals all of them
        queries = _number(statistics, "num_queries", "queries_text_statistics")
        documents = _number(statistics, "num_documents", "documents_text_statistics")
        own = (statistics.get("top_ranked_statistics") or {}).get("num_top_ranked")
        return queries, own or queries * min(_CANDIDATES, documents // subsets)
    counted = [_split(part, 1) for part in parts]
    return sum(queries for queries, _ in counted), sum(pairs for _, pairs in counted)


def _number(statistics: Mapping[str, Any], name: str, texts: str) -> int:
    if statistics.get(name):
        return int(statistics[name])
    lengths = statistics[texts]
    return round(lengths["total_text_length"] / lengths["average_text_length"])
