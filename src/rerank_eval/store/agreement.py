"""Whether a result's scores are those that the store holds for the same pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from rerank_eval.names import digest, slug, without_split
from rerank_eval.store import STORE, cell_folder, score_identity
from rerank_eval.store.shards import SUFFIX, as_digests, sound_shards

_PAIR = ["query_id", "doc_id"]


@dataclass(frozen=True)
class Agreement:
    """What the store says of a result's pairs.

    Attributes:
        pairs: Pairs of the result.
        same: Those that the store has with the very same score.
        other: Those that it has with other scores only.
        moved: Those whose ids it has with other scores, while all scores of their query stand there as one query's: ids
            are not the store's key, and data may have been numbered anew.
        unsound: Shards that cannot be read, with the reason.
    """

    pairs: int
    same: int
    other: int
    moved: int = 0
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
    folder = results_dir / STORE / slug(label) / digest(score_identity(identity), 12) / slug(without_split(task))
    unsound: dict[Path, str] = {}
    cells: dict[str, list[pa.Table]] = {}
    for path, table in sound_shards(sorted(folder.glob(f"*/[0-9]*{SUFFIX}")), unsound):
        cells.setdefault(path.parent.name, []).append(table.select([*_PAIR, "score", "query_digest"]))
    same = other = moved = 0
    for (subset, split), part in scores.groupby(["subset", "split"]):
        tables = cells.get(cell_folder(str(subset), str(split)))
        if tables is None:
            continue
        stored = pa.concat_tables(tables)
        joined = part[[*_PAIR, "score"]].merge(
            stored.select([*_PAIR, "score"]).to_pandas(), on=_PAIR, how="inner", suffixes=("", "_stored")
        )
        # A pair stands there once for each instruction and text that it was scored with.
        agrees = (joined["score"] == joined["score_stored"]).groupby([joined[key] for key in _PAIR]).any()
        differing = agrees.index[~agrees].get_level_values("query_id")
        renamed = _renamed(part, set(differing), stored) if len(differing) else set()
        elsewhere = int(differing.isin(renamed).sum())
        same, moved = same + int(agrees.sum()), moved + elsewhere
        other += len(differing) - elsewhere
    return Agreement(len(scores), same, other, moved, tuple(f"{path.name} {why}" for path, why in unsound.items()))


def _renamed(scores: pd.DataFrame, queries: set[str], table: pa.Table) -> set[str]:
    """Return those queries all of whose scores the store has as scores of one query, whatever it is called there."""
    stored: dict[bytes, set[float]] = {}
    with_score: dict[float, set[bytes]] = {}
    digests = as_digests(table.column("query_digest")).tolist()
    for query, score in zip(digests, table.column("score").to_pylist(), strict=True):
        stored.setdefault(query, set()).add(score)
        with_score.setdefault(score, set()).add(query)
    found: set[str] = set()
    for query_id, values in scores[scores["query_id"].isin(queries)].groupby("query_id")["score"]:
        wanted = set(values.tolist())
        fewest = min((with_score.get(score, set()) for score in wanted), key=len)
        if any(wanted <= stored[query] for query in fewest):
            found.add(str(query_id))
    return found
