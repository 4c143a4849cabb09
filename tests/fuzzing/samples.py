"""Good inputs, from which fuzzed ones are made."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from rerank_eval.analysis.tables import Leaderboard, leaderboard
from rerank_eval.config.schema import RunConfig
from rerank_eval.engine.interface import Scores
from rerank_eval.names import digest
from rerank_eval.reproduce.published import load_published
from rerank_eval.results.records import ResultRecord
from rerank_eval.shipped import evals_root
from rerank_eval.store.shards import ScoredQuery, document_digest, query_digest

CONFIGS = (
    RunConfig().model_dump_json().encode(),
    b'{"tasks": ["SciFact"], "grid": {"reranker.dtype": ["float32"]}, "extends": ["a.yaml"], "reranker": null}',
    b"tasks: [Embedded]\nretriever: {model: bm25, top_k: 10}\nreranker:\n  dtype: float32\n  max_length: 512\n",
    b"extends: other.yaml\ngrid:\n  reranker.dtype: [float32, bfloat16]\n  reranker.recipe: [card, mteb]\n",
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    b"tasks: !!python/object/apply:os.system ['touch pwned']\n",
    b"tasks: [Embedded]\ntasks: [SciFact]\n",
    b"\xef\xbb\xbftasks: [Embedded]\n",
    b"tracking: {tool: jsonl, project: p}\ndevice: cpu\nresults_dir: ../../x\nembedded: {size: full}\n",
    ("tasks: " + "[" * 400 + "]" * 400).encode(),
    b"retriever: {top_k: 99999999999999999999999999999999}\n",
    b'results_dir: "a\\0b"\ndata_root: "\\uD800"\n',
)
OVERRIDES = (
    b"reranker.dtype=float16\nretriever.model=bm25",
    b"grid.reranker.dtype=[float32]\nreranker=null",
    b"a.b.c.d.e.f=1\n=\nx=\n..=3",
    b"reranker.instruction=!!python/name:os.system",
)
RECIPES = (
    b'{"name": "own", "extends": "card", "suffix": "x", "yes": "a", "no": "b", "truncation": "body"}',
    b'name: own\nextends: card\nprefix: "<|im_start|>"\nquery_template: "{query}"\nsuffix: "x"\nyes: "a"\nno: "b"\n',
    b'query_template: "{query.__class__}{0}"\ntruncation: body\n',
    b"joins_query_and_instruction: 3\nsoftmax_dtype: float32\nname: ../../x\n",
)
INSTRUCTIONS = (
    b'{"name": "own", "source": "me", "extends": "qwen", "tasks": {"A": "x y", "B": {"query": "q", "pair": "p"}}}',
    b"name: own\nsource: me\nextends: qwen\notherwise: task\n"
    b"tasks:\n  SciFact: find it\n  Other: {query: q, pair: p}\n",
    b"tasks: {A: {query: null}}\nextends: ../../../etc/passwd.yaml\n",
)
PUBLISHED = (
    load_published().model_dump_json().encode(),
    yaml.safe_dump(load_published().model_dump(mode="json")).encode(),
)
PER_TASK = (
    json.dumps(json.loads((evals_root() / "published" / "qwen3-embedding-0.6b.json").read_text()))[:20_000].encode(),
    b'{"name": "x", "hub": "a/b", "revision": "c", "source": "s", "scale": 1, "scale_note": "n", "rule": "r", '
    b'"tasks": {"T": {"main_score": 0.5, "cells": 1, "mteb_version": "2", "dataset_revision": "d"}}}',
)
FOLDER = (
    b'{"_id": "d1", "title": "", "text": "a hammer"}\n{"_id": "d2", "text": "a saw"}\n{"_id": 3, "text": "x"}\n',
    b'{"_id": "q1", "text": "which tool"}\n{"_id": "q2", "text": "which", "instruction": "find"}\n',
    b"score\tcorpus-id\tquery-id\tannotator\n1\td1\tq1\tx\n0\td2\tq2\t\n# y\n2\t3\tq2\ty\n",
)
GZIPPED = gzip.compress(FOLDER[0], mtime=0)
LINES = (
    b"\x00",
    b"\xff\xfe",
    b"\\ud800",
    b"\r\n",
    b"\r",
    b"\xe2\x80\xa8",
    b"\t",
    b'"_id": "../../x"',
    b'"_id": "a\\tb"',
    b'"_id": "a\\nb"',
    b'"_id": null',
    b'"_id": true',
    b'"_id": 1.5',
    b'"_id": "d1"',
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-0",
    b"0x1",
    b"1_000",
    b"\xd9\xa3",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"\xef\xbb\xbf",
    b"true",
    b'"text": ["a"]',
    b'"title": {}',
)
PREDICTIONS = (
    b'{"mteb_model_meta": {"model_name": "m", "revision": "r"}, "default": {"test": {"q1": {"d1": 1.0, "d2": 0.5}}}}',
    b'{"default": {"test": {"q1": {"nobody": 1.0}}}}',
    b'{"default": {"test": {"q1": {"d1": NaN, "d2": Infinity, "3": null}}}}',
    b'{"default": {"test": {"nobody": {"d1": "x"}}}}',
    b'{"default": {"test": []}}',
)
TREC = (
    b"q1 Q0 d1 1 0.5 tag\nq1 Q0 d2 2 0.25 tag\n\n%%%\nq1 0 d1 1\nq2 0 d2 0\n",
    b"q1 Q0 d1 1 nan tag\n%%%\nq1 0 d1 -1\n",
)
MODELS = (
    b'{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "max_position_embeddings": 512}',
    b'{"architectures": ["XLMRobertaForSequenceClassification"], "num_labels": 1}\n%%%\n'
    b'{"weight_map": {"a": "model.safetensors", "b": "../../../etc/passwd"}}',
    b'{"architectures": {"a": 1}, "auto_map": {"AutoModel": "x--y"}, "id2label": null}',
)
MTEB = {
    "task_name": "Task",
    "mteb_version": "2.0",
    "dataset_revision": "d",
    "scores": {"test": [{"hf_subset": "default", "main_score": 0.5, "ndcg_at_10": 0.5}]},
}
MANIFEST = {
    "complete": True,
    "schema": 1,
    "digest": "7a9113cb035d6b05",
    "config": {
        "retriever": {"model": "bm25"},
        "reranker": {"model": "demo:qwen3-random"},
        "embedded": {"size": "small"},
    },
    "counts": {"pairs": 3},
    "identity": {"candidates": "6ac64c709bfd", "digest": "0123456789ab", "reranker": {"model": "org/m"}},
    "inputs": {"data": "x", "candidates": "7a9113cb035d6b05"},
    "files": {"per_query.parquet": "0" * 64},
    "markers": {"mode": "keep", "pairs": 2, "queries": 0, "documents": 1, "found": {"<|im_end|>": 2}},
    "mteb_result": "mteb/results/x.json",
    "native": False,
    "retriever": {"detail": "float32", "label": "BM25", "top_k": 100},
    "row": {"detail": "card", "kind": "reranker", "label": "m", "notes": ["a note"], "order": 2},
    "scores": {"main": 0.5, "ndcg_at_10": 0.5, "oracle_ndcg_at_10": 1.0, "recall_at_100": 1.0, "cells": []},
    "seal": "0" * 16,
    "task": {"name": "Task", "kind": "beir", "main_score": "ndcg_at_10", "revision": "r", "dataset": "a/b"},
    "timings": {"finished": 1.0, "pairs_per_second": 2.0},
    "truncation": {"pairs": 0, "rate": 0.0},
}
IDENTITY = {"model": "m"}
OWNER = {"identity": digest(IDENTITY, 12), "task": "Task", "subset": "default", "split": "test"}
SCORED = ScoredQuery(
    "q1",
    ["d1", "d2"],
    query_digest("which tool", None),
    [document_digest("a hammer"), document_digest("a saw")],
    Scores(
        np.array([0.5, 0.25]),
        np.array([0.5, 0.25]),
        np.array([False, True]),
        np.array([False, False]),
        np.array([10, 12]),
    ),
)


def write_folder(folder: Path) -> None:
    """Write a good BEIR folder."""
    for name, data in zip(("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"), FOLDER, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if "qrels" not in name else b"query-id\tcorpus-id\tscore\nq1\td1\t1\n")


def per_query() -> pd.DataFrame:
    """A result's per-query values."""
    frame = pd.DataFrame({"subset": "default", "split": "test", "query_id": ["q1", "q2"]})
    for name in ("ndcg_at_10", "ndcg_at_10_worst", "ndcg_at_10_best", "oracle_ndcg_at_10"):
        frame[name] = [0.5, 1.0]
    return frame.assign(n_tied=[0, 1], n_candidates=[2, 2], n_relevant=[1, 1])


@cache
def board() -> Leaderboard:
    """A leaderboard of one row."""
    one = ResultRecord(
        kind="retriever",
        label="BM25",
        detail="",
        order=0,
        notes=(),
        identity="a",
        candidates="a",
        retriever="BM25",
        top_k=10,
        task="T",
        revision="r",
        main_score="ndcg_at_10",
        main=0.5,
        finished=1.0,
        recall=1.0,
        oracle=1.0,
    )
    return leaderboard([one], {})
