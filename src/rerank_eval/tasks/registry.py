"""Names to mteb tasks: suites, embedded tasks, BEIR folders, anything retrieval-like that mteb registers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rerank_eval.errors import ConfigError
from rerank_eval.files import at_home, is_folder
from rerank_eval.names import did_you_mean
from rerank_eval.tasks.suites import Suite, SuiteTask, load_suites

Kind = Literal["embedded", "mteb", "beir"]
Size = Literal["small", "medium", "full"]

EMBEDDED_SUITE = "Embedded"
TASK_TYPES = ["Retrieval", "Reranking", "InstructionRetrieval", "InstructionReranking"]
"""mteb's task types whose tasks have queries, documents and judgements."""


@dataclass(frozen=True)
class TaskRef:
    """A task that a name stands for; nothing of it is loaded.

    Attributes:
        name: mteb's task name, or the BEIR folder's.
        kind: Where it comes from.
        source: What stood in the config, such as `MTEB-R`.
        suite: The suite through which it was named, else None.
        splits: Splits that count; None takes the task's own.
        path: A BEIR folder, else None.
    """

    name: str
    kind: Kind
    source: str
    suite: str | None = None
    splits: tuple[str, ...] | None = None
    path: Path | None = None


@dataclass(frozen=True)
class CatalogueRow:
    """A line of `rerank-eval tasks`: one task of one suite."""

    suite: str
    name: str
    main_score: str
    splits: tuple[str, ...]
    subsets: int
    queries: int | None
    pairs: int | None


def resolve(names: Sequence[str], *, where: str = "tasks") -> list[TaskRef]:
    """Find the tasks that names stand for: a suite, an embedded task, a folder, a task of mteb, in this order.

    Args:
        names: As given in a config or on the command line.
        where: Config key for error messages.

    Returns:
        Tasks in order, each once.

    Raises:
        ConfigError: A name stands for nothing; names the nearest valid one.
    """
    found: dict[str, TaskRef] = {}
    for name in names:
        if not name.strip():
            raise ConfigError(f"{where}: an empty name; give a suite, a task or a folder")
        for ref in _resolve_one(name, where):
            other = found.setdefault(ref.name, ref)
            if ref.path != other.path:
                raise ConfigError(
                    f"{where}: {name!r} and {other.source!r} are two tasks of the name {ref.name!r}; rename one"
                )
    return list(found.values())


def _resolve_one(name: str, where: str) -> Iterator[TaskRef]:
    suites = load_suites()
    wanted = {suite.lower(): suite for suite in suites}.get(name.lower())
    embedded = {task.name for task in suites[EMBEDDED_SUITE].tasks} if EMBEDDED_SUITE in suites else set()
    if wanted is not None:
        kind: Kind = "embedded" if wanted == EMBEDDED_SUITE else "mteb"
        for task in suites[wanted].tasks:
            yield TaskRef(task.name, kind, name, wanted, task.splits)
    elif name in embedded:
        yield TaskRef(name, "embedded", name, EMBEDDED_SUITE)
    elif is_folder(name) or "/" in name or name.startswith((".", "~")):
        yield _folder(name, where)
    elif _suite_task(suites, name) is not None or name in _mteb_names():
        task_or_none = _suite_task(suites, name)
        yield TaskRef(name, "mteb", name, None, task_or_none.splits if task_or_none is not None else None)
    else:
        valid = [*suites, *embedded, *_mteb_names()]
        raise ConfigError(f"{where}: unknown task {name!r}; {did_you_mean(name, valid)}")


def _folder(name: str, where: str) -> TaskRef:
    from rerank_eval.tasks.beir_files import folder_name

    path = at_home(name)
    if not is_folder(path):
        raise ConfigError(
            f"{where}: {name}: no such folder; a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/"
        )
    task = folder_name(path)
    if any(task == known.name for suite in load_suites().values() for known in suite.tasks):
        raise ConfigError(
            f"{where}: {name}: the folder has the name of a task that is known, {task}; rename it, so that its scores "
            "are not taken for that task's"
        )
    return TaskRef(task, "beir", name, path=path)


def _suite_task(suites: dict[str, Suite], name: str) -> SuiteTask | None:
    return next((task for suite in suites.values() for task in suite.tasks if task.name == name), None)


def _mteb_names() -> list[str]:
    import mteb

    return [task.metadata.name for task in mteb.get_tasks(task_types=TASK_TYPES, exclude_aggregate=True)]


def build(ref: TaskRef, *, size: Size = "small") -> Any:
    """Make the mteb task that a reference stands for, without loading its data.

    Args:
        ref: The task.
        size: Size of embedded tasks.

    Returns:
        An `AbsTaskRetrieval`.

    Raises:
        ConfigError: mteb's task is not one of queries, documents and judgements.
        DataError: A BEIR folder is malformed.
    """
    if ref.kind == "embedded":
        from rerank_eval.tasks import embedded

        return embedded.build(ref.name, size)
    if ref.kind == "beir":
        from rerank_eval.tasks.beir import BeirFolder

        assert ref.path is not None  # noqa: S101 - set for every folder
        return BeirFolder(ref.path)
    import mteb
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    task = mteb.get_task(ref.name, eval_splits=list(ref.splits) if ref.splits else None)
    if not isinstance(task, AbsTaskRetrieval):
        raise ConfigError(f"tasks: {ref.name} is of type {task.metadata.type}, which has no candidates to rerank")
    return task


def catalogue() -> list[CatalogueRow]:
    """List every task of every suite."""
    return [
        CatalogueRow(suite.name, task.name, task.main_score, task.splits, task.subsets, task.queries, task.pairs)
        for suite in load_suites().values()
        for task in suite.tasks
    ]
