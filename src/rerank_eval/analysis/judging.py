"""From scores and judgements to everything a table says: what a run does when it ends, and `verify` does again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from rerank_eval.analysis import followir, metrics

PAIRS = "scores.parquet"
PER_QUERY = "per_query.parquet"
QRELS = "qrels.parquet"
P_MRR = "p_mrr.parquet"
CHANGED = "changed.parquet"

Qrels = Mapping[str, Mapping[str, int]]
Changed = Mapping[str, Sequence[str]]
Cell = tuple[str, str]
"""(subset, split)"""


@dataclass(frozen=True)
class Judged:
    """A task's scores as frames, and what follows from them.

    Attributes:
        pairs: Columns subset, split, query_id, doc_id, rank, score, relevance (0 where nobody judged): every pair.
        per_query: Columns subset, split, query_id and the metrics: every query with judgements.
        summary: Means over all queries of a cell, then over cells, as suites average.
        digest: SHA-256 (16 hexadecimal characters) over every pair's cell, query, document and score.
        qrels: Columns subset, split, query_id, doc_id, relevance: the judgements that this was judged by.
        instruction_pairs: Columns subset, split and those of `followir.p_mrr`; None unless relevance changes with the
            instruction.
        changed: Columns subset, split, query_id (of the pair), doc_id: what the instructions make irrelevant; likewise.
    """

    pairs: pd.DataFrame
    per_query: pd.DataFrame
    summary: dict[str, float]
    digest: str
    qrels: pd.DataFrame
    instruction_pairs: pd.DataFrame | None = None
    changed: pd.DataFrame | None = None


def judge_frames(
    cells: Mapping[Cell, pd.DataFrame], qrels: Mapping[Cell, Qrels], changed: Mapping[Cell, Changed]
) -> Judged:
    """Compute per-query metrics.

    Args:
        cells: Each cell's candidates: columns query_id, doc_id, rank, score, best first within a query.
        qrels: Judgements of each cell.
        changed: For each cell, pairs of queries and the documents that the second one's instruction makes irrelevant.

    Returns:
        Frames, summary and digest.

    Raises:
        ModelError: A score is not finite.
    """
    pairs: list[pd.DataFrame] = []
    queries: list[pd.DataFrame] = []
    summaries: list[dict[str, float]] = []
    hasher = hashlib.sha256()
    for (subset, split), frame in sorted(cells.items()):
        known = qrels[subset, split]
        per_query = metrics.per_query(frame, known)
        summaries.append(metrics.summarise(per_query))
        graded = zip(frame["query_id"], frame["doc_id"], strict=True)
        relevance = pd.array([known.get(q, {}).get(d, 0) for q, d in graded], dtype="int64")
        pairs.append(_labelled(frame.assign(relevance=relevance), subset, split))
        queries.append(_labelled(per_query, subset, split))
        for query_id, doc_id, score in zip(frame["query_id"], frame["doc_id"], frame["score"], strict=True):
            hasher.update(f"{subset}\t{split}\t{query_id}\t{doc_id}\t{score!r}\n".encode("utf-8", "surrogatepass"))
    by_pair = _instruction_pairs(cells, changed)
    if by_pair is not None:
        for part, (_, own) in zip(summaries, sorted(by_pair.items()), strict=True):
            part.update(followir.summarise(own))
    summary = {key: float(sum(part[key] for part in summaries) / len(summaries)) for key in summaries[0]}
    judgements = [
        (*cell, q, d, int(v)) for cell, own in sorted(qrels.items()) for q, ds in own.items() for d, v in ds.items()
    ]
    made_irrelevant = [(*cell, q, d) for cell, own in sorted(changed.items()) for q, ds in own.items() for d in ds]
    columns = ["subset", "split", "query_id", "doc_id"]
    return Judged(
        pd.concat(pairs, ignore_index=True),
        pd.concat(queries, ignore_index=True),
        summary,
        hasher.hexdigest()[:16],
        pd.DataFrame(judgements, columns=[*columns, "relevance"]).astype({"relevance": "int64"}),
        None
        if by_pair is None
        else pd.concat([_labelled(own, *cell) for cell, own in sorted(by_pair.items())], ignore_index=True),
        None if by_pair is None else pd.DataFrame(made_irrelevant, columns=columns),
    )


def _instruction_pairs(
    cells: Mapping[Cell, pd.DataFrame], changed: Mapping[Cell, Changed]
) -> dict[Cell, pd.DataFrame] | None:
    """Judge pairs of instructions; None unless every cell has some."""
    if not changed:
        return None
    found = {cell: followir.p_mrr(frame, changed.get(cell, {})) for cell, frame in cells.items()}
    return found if found and all(len(frame) for frame in found.values()) else None


def _labelled(frame: pd.DataFrame, subset: str, split: str) -> pd.DataFrame:
    labelled = frame.copy()
    labelled.insert(0, "split", split)
    labelled.insert(0, "subset", subset)
    return labelled
