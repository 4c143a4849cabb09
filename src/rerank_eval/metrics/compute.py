"""From scores and qrels to everything a table says: what a run does when it ends, and `verify` does again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rerank_eval.metrics import per_query as metrics
from rerank_eval.metrics import registry
from rerank_eval.metrics.measures import p_mrr as followir
from rerank_eval.metrics.registry import Metric

PAIRS = "scores.parquet"
PER_QUERY = "per_query.parquet"
QRELS = "qrels.parquet"
P_MRR = "p_mrr.parquet"
CHANGED = "changed.parquet"

Qrels = registry.Qrels
Changed = Mapping[str, Sequence[str]]
Cell = tuple[str, str]
"""(subset, split)"""
_SMALL = 2**15


_PAIR_COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in ("subset", "split", "query_id", "doc_id")),
        ("rank", pa.int64()),
        ("score", pa.float64()),
        ("relevance", pa.int64()),
    ]
)


@dataclass
class Pairs:
    """Every pair of a task with its rank, score and relevance (0 where nobody judged), held compactly.

    Each block is a cell and a table of some of its queries: columns query_id, doc_id, rank, score, relevance.
    """

    blocks: list[tuple[Cell, pa.Table]] = field(default_factory=list)

    def add(self, cell: Cell, frame: pd.DataFrame) -> None:
        """Append a block of whole queries."""
        small = len(frame) and frame["relevance"].abs().max() < _SMALL
        columns = {
            "query_id": pa.array(frame["query_id"], pa.string()).dictionary_encode(),
            "doc_id": pa.array(frame["doc_id"], pa.string()),
            "rank": pa.array(frame["rank"], pa.int32()),
            "score": pa.array(frame["score"], pa.float64()),
            "relevance": pa.array(frame["relevance"], pa.int16() if small else None),
        }
        self.blocks.append((cell, pa.table(columns)))

    def write(self, path: Path) -> None:
        """Write columns subset, split, query_id, doc_id, rank, score and relevance to a parquet file."""
        with pq.ParquetWriter(path, _PAIR_COLUMNS) as writer:
            for (subset, split), table in self.blocks:
                labels = [pa.repeat(pa.scalar(name, pa.string()), len(table)) for name in (subset, split)]
                rest = [table[name].cast(_PAIR_COLUMNS.field(name).type) for name in table.column_names]
                writer.write_table(pa.table([*labels, *rest], schema=_PAIR_COLUMNS))

    def cells(self) -> Iterator[tuple[Cell, Iterator[pd.DataFrame]]]:
        """Yield each cell with its blocks as frames with columns query_id, doc_id, rank, score, relevance."""
        for cell in dict.fromkeys(cell for cell, _ in self.blocks):
            yield cell, (table.to_pandas().astype({"query_id": object}) for of, table in self.blocks if of == cell)


@dataclass(frozen=True)
class TaskMetrics:
    """A task's scores as frames, and what follows from them.

    Attributes:
        pairs: Every pair.
        per_query: Columns subset, split, query_id and the metrics: every query with judgements.
        summary: Means over all queries of a cell, then over cells, as suites average.
        mains: Each cell's main score, not rounded; empty where its measure is none that is known here.
        digest: SHA-256 (16 hexadecimal characters) over every pair's cell, query, document and score.
        qrels: Columns subset, split, query_id, doc_id, relevance: the judgements that this was judged by.
        instruction_pairs: Columns subset, split and those of `followir.p_mrr`; None unless relevance changes with the
            instruction.
        changed: Columns subset, split, query_id (of the pair), doc_id: what the instructions make irrelevant; likewise.
    """

    pairs: Pairs
    per_query: pd.DataFrame
    summary: dict[str, float]
    mains: dict[Cell, float]
    digest: str
    qrels: pd.DataFrame
    instruction_pairs: pd.DataFrame | None = None
    changed: pd.DataFrame | None = None


def cells_of(frame: pd.DataFrame) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """Yield a frame's cells in order, each with its own rows."""
    for key, rows in frame.groupby(["subset", "split"], sort=True):
        subset, split = key
        yield (str(subset), str(split)), rows


