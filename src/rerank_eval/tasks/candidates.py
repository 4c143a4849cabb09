"""Which documents may be a query's candidates: a task's own lists, what they exclude, and a query's own document.

mteb hands one thing, `top_ranked`, to tasks of three kinds. To tasks of reranking it gives the candidates, all of which
are reranked. To a task of retrieval it gives the documents among which to retrieve: BRIGHT's are the corpus less what a
query excludes, LMEB's one conversation or paper of many.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal

from rerank_eval.tasks import prepare

logger = logging.getLogger(__name__)

OwnDocument = Literal["auto", "drop", "keep"]
Excluded = Mapping[str, Set[str]]
"""query id -> documents that are no candidates of it."""

_MOST = 0.5
"""Share of the corpus from which on a list is read as the corpus less a few documents."""


@dataclass(frozen=True)
class Rules:
    """What may be a candidate, on a loaded task whose `top_ranked` holds what is left to say.

    Attributes:
        own_lists: The task's own lists are the candidates, whatever their length.
        excluded: For each cell, what is no candidate.
        counts: For a manifest: `own_documents_dropped`, `own_documents_kept` and `documents_excluded`, where there are
            any.
    """

    own_lists: bool
    excluded: Mapping[tuple[str, str], Excluded] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


def rules_of(task: Any, candidates: str, own_document: OwnDocument) -> Rules:
    """Settle what may be a candidate, and leave `top_ranked` where it says so.

    Args:
        task: An mteb task, its data loaded. Its `ignore_identical_ids` becomes what was settled, since mteb drops a
            query's own document once more when it scores.
        candidates: `auto`, or `retrieved` for no lists of the task's own.
        own_document: What becomes of the document that carries a query's id.

    Returns:
        The rules.
    """
    cells = list(prepare.cells(task))
    listed = prepare.gives_lists(task.metadata)
    excluded: dict[tuple[str, str], dict[str, Set[str]]] = {}
    counts: dict[str, int] = {}
    for subset, split, data in cells:
        if listed and candidates == "retrieved":
            data["top_ranked"] = None
        outside = _excluded_by_lists(data) if data["top_ranked"] and not listed else None
        if outside is not None:
            data["top_ranked"] = None
            _count(counts, "documents_excluded", sum(map(len, outside.values())))
        where = f"{task.metadata.name}, {subset}/{split}"
        dropped, kept = _own_documents(task, where, data, own_document)
        _count(counts, "own_documents_dropped", len(dropped))
        _count(counts, "own_documents_kept", len(kept))
        excluded[subset, split] = {query: set(ids) for query, ids in (outside or {}).items() if ids}
        for query in dropped:
            excluded[subset, split][query] = {query, *excluded[subset, split].get(query, ())}
    if own_document == "keep":
        task.ignore_identical_ids = False
    return Rules(bool(cells) and listed and all(data["top_ranked"] for _, _, data in cells), excluded, counts)


def drop_excluded(task: Any, rules: Rules) -> None:
    """Take what is no candidate from the lists of a loaded task.

    Args:
        task: An mteb task with `top_ranked`.
        rules: What may be a candidate.
    """
    for subset, split, data in prepare.cells(task):
        excluded, none = rules.excluded[subset, split], set[str]()
        data["top_ranked"] = {
            query: [one for one in ids if one not in excluded.get(query, none)]
            for query, ids in data["top_ranked"].items()
        }


def _count(counts: dict[str, int], name: str, number: int) -> None:
    if number:
        counts[name] = counts.get(name, 0) + number


def _excluded_by_lists(data: Any) -> dict[str, Set[str]] | None:
    """Return what lists of nearly the whole corpus leave out; None where a list is short or not there.

    Searching the corpus for a few documents more costs nothing; a hundred lists of half a million documents are
    gigabytes wherever they are copied.
    """
    documents = frozenset(data["corpus"]["id"][:])
    lists = data["top_ranked"]
    judged = [query for query in data["queries"]["id"][:] if data["relevant_docs"].get(query)]
    if any(len(lists.get(query) or ()) <= _MOST * len(documents) for query in judged):
        return None
    return {query: documents.difference(lists[query]) for query in judged}


def _own_documents(task: Any, where: str, data: Any, mode: OwnDocument) -> tuple[Set[str], Set[str]]:
    """Return the queries whose own document is dropped, and those whose own document is kept."""
    judged = data["relevant_docs"]
    both = {query for query in data["queries"]["id"][:] if judged.get(query)}.intersection(data["corpus"]["id"][:])
    if not both:
        return both, both
    alike = _alike(data, both)
    relevant = {query for query in both if judged[query].get(query, 0) > 0}
    by_text = getattr(task, "drops_own_documents_by_text", False)
    if mode == "drop" or (mode == "auto" and task.ignore_identical_ids):
        dropped = both
    elif mode == "auto" and by_text:
        dropped = alike - relevant
    else:
        dropped = set()
    keep, drop = "retriever.own_document: keep", "retriever.own_document: drop"
    _tell(
        where,
        dropped & relevant,
        "queries have their own document judged relevant, and it is dropped all the same: it stays in the ideal gain "
        f"and in recall's denominator, so that no run reaches 100; {keep} keeps it",
    )
    if mode == "auto" and by_text:
        _tell(where, alike & relevant, f"queries have their own document judged relevant: it is kept; {drop} drops it")
        _tell(where, both - alike, f"queries have the id of a document with another text: it is kept; {drop} drops it")
    elif mode == "auto":
        _tell(
            where,
            alike - dropped,
            f"queries stand among the documents with the same id and text, and are kept, as mteb keeps them; {drop} "
            "drops them",
        )
    return dropped, (both if by_text else alike) - dropped


def _tell(where: str, queries: Set[str], what: str) -> None:
    if queries:
        logger.warning("%s: %d %s (such as %r)", where, len(queries), what, min(queries))


def _alike(data: Any, ids: Set[str]) -> set[str]:
    """Return the ids under which query and document have one text, up to the document's title and white space."""
    texts = dict(zip(data["queries"]["id"][:], data["queries"]["text"][:], strict=True))
    rows = [row for row, one in enumerate(data["corpus"]["id"][:]) if one in ids]
    found = data["corpus"].select(rows)
    titles = found["title"] if "title" in found.column_names else [""] * len(rows)
    return {
        one
        for one, title, text in zip(found["id"], titles, found["text"], strict=True)
        if _plain(texts[one]) in {_plain(text), _plain(f"{title or ''} {text}")}
    }


def _plain(text: Any) -> Any:
    return " ".join(text.split()) if isinstance(text, str) else text  # a conversation is a list
