"""Names to mteb tasks: suites, embedded tasks, BEIR folders, anything retrieval-like that mteb registers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from rerank_eval.errors import ConfigError
from rerank_eval.files import at_home, is_folder
from rerank_eval.names import SPLIT_MARK, did_you_mean, without_split
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
        name: mteb's task name, or the BEIR folder's; behind it, as in `MSMARCO@train`, a split that is not the usual
            one. Its results are another task's: in a folder, a column and mean of their own.
        kind: Where it comes from.
        source: What stood in the config, such as `MTEB-R`.
        suite: The suite through which it was named, else None.
        splits: Splits that count; None takes the task's own.
        path: A BEIR folder, else None.
        others: Splits of a BEIR folder that do not count.
    """

    name: str
    kind: Kind
    source: str
    suite: str | None = None
    splits: tuple[str, ...] | None = None
    path: Path | None = None
    others: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """The task's name without a split behind it."""
        return without_split(self.name)

    @property
    def split(self) -> str | None:
        """The split behind the name, or None for the usual ones."""
        return self.splits[0] if self.name != self.base and self.splits else None

    @property
    def told(self) -> str:
        """The name, and which split counts where there are others to choose."""
        if not self.others or not self.splits:
            return self.name
        return f"{self.name} (split {self.splits[0]}; also there: {', '.join(self.others)}, by --split)"


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


def resolve(names: Sequence[str], *, split: str | None = None, where: str = "tasks") -> list[TaskRef]:
    """Find the tasks that names stand for: a suite, an embedded task, a folder, a task of mteb, in this order.

    Args:
        names: As given in a config or on the command line; a split may follow, as in `MSMARCO@train`.
        split: The split of all names that none follows; None takes each task's usual ones.
        where: Config key for error messages.

    Returns:
        Tasks in order, each once.

    Raises:
        ConfigError: A name stands for nothing; names the nearest valid one. Or a task has no such split.
    """
    found: dict[str, TaskRef] = {}
    for name in names:
        if not name.strip():
            raise ConfigError(f"{where}: an empty name; give a suite, a task or a folder")
        base, named = split_of(name)
        for usual in _resolve_one(base, where):
            ref = _with_split(usual, named or split, where)
            other = found.setdefault(ref.name, ref)
            if ref.path != other.path:
                raise ConfigError(
                    f"{where}: {name!r} and {other.source!r} are two tasks of the name {ref.name!r}; rename one"
                )
    return list(found.values())


def split_of(name: str) -> tuple[str, str | None]:
    """Part a task's name from the split that follows it, if one does; a folder may have any name."""
    base, mark, split = name.rpartition(SPLIT_MARK)
    return (base, split) if mark and base and split and not is_folder(at_home(name)) else (name, None)


def _with_split(ref: TaskRef, split: str | None, where: str) -> TaskRef:
    """Let another split of a task count."""
    usual, known = _splits(ref, split)
    if split is None:
        return replace(ref, others=tuple(one for one in known if (one,) != usual)) if ref.kind == "beir" else ref
    if ref.kind != "mteb" and split not in known:
        raise ConfigError(f"{where}: {ref.name} has no split {split!r}; valid: {', '.join(known) or 'none'}")
    others = tuple(one for one in known if one != split) if ref.kind == "beir" else ()
    if (split,) == usual:
        return replace(ref, others=others)
    # A suite's mean is over its tasks' own splits.
    return replace(ref, name=f"{ref.name}{SPLIT_MARK}{split}", splits=(split,), suite=None, others=others)


