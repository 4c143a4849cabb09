"""The score cache: a reranker's scores between runs, as a `CrossEncoder` uses it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rerank_eval.config.schema import StoreConfig
from rerank_eval.errors import ModelError, StorageError
from rerank_eval.files import load_json, sweep, write_json, write_text
from rerank_eval.names import canonical_json, digest, slug
from rerank_eval.servers.protocol import OTHER_MODEL, moved
from rerank_eval.store import IDENTITY, LOCK, STORE, cell_folder
from rerank_eval.store.cell import ScoreCacheCell
from rerank_eval.store.locks import locked

logger = logging.getLogger(__name__)

KNOWN = "known-pairs.json"
"""A server's scores of known pairs, beside the identity."""
OTHER_DTYPE = 1e-3
"""Difference of known pairs' scores, as a share of their range, above which it is more than float32's rounding."""


class ScoreCache:
    """All scores of one reranker, under what can change a score and is not in a pair's own texts.

    Args:
        results_dir: Folder of all results.
        label: The model's short name, for the folder.
        identity: JSON-serialisable. Query, instruction and document are in each pair's digests.
        settings: How much is written at a time.
        check: Called before a block is written; raises where the lock is another's by now, so that a process that
            slept does not go on scoring what the other one scores.
        computed_on: Names what computes, such as a device and versions, for the shards that are written.

    Attributes:
        devices: What the scores of all cells that were opened were computed on, of earlier runs too.
    """

    def __init__(
        self,
        results_dir: Path,
        label: str,
        identity: Mapping[str, Any],
        settings: StoreConfig | None = None,
        *,
        check: Callable[[], None] | None = None,
        computed_on: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.identity = dict(identity)
        self.digest = digest(self.identity, 12)
        self.folder = results_dir / STORE / slug(label) / self.digest
        self.settings = settings
        self.check = check
        self.computed_on = computed_on
        self.devices: set[str] = set()

    def check_same_model(self, scores: Sequence[float]) -> None:
        """Hold a server's scores of known pairs against those that it gave when the cache's scores were made.

        Args:
            scores: Of the same known pairs every time.

        Raises:
            ModelError: Another model, template or activation stands behind the same name.
        """
        path = self.folder / KNOWN
        with locked(self.folder / LOCK):
            try:
                before = [float(score) for score in load_json(path)]
            except (OSError, ValueError, TypeError):
                before = []
            if len(before) != len(scores):
                write_json(path, list(scores))
                return
        share = moved(before, scores)
        if share > OTHER_MODEL:
            raise ModelError(
                f"reranker.model: the server scores known pairs {_listed(scores)}, and scored them {_listed(before)} "
                f"when {self.folder} was written: it has another model, template or activation now; set "
                "reranker.revision to a name of your own for it, and its scores are kept apart"
            )
        if share > OTHER_DTYPE:
            logger.warning(
                "the server's scores of known pairs have moved by up to %.1e of their range since %s was written: "
                "another dtype, version or device computes now",
                *(share, self.folder),
            )

    @contextmanager
    def cell(self, task: str, subset: str, split: str) -> Iterator[ScoreCacheCell]:
        """Open a cell; what was added is on the disk when the block ends, however it ends.

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
        cell = ScoreCacheCell(folder, owner, self.settings, check=self.check, computed_on=self.computed_on)
        try:
            yield cell
        except BaseException:
            try:
                cell.flush()
            except StorageError as error:  # what went wrong before is the news
                logger.warning("%s", error)
            raise
        cell.flush()
        self.devices |= cell.devices


def _listed(scores: Sequence[float]) -> str:
    return ", ".join(f"{score:.4g}" for score in scores)
