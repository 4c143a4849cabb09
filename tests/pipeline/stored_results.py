"""Writes results as a run does, without one: scores and judgements of one's own, on a task with any cells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rerank_eval.metrics.compute import Cell, compute_metrics
from rerank_eval.pipeline.results import write_frames

DEPTH = 20


def ranking(seed: int, queries: int, *, better: float = 0.0) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """Return scores with columns query_id, doc_id, rank, score and the judgements, which no seed changes."""
    generator = np.random.default_rng(seed)
    rows: list[tuple[str, str, float]] = []
    qrels: dict[str, dict[str, int]] = {}
    for query in range(queries):
        qrels[f"q{query}"] = {f"d{query}": 1, f"d{query + 7}": 1}
        for document in range(query, query + DEPTH):
            score = float(generator.normal()) + better * (f"d{document}" in qrels[f"q{query}"])
            rows.append((f"q{query}", f"d{document}", score))
    frame = pd.DataFrame(rows, columns=["query_id", "doc_id", "score"])
    frame = frame.sort_values(["query_id", "score"], ascending=[True, False], kind="stable", ignore_index=True)
    frame.insert(2, "rank", frame.groupby("query_id").cumcount() + 1)
    return frame, qrels


def write_result(
    results: Path,
    label: str,
    cells: Mapping[Cell, pd.DataFrame],
    qrels: Mapping[Cell, Mapping[str, Mapping[str, int]]],
    *,
    retriever: str = "",
    main: str = "ndcg_at_10",
    task: str = "Task",
) -> Path:
    """Write one row's result on one task; a reranker where a retriever is named. Returns the task's folder."""
    digest, first = identity(label), identity(retriever or label)
    folder = results / "runs" / label / digest / task
    folder.mkdir(parents=True)
    judged = compute_metrics({cell: [frame] for cell, frame in cells.items()}, qrels, {}, main)
    write_frames(folder, judged, digest)
    kind = "reranker" if retriever else "retriever"
    made_from = [
        json.loads(path.read_text()) for path in (results / "runs").glob(f"{retriever or label}/*/{task}/manifest.json")
    ]
    order = sum(1 for _ in (results / "runs").iterdir())
    manifest: dict[str, Any] = {
        "schema": 1,
        "complete": True,
        "row": {"kind": kind, "label": label, "detail": "", "order": order, "notes": []},
        "identity": {"digest": digest, "candidates": first, kind: {"model": f"org/{label}", "head": "float32"}},
        "retriever": {"label": retriever or label, "top_k": DEPTH, "detail": ""},
        "task": {"name": task, "main_score": main, "revision": "1"},
        "scores": {"main": sum(judged.mains.values()) / len(judged.mains), **judged.summary},
        "inputs": {"candidates": made_from[0]["digest"]} if retriever and made_from else {},
        "digest": judged.digest,
        "native": False,
        "timings": {"seconds": 1.0, "finished": 1.0},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def identity(label: str) -> str:
    """Return a made identity of twelve characters."""
    return label.lower().encode().hex()[:12].ljust(12, "0")
