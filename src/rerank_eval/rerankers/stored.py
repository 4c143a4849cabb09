"""A scorer's scores between runs: the score store as a `CrossEncoder` uses it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rerank_eval.config.schema import StoreConfig
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.errors import StorageError
from rerank_eval.files import sweep, write_text
from rerank_eval.names import canonical_json, digest, slug
from rerank_eval.rerankers.cross_encoder import Candidates, GroupScores
from rerank_eval.store import IDENTITY, LOCK, STORE, cell_folder
from rerank_eval.store.cell import Blocks, StoredCell
from rerank_eval.store.locks import locked
from rerank_eval.store.shards import ScoredQuery, document_digest, query_digest

logger = logging.getLogger(__name__)


class ScoreStore:
    """All scores of one scorer, under what can change a score and is not in a pair's own texts.

    Args:
        results_dir: Folder of all results.
        label: The model's short name, for the folder.
        identity: Model, revision, dtype, arithmetic, recipe, max_length; JSON-serialisable. Query, instruction and
            document are in each pair's digests.
        blocks: How much is written at a time.
        check: Called before a block is written; raises where the lock is another's by now, so that a process that
            slept does not go on scoring what the other one scores.
        maker: Says what computes, in words such as a device and versions, for the shards that are written.

    Attributes:
        makers: What computed the scores of all cells that were opened, of earlier runs too.
    """

    def __init__(
        self,
        results_dir: Path,
        label: str,
        identity: Mapping[str, Any],
        blocks: Blocks | None = None,
        *,
        check: Callable[[], None] | None = None,
        maker: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.identity = dict(identity)
        self.digest = digest(self.identity, 12)
        self.folder = results_dir / STORE / slug(label) / self.digest
        self.blocks = blocks or Blocks()
        self.check = check
        self.maker = maker
        self.makers: set[str] = set()

    @contextmanager
    def cell(self, task: str, subset: str, split: str) -> Iterator[_Ledger]:
        """Open a cell; what was added is on the disk when the block ends, however it ends.

        Args:
            task: The task's name.
            subset: The subset's.
            split: The split's.

        Yields:
            Where the cell's scores are looked up and added.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        note = self.folder / IDENTITY
        text = canonical_json(self.identity) + "\n"
        if not note.is_file() or note.read_text(encoding="utf-8", errors="replace") != text:
            with locked(self.folder / LOCK):  # two tasks of one identity may begin at the same time
                sweep(self.folder)
                write_text(note, text)
        owner = {"identity": self.digest, "task": task, "subset": subset, "split": split}
        folder = self.folder / slug(task) / cell_folder(subset, split)
        stored = StoredCell(folder, owner, self.blocks, check=self.check, maker=self.maker)
        try:
            yield _Ledger(stored)
        except BaseException:
            try:
                stored.flush()
            except StorageError as error:  # what went wrong before is the news
                logger.warning("%s", error)
            raise
        stored.flush()
        self.makers |= stored.makers


def blocks(config: StoreConfig) -> Blocks:
    """Return what a config says about blocks."""
    return Blocks(config.block_pairs, config.block_seconds)


class _Ledger:
    """See `reranker.Ledger`."""

    def __init__(self, stored: StoredCell) -> None:
        self.stored = stored

    def find(self, group: QueryGroup) -> tuple[npt.NDArray[np.bool_], GroupScores]:
        known = self.stored.find(
            query_digest(group.query, group.instruction), [document_digest(text) for text in group.documents]
        )
        overlong = bool(known.found.any() and known.overlong[known.found].all())
        return known.found, GroupScores(known.scores, known.margins, known.truncated, known.tokens, overlong)

    def add(self, candidates: Candidates, group: QueryGroup, scores: GroupScores, fresh: npt.NDArray[np.bool_]) -> None:
        rows: list[int] = np.flatnonzero(fresh).tolist()
        self.stored.add(
            ScoredQuery(
                candidates.query_id,
                [candidates.document_ids[row] for row in rows],
                query_digest(group.query, group.instruction),
                [document_digest(group.documents[row]) for row in rows],
                scores.scores[rows],
                scores.margins[rows],
                scores.truncated[rows],
                np.full(len(rows), scores.overlong),
                scores.lengths[rows],
            )
        )
