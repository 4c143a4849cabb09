"""Whether a result's scores are those that the store holds for the same pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rerank_eval.names import digest, slug
from rerank_eval.store import STORE, cell_folder, score_identity
from rerank_eval.store.shards import SUFFIX, ShardError, read_shard

_PAIR = ["query_id", "doc_id"]


@dataclass(frozen=True)
class Agreement:
    """What the store says of a result's pairs.

    Attributes:
        pairs: Pairs of the result.
        same: Those that the store has with the very same score.
        other: Those that it has with other scores only.
        unsound: Shards that cannot be read, with the reason.
    """

    pairs: int
    same: int
    other: int
    unsound: tuple[str, ...] = ()


def agreement(results_dir: Path, label: str, identity: Mapping[str, Any], task: str, scores: pd.DataFrame) -> Agreement:
    """Compare a result's scores with the store's, pair by pair, by their ids.

    Args:
        results_dir: The results folder.
        label: The model's short name.
        identity: The reranker's identity.
        task: The task's name.
        scores: Columns subset, split, query_id, doc_id, score (float64).
    """
    folder = results_dir / STORE / slug(label) / digest(score_identity(identity), 12) / slug(task)
    unsound: list[str] = []
    same = other = 0
    cells: dict[str, list[pd.DataFrame]] = {}
    for path in sorted(folder.glob(f"*/[0-9]*{SUFFIX}")):
        try:
            table = read_shard(path)
        except ShardError as error:
            unsound.append(f"{path.name} {error}")
            continue
        cells.setdefault(path.parent.name, []).append(table.select([*_PAIR, "score"]).to_pandas())
    for (subset, split), own in scores.groupby(["subset", "split"]):
        stored = cells.get(cell_folder(str(subset), str(split)))
        if stored is None:
            continue
        joined = own[[*_PAIR, "score"]].merge(pd.concat(stored), on=_PAIR, how="inner", suffixes=("", "_stored"))
        # A pair stands there once for each instruction and text that it was scored with.
        agrees = (joined["score"] == joined["score_stored"]).groupby([joined[key] for key in _PAIR]).any()
        same, other = same + int(agrees.sum()), other + int((~agrees).sum())
    return Agreement(len(scores), same, other, tuple(unsound))
