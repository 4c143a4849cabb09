"""Embedded tasks: real text that every Python installation carries, as mteb tasks with fixed names.

They are built at run time from the standard library's sources; nothing is downloaded and nothing is stored. The content
differs between Python versions, so the dataset revision names version, size and a digest: results of different content
are never mixed.

    task = build("PyFunctionRetrieval", "small")
    mteb.evaluate(model, task)
"""

from __future__ import annotations

from typing import Any

from rerank_eval.errors import ConfigError
from rerank_eval.names import did_you_mean
from rerank_eval.tasks.embedded.base import SIZES, EmbeddedTask, Size
from rerank_eval.tasks.embedded.function_task import PyFunctionRetrieval
from rerank_eval.tasks.embedded.instruction_task import PyInstructionRetrieval
from rerank_eval.tasks.embedded.module_task import PyModuleRetrieval

EMBEDDED: dict[str, type[EmbeddedTask]] = {
    task.metadata.name: task for task in (PyFunctionRetrieval, PyModuleRetrieval, PyInstructionRetrieval)
}
"""Name -> task class, in the order in which they are run."""

__all__ = ["EMBEDDED", "SIZES", "EmbeddedTask", "Size", "build", "describe"]


def build(name: str, size: Size = "small") -> EmbeddedTask:
    """Make an embedded task; its data are loaded when mteb asks for them.

    Args:
        name: One of `EMBEDDED`.
        size: `small`, `medium` or `full`.

    Returns:
        A new, unloaded task whose `metadata` is its own copy with the revision of this content. The first call in a
        process reads the standard library (about four seconds); the others are served from memory.

    Raises:
        ConfigError: There is no such task or size.
        DataError: The installation carries no sources of the standard library.
    """
    if name not in EMBEDDED:
        raise ConfigError(f"unknown embedded task {name!r}; {did_you_mean(name, EMBEDDED)}")
    return EMBEDDED[name](size)


def describe(name: str, size: Size = "small") -> dict[str, Any]:
    """Count what a task holds, for a listing.

    Args:
        name: One of `EMBEDDED`.
        size: `small`, `medium` or `full`.

    Returns:
        name, type, main_score, revision, n_queries, n_documents, n_pairs (qrels), query_characters and
        document_characters (means, floats), candidates (a query, 0 where a retriever has to find them), of the test
        split.

    Raises:
        ConfigError: There is no such task or size.
        DataError: The installation carries no sources of the standard library.
    """
    task = build(name, size)
    content = task.content(size, "test")
    return {
        "name": name,
        "type": task.metadata.type,
        "main_score": task.metadata.main_score,
        "revision": task.metadata.dataset["revision"],
        "n_queries": len(content.queries),
        "n_documents": len(content.documents),
        "n_pairs": sum(map(len, content.qrels.values())),
        "query_characters": _mean([len(text) for text in content.queries.values()]),
        "document_characters": _mean([len(text) for text in content.documents.values()]),
        "candidates": max(map(len, content.candidates.values()), default=0),
    }


def _mean(lengths: list[int]) -> float:
    return sum(lengths) / len(lengths) if lengths else 0.0
