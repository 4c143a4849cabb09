"""PyFunctionRetrieval: find the function that a sentence describes."""

from __future__ import annotations

import functools
from collections import Counter

from rerank_eval.tasks.embedded.base import Content, EmbeddedTask, Size, take, task_metadata
from rerank_eval.tasks.embedded.stdlib import Function, library
from rerank_eval.tasks.embedded.texts import Split, informative, normalised, split_of

QUERIES: dict[Size, int | None] = {"small": 100, "medium": 500, "full": None}
DOCUMENTS: dict[Size, int | None] = {"small": 1500, "medium": None, "full": None}


@functools.cache
def askable() -> tuple[Function, ...]:
    """Return the functions whose summary has exactly one right answer.

    Returns:
        In the library's order, those whose summary is informative, is no other function's summary (case, layout and
        punctuation aside), and does not stand in the function's own code, where matching would be copying.
    """
    functions = library().functions
    count = Counter(normalised(function.summary) for function in functions)
    return tuple(
        function
        for function in functions
        if informative(function.summary)
        and count[normalised(function.summary)] == 1
        and normalised(function.summary) not in normalised(function.code)
    )


class PyFunctionRetrieval(EmbeddedTask):
    """Query: the first sentence of a docstring. Document: a function's source without the docstring.

    All functions of the standard library are documents; queries come from the modules of the split. `small` keeps
    100 queries and 1,500 documents, `medium` 500 queries, `full` all.
    """

    metadata = task_metadata(
        "PyFunctionRetrieval",
        "Retrieve the Python function that the first sentence of its docstring describes, among the functions and "
        "methods of the standard library with their docstrings removed.",
        prompt={"query": "Given a function's description, retrieve the Python function that it describes"},
    )

    @staticmethod
    @functools.cache
    def content(size: Size, split: Split) -> Content:
        """Build one split.

        Returns:
            The content; each query has one relevant document.
        """
        queries = {function.id: function for function in askable() if split_of(function.package) == split}
        chosen = take(list(queries), QUERIES[size], "function-query")
        everything = {function.id: function.code for function in library().functions}
        total = DOCUMENTS[size]
        others = [one for one in everything if one not in set(chosen)]
        kept = {*chosen, *take(others, None if total is None else max(0, total - len(chosen)), "function-document")}
        return Content(
            documents={one: code for one, code in everything.items() if one in kept},
            queries={f"q:{one}": queries[one].summary for one in chosen},
            qrels={f"q:{one}": [one] for one in chosen},
        )