def _splits(ref: TaskRef, split: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the splits that count without being asked for, and all that are known."""
    if ref.kind == "beir":
        return ref.splits or (), (*(ref.splits or ()), *ref.others)
    if ref.kind == "embedded":
        splits = next(task.splits for task in load_suites()[EMBEDDED_SUITE].tasks if task.name == ref.name)
        return splits, splits
    if ref.splits is not None or split is None:
        return ref.splits or (), ref.splits or ()
    import mteb

    # Data may have others: `prepare.check_split` asks them.
    return (splits := tuple(mteb.get_task(ref.name).metadata.eval_splits)), splits


def _resolve_one(name: str, where: str) -> Iterator[TaskRef]:
    suites = load_suites()
    wanted = {suite.lower(): suite for suite in suites}.get(name.lower())
    embedded = {task.name for task in suites[EMBEDDED_SUITE].tasks} if EMBEDDED_SUITE in suites else set()
    if wanted is not None:
        for task in suites[wanted].tasks:
            kind: Kind = "embedded" if task.name in embedded else "mteb"
            for member in task.members or (task.name,):
                yield TaskRef(member, kind, name, wanted, task.splits)
    elif name in embedded:
        yield TaskRef(name, "embedded", name, EMBEDDED_SUITE)
    elif is_folder(name) or "/" in name or name.startswith((".", "~")):
        yield _folder(name, where)
    elif _suite_task(suites, name) is not None or name in _mteb_names():
        known = _suite_task(suites, name)
        for member in (known.members if known is not None else ()) or (name,):
            yield TaskRef(member, "mteb", name, None, known.splits if known is not None else None)
    else:
        valid = [*suites, *embedded, *_mteb_names()]
        raise ConfigError(f"{where}: unknown task {name!r}; {did_you_mean(name, valid)}")


def _folder(name: str, where: str) -> TaskRef:
    from rerank_eval.tasks.beir_files import folder_name, folder_splits

    path = at_home(name)
    if not is_folder(path):
        raise ConfigError(
            f"{where}: {name}: no such folder; a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/"
        )
    task = folder_name(path)
    suites = load_suites().values()
    if task in _mteb_names() or any(task == known.name for suite in suites for known in suite.tasks):
        raise ConfigError(
            f"{where}: {name}: the folder has the name of a task that is known, {task}; rename it, so that its scores "
            "are not taken for that task's"
        )
    usual, others = folder_splits(path)
    return TaskRef(task, "beir", name, splits=usual, path=path, others=others)


def _suite_task(suites: dict[str, Suite], name: str) -> SuiteTask | None:
    return next((task for suite in suites.values() for task in suite.tasks if task.name == name), None)


@cache
def _mteb_names() -> tuple[str, ...]:
    # `mteb.get_tasks` makes an object of each task, and each of them seeds torch anew: a second in all.
    from mteb.filter_tasks import filter_tasks
    from mteb.get_tasks import TASK_LIST

    return tuple(
        task.metadata.name
        for task in filter_tasks(
            TASK_LIST,
            task_types=TASK_TYPES,
            exclude_superseded=True,
            exclude_aggregate=True,
            exclude_private=True,
            exclude_beta=True,
        )
    )


def build(ref: TaskRef, *, size: Size = "small") -> Any:
    """Make the mteb task that a reference stands for, without loading its data.

    Returns:
        An `AbsTaskRetrieval`.

    Raises:
        ConfigError: mteb has no such task, or it is not one of queries, documents and judgements, or not of text alone.
        DataError: A BEIR folder is malformed.
    """
    if ref.kind == "embedded":
        from rerank_eval.tasks import embedded

        return embedded.build(ref.base, size)
    if ref.kind == "beir":
        from rerank_eval.tasks.beir import BeirFolder

        assert ref.path is not None  # noqa: S101 - set for every folder
        return BeirFolder(ref.path, ref.split)
    import mteb
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    try:
        task = mteb.get_task(ref.base, eval_splits=list(ref.splits) if ref.splits else None)
    except KeyError:
        raise ConfigError(
            f"suite {ref.suite}: names the task {ref.base!r}, which the installed mteb has not; "
            f"{did_you_mean(ref.base, _mteb_names())}"
        ) from None
    if not isinstance(task, AbsTaskRetrieval):
        raise ConfigError(f"tasks: {ref.name} is of type {task.metadata.type}, which has no candidates to rerank")
    if not set(task.metadata.modalities) <= {"text"}:
        kinds = ", ".join(sorted(set(task.metadata.modalities)))
        raise ConfigError(f"tasks: {ref.name} is of {kinds}; rerankers here read text alone")
    return task


def catalogue() -> list[CatalogueRow]:
    """List every task of every suite."""
    return [
        CatalogueRow(suite.name, task.name, task.main_score, task.splits, task.subsets, task.queries, task.pairs)
        for suite in load_suites().values()
        for task in suite.tasks
    ]
