"""PyModuleRetrieval: find the module that a sentence or two describe, among long documents."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable

from rerank_eval.tasks.embedded.base import Content, EmbeddedTask, Size, take, task_metadata
from rerank_eval.tasks.embedded.stdlib import Module, library
from rerank_eval.tasks.embedded.texts import Split, informative, normalised, sentences, split_of

QUERIES: dict[Size, int | None] = {"small": 32, "medium": 100, "full": None}
DOCUMENTS: dict[Size, int | None] = {"small": 48, "medium": 200, "full": None}
MAX_CHARACTERS: dict[Size, int] = {"small": 6_000, "medium": 16_000, "full": 32_000}
"""Documents are cut at the last line end before this. 32,000 characters of code are about the 8,192 tokens that a
reranker reads; the smaller caps are for machines without an accelerator."""
MIN_CHARACTERS = 400
"""A shorter module only re-exports names."""
ENOUGH_WORDS = 8
"""A first sentence with fewer words ("CSV support.") takes the second one along."""


def cut(text: str, limit: int) -> str:
    """Cut a text at a line end.

    Returns:
        The text's first whole lines within the limit; where the first line alone is longer, its beginning.
    """
    if len(text) <= limit:
        return text
    end = text.rfind("\n", 0, limit + 1)
    return text[: end if end > 0 else limit]


def question(docstring: str) -> str:
    """Make a query of a module's docstring.

    Args:
        docstring: As `ast.get_docstring` returns it.

    Returns:
        Its first sentence, and the second where the first has fewer than eight words; empty when there is none.
    """
    found = sentences(docstring)
    few = bool(found) and len(found[0].split()) < ENOUGH_WORDS
    return " ".join(found[: 2 if few else 1])


def _distinct(modules: Iterable[Module]) -> dict[str, Module]:
    seen: dict[str, Module] = {}
    for module in modules:
        if len(module.code) >= MIN_CHARACTERS:
            seen.setdefault(normalised(cut(module.code, min(MAX_CHARACTERS.values()))), module)
    return {module.name: module for module in seen.values()}


@functools.cache
def _askable() -> dict[str, str]:
    """Module name -> query, for the modules whose query has one right answer and does not stand in their own code."""
    modules = _distinct(library().modules)
    queries = {name: question(module.docstring) for name, module in modules.items()}
    count = Counter(normalised(query) for query in queries.values())
    return {
        name: query
        for name, query in queries.items()
        if informative(query)
        and count[normalised(query)] == 1
        and normalised(query) not in normalised(modules[name].code)
    }


class PyModuleRetrieval(EmbeddedTask):
    """Query: the first sentence or two of a module's docstring. Document: the module's source without the docstring.

    `small` keeps 32 queries and 48 documents of 6,000 characters at most, `medium` 100, 200 and 16,000, `full` all
    and 32,000.
    """

    metadata = task_metadata(
        "PyModuleRetrieval",
        "Retrieve the Python module that the beginning of its docstring describes, among the modules of the standard "
        "library with their docstrings removed: long documents.",
        prompt={"query": "Given a description of a Python module, retrieve the source code of that module"},
    )

    @staticmethod
    @functools.cache
    def content(size: Size, split: Split) -> Content:
        """Build one split.

        Args:
            size: See `QUERIES`, `DOCUMENTS` and `MAX_CHARACTERS`.
            split: Where the queries come from; all modules can be documents.

        Returns:
            The content; each query has one relevant document.
        """
        queries = {name: query for name, query in _askable().items() if split_of(name.partition(".")[0]) == split}
        chosen = take(list(queries), QUERIES[size], "module-query")
        modules = _distinct(library().modules)
        total = DOCUMENTS[size]
        others = [name for name in modules if name not in set(chosen)]
        kept = {*chosen, *take(others, None if total is None else max(0, total - len(chosen)), "module-document")}
        return Content(
            documents={
                name: cut(module.code, MAX_CHARACTERS[size]) for name, module in modules.items() if name in kept
            },
            queries={f"q:{name}": queries[name] for name in chosen},
            qrels={f"q:{name}": [name] for name in chosen},
        )
