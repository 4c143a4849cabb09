"""A user's own data: a folder in BEIR's layout as an mteb task.

    corpus.jsonl     {"_id": "d1", "title": "", "text": "..."}
    queries.jsonl    {"_id": "q1", "text": "...", "instruction": "..."}     instruction is optional
    qrels/test.tsv   query-id <tab> corpus-id <tab> score                   columns by header, or TREC's four

All of them may be gzipped; docs/data.md has the columns' other names. The whole folder is checked when the task is
made, before any model is loaded.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, Any

from datasets import Dataset, Features, Value
from datasets.arrow_writer import ArrowWriter
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from rerank_eval.models.resolve import cache_dir
from rerank_eval.tasks.beir_files import find_files, folder_name, rows, scan
from rerank_eval.tasks.mapped import own_folder

_BATCH = 10_000


class BeirFolder(AbsTaskRetrieval):  # type: ignore[misc]
    """A BEIR folder as an mteb task, checked when it is made.

    Args:
        path: The folder.
        split: Whose judgements count; None for `test`, or the only one.

    Raises:
        ConfigError: There is no such split.
        DataError: The folder is malformed.

    Attributes:
        drops_own_documents_by_text: Whether a query's own document is told by its text and not by its id alone, as in
            mteb's own tasks.
        has_own_documents: Whether a query has a document's id.
    """

    drops_own_documents_by_text = True

    metadata = TaskMetadata(
        name="BeirFolder",
        description="A folder in BEIR's layout.",
        type="Retrieval",
        category="t2t",
        dataset={"path": "local/folder", "revision": "none"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def __init__(self, path: Path, split: str | None = None) -> None:
        self._files = find_files(path, split)
        found = scan(self._files)
        self._judged, self.has_own_documents = found.judged, found.own_documents
        revision = f"sha256-{found.digest}"
        name = folder_name(path)
        # mteb keeps metadata on the class; this folder's must not reach another's task.
        self._own = type(self).metadata.model_copy(
            update={
                "name": name,
                "description": f"The folder {name} in BEIR's layout.",
                "dataset": {"path": f"local/{name}", "revision": revision},
                "eval_splits": [self._files.split],
            }
        )
        self.metadata = self._own
        self._mapped: tempfile.TemporaryDirectory[str] | None = None
        self._in_use: IO[bytes] | None = None
        super().__init__()

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Read the folder into memory."""
        if getattr(self, "data_loaded", False):
            return
        self.metadata = self._own
        self._judged.tell()
        queries = list(rows(self._files.queries))
        columns = {
            "id": [row["id"] for row in queries],
            "text": [row["text"] for row in queries],
        }
        if any("instruction" in row for row in queries):
            columns["instruction"] = [row.get("instruction", "") for row in queries]
        data = RetrievalSplitData(
            corpus=self._mapped_corpus(),
            queries=Dataset.from_dict(columns),
            relevant_docs={query: dict(judged) for query, judged in self._judged.qrels.items()},
            top_ranked=None,
        )
        self.dataset = {"default": {self._files.split: data}}
        self.data_loaded = True

    def _mapped_corpus(self) -> Dataset:
        """Write the corpus to an Arrow file that is mapped, not read: it may be larger than memory."""
        place = cache_dir() / "corpora"
        place.mkdir(parents=True, exist_ok=True)
        # Not in the system's folder for such files, which may itself be memory.
        self._mapped, self._in_use = own_folder(place)
        path = str(Path(self._mapped.name) / "corpus.arrow")
        features = Features({name: Value("string") for name in ("id", "title", "text")})
        with ArrowWriter(path=path, features=features, writer_batch_size=_BATCH) as writer:
            for row in rows(self._files.corpus):
                writer.write({"id": row["id"], "title": row.get("title", ""), "text": row["text"]})
            writer.finalize()
        return Dataset.from_file(path)

    def unload_data(self) -> None:
        """Free the data; the task keeps its own metadata and can load again."""
        super().unload_data()
        self.metadata = self._own
        if self._mapped is not None and self._in_use is not None:
            self._in_use.close()
            self._mapped.cleanup()
            self._mapped = self._in_use = None