def compute_metrics(
    cells: Mapping[Cell, Iterable[pd.DataFrame]],
    qrels: Mapping[Cell, Qrels],
    changed: Mapping[Cell, Changed],
    main: str = registry.DEFAULT,
) -> TaskMetrics:
    """Compute per-query metrics.

    Args:
        cells: Each cell's candidates, in blocks of whole queries: columns query_id, doc_id, rank, score, best first
            within a query. Read more than once where relevance changes with the instruction, or where the main score
            is over groups of queries.
        qrels: Judgements of each cell.
        changed: For each cell, pairs of queries and the documents that the second one's instruction makes irrelevant.
        main: mteb's name of the task's main score; a column of its own where it is none of the usual metrics.

    Returns:
        Frames, summary and digest.

    Raises:
        ModelError: A score is not finite.
    """
    pairs = Pairs()
    queries: list[pd.DataFrame] = []
    summaries: dict[Cell, dict[str, float]] = {}
    hasher = hashlib.sha256()
    metric = registry.find(main)
    unit = registry.unit(metric)
    for cell, blocks in sorted(cells.items()):
        per_query = _cell_metrics(
            cell, blocks, qrels[cell], pairs, hasher, extra=[metric] if metric is not None and unit == "query" else []
        )
        summaries[cell] = metrics.summarise(per_query)
        if metric is not None and unit == "group":  # whose queries may stand in several blocks
            whole = metrics.by_unit(pd.concat(list(cells[cell])), qrels[cell], metric)
            summaries[cell][metric.name] = float(whole["value"].mean())
        queries.append(_labelled(per_query, *cell))
    by_pair = _instruction_pairs(cells, changed)
    if by_pair is not None:
        for cell, rows in by_pair.items():
            summaries[cell].update(followir.summarise(rows))
    parts = list(summaries.values())
    key = "" if metric is None else registry.column(metric.name)
    summary = {name: float(sum(part[name] for part in parts) / len(parts)) for name in parts[0]}
    judgements = [
        (*cell, q, d, int(v)) for cell, rows in sorted(qrels.items()) for q, ds in rows.items() for d, v in ds.items()
    ]
    made_irrelevant = [(*cell, q, d) for cell, rows in sorted(changed.items()) for q, ds in rows.items() for d in ds]
    columns = ["subset", "split", "query_id", "doc_id"]
    return TaskMetrics(
        pairs,
        pd.concat(queries, ignore_index=True),
        summary,
        {cell: part[key] for cell, part in summaries.items() if key in part},
        hasher.hexdigest()[:16],
        pd.DataFrame(judgements, columns=[*columns, "relevance"]).astype({"relevance": "int64"}),
        None
        if by_pair is None
        else pd.concat([_labelled(rows, *cell) for cell, rows in sorted(by_pair.items())], ignore_index=True),
        None if by_pair is None else pd.DataFrame(made_irrelevant, columns=columns),
    )


def _cell_metrics(
    cell: Cell,
    blocks: Iterable[pd.DataFrame],
    qrels: Qrels,
    pairs: Pairs,
    hasher: hashlib._Hash,
    *,
    extra: Sequence[Metric],
) -> pd.DataFrame:
    judged: list[pd.DataFrame] = []
    seen: set[str] = set()
    for frame in blocks:
        # As objects, once: pandas makes a new one of each string whenever it is asked.
        ids, documents, scores = (frame[name].to_numpy(object).tolist() for name in ("query_id", "doc_id", "score"))
        grades_of = {query: qrels[query] for query in dict.fromkeys(ids) if query in qrels}
        seen |= grades_of.keys()
        judged.append(metrics.per_query(frame, grades_of, extra))
        none: Mapping[str, int] = {}
        grades = [grades_of.get(query, none).get(document, 0) for query, document in zip(ids, documents, strict=True)]
        relevance = pd.array(grades, dtype="int64")
        pairs.add(cell, frame.assign(relevance=relevance))
        subset, split = cell
        for query_id, doc_id, score in zip(ids, documents, scores, strict=True):
            hasher.update(f"{subset}\t{split}\t{query_id}\t{doc_id}\t{score!r}\n".encode("utf-8", "surrogatepass"))
    # Queries without a candidate count as 0.
    empty = pd.DataFrame({"query_id": [], "doc_id": [], "rank": [], "score": []}).astype({"query_id": object})
    unseen = {query: grades_of for query, grades_of in qrels.items() if query not in seen}
    judged.append(metrics.per_query(empty, unseen, extra))
    whole = pd.concat([one for one in judged if len(one)] or judged[:1])
    return whole.sort_values("query_id", kind="stable", ignore_index=True)


def _instruction_pairs(
    cells: Mapping[Cell, Iterable[pd.DataFrame]], changed: Mapping[Cell, Changed]
) -> dict[Cell, pd.DataFrame] | None:
    """Compute p-MRR of pairs of instructions; None unless every cell has some."""
    if not changed:
        return None
    found = {cell: followir.p_mrr(pd.concat(blocks), changed.get(cell, {})) for cell, blocks in cells.items()}
    return found if found and all(len(frame) for frame in found.values()) else None


def _labelled(frame: pd.DataFrame, subset: str, split: str) -> pd.DataFrame:
    labelled = frame.copy()
    labelled.insert(0, "split", split)
    labelled.insert(0, "subset", subset)
    return labelled
