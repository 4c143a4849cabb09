"""What the embedded tasks share: their content as plain data, and the mteb task that serves it."""

from __future__ import annotations

import platform
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from rerank_eval.errors import ConfigError
from rerank_eval.names import did_you_mean, digest
from rerank_eval.tasks.embedded.texts import Split, sha_order

Size = Literal["small", "medium", "full"]
SIZES: tuple[Size, ...] = ("small", "medium", "full")
SPLITS: tuple[Split, ...] = ("train", "test")
UNBUILT = "built-at-run-time"
"""The class attribute's revision: only an object, which has a size, has a real one."""


@dataclass(frozen=True)
class Content:
    """One split of a task.

    Attributes:
        documents: Document id -> text.
        queries: Query id -> text.
        qrels: Query id -> ids of its relevant documents, sorted; never empty.
        instructions: Query id -> instruction; empty for tasks without.
        candidates: Query id -> document ids in the order in which they are given; empty for tasks without.
        changed: Query id without `-og` and `-changed` -> ids of the documents that the changed instruction excludes.
    """

    documents: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, list[str]]
    instructions: dict[str, str] = field(default_factory=dict)
    candidates: dict[str, list[str]] = field(default_factory=dict)
    changed: dict[str, list[str]] = field(default_factory=dict)


def take(ids: Sequence[str], count: int | None, purpose: str) -> list[str]:
    """Choose some ids: always the same ones, and the smaller choice within the larger.

    Args:
        ids: What to choose from, without repetition.
        count: How many; None for all.
        purpose: Two purposes choose independently.

    Returns:
        The chosen ids in the order of `ids`.
    """
    chosen = set(sorted(ids, key=lambda one: sha_order(f"{purpose}:{one}"))[:count])
    return [one for one in ids if one in chosen]


class EmbeddedTask(AbsTaskRetrieval):  # type: ignore[misc]
    """An mteb retrieval task whose data are built from the standard library's sources.

    `metadata` of an object is a private copy whose dataset revision names the Python version, the size and a digest of
    the content. It survives `unload_data`, so a task can be loaded again.

    Args:
        size: How much of the data; see `SIZES`.
        kwargs: Passed on to mteb (`seed`).

    Raises:
        ConfigError: There is no such size.
        DataError: The installation carries no sources of the standard library.
    """

    metadata: TaskMetadata
    data_loaded: bool

    def __init__(self, size: Size = "small", **kwargs: Any) -> None:
        if size not in SIZES:
            raise ConfigError(f"embedded.size: unknown size {size!r}; {did_you_mean(str(size), SIZES)}")
        super().__init__(**kwargs)
        self.size: Size = size
        published: TaskMetadata = type(self).metadata
        dataset = {"path": published.dataset["path"], "revision": self.revision(size)}
        self.metadata = published.model_copy(update={"dataset": dataset})

    @staticmethod
    @abstractmethod
    def content(size: Size, split: Split) -> Content:
        """Build one split; implementations cache it for the life of the process.

        Args:
            size: How much of the data.
            split: `test`, or `train` with the modules that `test` leaves out.
        """

    @classmethod
    def revision(cls, size: Size) -> str:
        """Name the content: Python version, size, and a digest over both splits.

        Returns:
            Such as `py3.11.7-small-0123456789ab`.
        """
        content = digest([asdict(cls.content(size, split)) for split in SPLITS], 12)
        return f"py{platform.python_version()}-{size}-{content}"

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Fill `self.dataset`; does nothing when the data are loaded."""
        if self.data_loaded:
            return
        self.dataset = {"default": {split: split_data(self.content(self.size, split)) for split in self.eval_splits}}
        self.data_loaded = True

    def unload_data(self) -> None:
        """Free the data and keep the private metadata, which mteb's method drops."""
        private = self.metadata
        super().unload_data()
        self.metadata = private


def split_data(content: Content) -> RetrievalSplitData:
    """Turn plain data into mteb's shape.

    Returns:
        Corpus with columns id, title (empty: a name would give the answer away), text; queries with id, text and,
        where the task has them, instruction; qrels with grade 1; candidates or None. Nothing in it is shared with
        `content`, because mteb changes what it is given.
    """
    queries = [{"id": one, "text": text} for one, text in content.queries.items()]
    for row in queries:
        if content.instructions:
            row["instruction"] = content.instructions[row["id"]]
    return RetrievalSplitData(
        corpus=Dataset.from_list([{"id": one, "title": "", "text": text} for one, text in content.documents.items()]),
        queries=Dataset.from_list(queries),
        relevant_docs={query: dict.fromkeys(found, 1) for query, found in content.qrels.items()},
        top_ranked={query: list(ids) for query, ids in content.candidates.items()} or None,
    )


def task_metadata(name: str, description: str, **fields: Any) -> TaskMetadata:
    """Describe an embedded task to mteb.

    Returns:
        The metadata, with what all embedded tasks have in common filled in.
    """
    common: dict[str, Any] = {
        "reference": "https://docs.python.org/3/library/index.html",
        "dataset": {"path": f"rerank-eval/{name}", "revision": UNBUILT},
        "type": "Retrieval",
        "category": "t2t",
        "modalities": ["text"],
        "eval_splits": ["test"],
        "eval_langs": ["eng-Latn", "python-Code"],
        "main_score": "ndcg_at_10",
        "date": ("1991-02-20", "2024-10-07"),
        "domains": ["Programming", "Written"],
        "task_subtypes": ["Code retrieval"],
        # PSF-2.0 is not among mteb's licences; the field takes a URL too.
        "license": "https://docs.python.org/3/license.html",
        "annotations_creators": "derived",
        "dialect": [],
        "sample_creation": "found",
        "bibtex_citation": "",
    }
    return TaskMetadata(name=name, description=description, **{**common, **fields})
