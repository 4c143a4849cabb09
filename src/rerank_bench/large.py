"""Data larger than memory: whole runs over millions of documents or pairs, with their peak memory.

    python -m rerank_bench.large --pairs 10000000
    python -m rerank_bench.large --documents 10000000
    python -m rerank_bench.large --scores 41000000

A run is the command line's own, in a process of its own. What only costs a model's time is put in place beforehand, in
the stores in which a run finds it: scores of all pairs, or embeddings of all documents. Everything else is done.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rerank_eval.files import write_json

CANDIDATES = 100
_WORDS = 20_000
_SEED = 20_261_123
_CONFIG = """
tasks: [{task}]
retriever: {{model: {retriever}, top_k: {top_k}}}
reranker: {{model: "demo:qwen3-random"}}
"""


def write_task(folder: Path, queries: int, documents: int, words: int) -> Path:
    """Write a task in BEIR's layout whose texts are drawn words.

    Args:
        folder: Its folder.
        queries: Queries, each with one relevant document.
        documents: Documents.
        words: Words of a document.
    """
    dice = random.Random(_SEED)
    vocabulary = [f"w{number:05d}" for number in range(_WORDS)]
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as handle:
        for number in range(documents):
            text = " ".join(dice.choices(vocabulary, k=words))
            handle.write(json.dumps({"_id": f"d{number}", "title": "", "text": text}) + "\n")
    with (
        (folder / "queries.jsonl").open("w", encoding="utf-8") as handle,
        (folder / "qrels" / "test.tsv").open("w", encoding="utf-8") as judged,
    ):
        judged.write("query-id\tcorpus-id\tscore\n")
        for number in range(queries):
            text = " ".join(dice.choices(vocabulary, k=6))
            handle.write(json.dumps({"_id": f"q{number}", "text": text}) + "\n")
            judged.write(f"q{number}\td{dice.randrange(documents)}\t1\n")
    return folder


def timed(arguments: Sequence[str], folder: Path) -> dict[str, float]:
    """Run the command line in a process of its own.

    Args:
        arguments: What stands behind `rerank-eval`.
        folder: Where it is run.

    Returns:
        Wall seconds and peak resident memory in MB.

    Raises:
        RuntimeError: It failed.
    """
    started = time.monotonic()
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "rerank_eval", *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None  # noqa: S101 - asked for above
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(output.decode(errors="replace")[-2000:])
    return {"seconds": round(time.monotonic() - started, 1), "peak_mb": round(used.ru_maxrss / 1024, 1)}


def many_pairs(folder: Path, pairs: int) -> dict[str, Any]:
    """Retrieve and rerank a subset of so many pairs.

    Args:
        folder: Where everything goes.
        pairs: Pairs, a hundred a query.
    """
    queries, documents = pairs // CANDIDATES, max(2000, pairs // 5000)
    config = _config(folder, write_task(folder / "pairs", queries, documents, 12), "bm25")
    first = timed(["eval", "--config", str(config), "--set", "reranker=null"], folder)
    filled = _fill_scores(folder, config)
    second = timed(["eval", "--config", str(config)], folder)
    return {"queries": queries, "documents": documents, "pairs": filled, "retrieve": first, "rerank": second}


def many_documents(folder: Path, documents: int) -> dict[str, Any]:
    """Search a corpus of so many documents by embeddings that are there, and rerank what is found.

    Args:
        folder: Where everything goes.
        documents: Documents.
    """
    encoder = folder / "encoder"
    _write_encoder(encoder)
    config = _config(folder, write_task(folder / "documents", 100, documents, 5), str(encoder), top_k=10)
    dim = _fill_embeddings(folder, config)
    ran = timed(["eval", "--config", str(config)], folder)
    return {"queries": 100, "documents": documents, "dim": dim, "retrieve_and_rerank": ran}


def many_scores(folder: Path, scores: int) -> dict[str, Any]:
    """Write so many scores into the store, open it anew, and look each of them up, in this process.

    Args:
        folder: Where the store goes.
        scores: Scores, a hundred a query, in one cell.
    """
    from rerank_eval.engine.interface import Scores
    from rerank_eval.store.cache import ScoreCache
    from rerank_eval.store.shards import ScoredQuery, document_digest, query_digest

    cache = ScoreCache(folder, "bench", {"model": "bench"})
    queries, dice = scores // CANDIDATES, np.random.default_rng(_SEED)
    texts = [f"the text of document {number}" for number in range(10_000)]
    flags, lengths = np.zeros(CANDIDATES, bool), np.full(CANDIDATES, 300)

    def pairs(number: int) -> tuple[bytes, list[int]]:
        start = number * 37 % (len(texts) - CANDIDATES)
        return query_digest(f"query {number}", None), list(range(start, start + CANDIDATES))

    started = time.monotonic()
    with cache.cell("task", "default", "test") as cell:
        for number in range(queries):
            query, rows = pairs(number)
            values = dice.normal(size=CANDIDATES).astype(np.float32).astype(np.float64)
            digests = [document_digest(texts[row]) for row in rows]
            ids = [f"d{row}" for row in rows]
            one = ScoredQuery(f"q{number}", ids, query, digests, Scores(values, values, flags, flags, lengths))
            cell.add(one)
    written = time.monotonic() - started
    started, found = time.monotonic(), 0
    with cache.cell("task", "default", "test") as cell:
        opened = time.monotonic() - started
        for number in range(queries):
            query, rows = pairs(number)
            found += int(cell.find(query, [document_digest(texts[row]) for row in rows])[0].sum())
    size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    if found != queries * CANDIDATES:
        raise RuntimeError(f"{found} of {queries * CANDIDATES} scores were found again")
    return {
        "scores": found,
        "write_seconds": round(written, 1),
        "open_seconds": round(opened, 1),
        "read_seconds": round(time.monotonic() - started, 1),
        "size_mb": round(size / 1e6, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def _config(folder: Path, task: Path, retriever: str, top_k: int = CANDIDATES) -> Path:
    path = folder / "large.yaml"
    path.write_text(_CONFIG.format(task=task, retriever=retriever, top_k=top_k), encoding="utf-8")
    return path


def _fill_scores(folder: Path, config: Path) -> int:
    """Put a score for every candidate into the store, as if the reranker had been there."""
    import pandas as pd

    from rerank_eval.config import load_config
    from rerank_eval.engine.interface import Scores
    from rerank_eval.metrics.compute import PAIRS
    from rerank_eval.pipeline.plan import make_plan
    from rerank_eval.store.cache import ScoreCache
    from rerank_eval.store.shards import ScoredQuery, document_digest, query_digest

    plan = make_plan(load_config(config))
    [row] = plan.rerankers()
    assert row.retriever is not None and row.config.reranker is not None  # noqa: S101, PT018 - a reranker row
    instruction = row.prepared.recipe.default_instruction if row.prepared is not None else None
    task = plan.tasks[0]
    data = Path(plan.loaded.base.tasks[0])
    queries, documents = _texts(data / "queries.jsonl"), _texts(data / "corpus.jsonl")
    digests = {one: document_digest(text) for one, text in documents.items()}
    source = row.retriever.folder(folder / "results", task.name) / PAIRS
    cache = ScoreCache(folder / "results", row.ref.label, row.score_identity)
    dice = np.random.default_rng(_SEED)
    frame = pd.read_parquet(source, columns=["query_id", "doc_id"])
    with cache.cell(task.name, "default", "test") as cell:
        for query_id, own in frame.groupby("query_id", sort=False):
            ids, count = own["doc_id"].tolist(), len(own)
            scores: npt.NDArray[np.float64] = dice.normal(size=count).astype(np.float32).astype(np.float64)
            cell.add(
                ScoredQuery(
                    str(query_id),
                    ids,
                    query_digest(queries[str(query_id)], instruction),
                    [digests[one] for one in ids],
                    Scores(scores, scores, np.zeros(count, bool), np.zeros(count, bool), np.full(count, 120)),
                )
            )
    return len(frame)


def _texts(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8") as handle:
        rows = (json.loads(line) for line in handle)
        return {row["_id"]: row["text"] for row in rows}


def _write_encoder(folder: Path) -> None:
    """Write a tiny encoder built like Qwen3-Embedding: the demo reranker's weights with an encoder's files beside."""
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    from rerank_eval.models.resolve import resolve_model

    demo = Path(resolve_model("demo:qwen3-random", None, "bench").source)
    (folder / "1_Pooling").mkdir(parents=True)
    weights = load_file(demo / "model.safetensors")
    save_file(
        {name.removeprefix("model."): value for name, value in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    AutoTokenizer.from_pretrained(demo).save_pretrained(folder)
    config = json.loads((demo / "config.json").read_text(encoding="utf-8"))
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    files: dict[str, Any] = {
        "config.json": config,
        "modules.json": [
            {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for n, (path, kind) in enumerate(kinds)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": config["hidden_size"],
            "pooling_mode_lasttoken": True,
            "pooling_mode_mean_tokens": False,
            "include_prompt": True,
        },
        "config_sentence_transformers.json": {"prompts": {"query": "", "document": ""}, "similarity_fn_name": "cosine"},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def _fill_embeddings(folder: Path, config: Path) -> int:
    """Put a vector for every document into the store that the retriever reads."""
    from rerank_eval.config import load_config
    from rerank_eval.pipeline.plan import make_plan
    from rerank_eval.retrievers import dense
    from rerank_eval.retrievers.family import load_backend
    from rerank_eval.tasks import prepare
    from rerank_eval.tasks.registry import build

    plan = make_plan(load_config(config))
    [row] = plan.retrievers
    backend = load_backend(row.config.retriever, row.ref, "cpu", folder / "results")
    assert isinstance(backend, dense.PackedBackend)  # noqa: S101 - the encoder was written so
    task = build(plan.tasks[0], size=plan.loaded.base.embedded.size)
    prepare.load(task)
    [(_, _, data)] = prepare.cells(task)
    dice = np.random.default_rng(_SEED)
    dim = backend.encoder.model.dim

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        vectors = dice.normal(size=(len(texts), dim)).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)

    backend.fill(data["corpus"], task.metadata, lambda blocks: map(embed, blocks))
    return int(dim)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="whole runs over millions of documents or pairs")
    parser.add_argument("--pairs", type=int, default=0)
    parser.add_argument("--documents", type=int, default=0)
    parser.add_argument("--scores", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="where the data goes; some 10 GB for ten million")
    parser.add_argument("--output", type=Path, default=None)
    told = parser.parse_args()
    found: dict[str, Any] = {"machine": {"processor": platform.machine(), "cores": os.cpu_count()}}
    with tempfile.TemporaryDirectory(prefix="large-", dir=told.folder) as name:
        folder = Path(name)
        if told.scores:  # first: its memory is this process's own
            (folder / "s").mkdir()
            found["scores"] = many_scores(folder / "s", told.scores)
        if told.pairs:
            (folder / "p").mkdir()
            found["pairs"] = many_pairs(folder / "p", told.pairs)
        if told.documents:
            (folder / "d").mkdir()
            found["documents"] = many_documents(folder / "d", told.documents)
    if told.output is not None:
        write_json(told.output, found)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
