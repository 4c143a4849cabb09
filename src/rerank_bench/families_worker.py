"""A process that holds one scorer of a family, ours or its own, and scores what it is told.

    python families_worker.py QUESTION < turns

QUESTION is a JSON file with `peer`, `folder`, `recipe`, `threads`, `max_length` and `groups` (query and documents).
Each line of the input is the first group to score and how many; the answer is a JSON line with `seconds` and `scores`,
after a first line with the peer's `version`. A peer runs in an environment of its own (transformers 4), so nothing of
this project is imported outside `ours`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Groups = list[tuple[str, list[str]]]
Score = Callable[[Groups], list[float]]


def ours(told: dict[str, Any]) -> tuple[Score, str]:
    """Our packed engine, with the settings that a config has by default."""
    from rerank_eval.engine.quiet import hush

    hush()
    from rerank_eval.config.schema import RerankerConfig
    from rerank_eval.engine.interface import QueryGroup
    from rerank_eval.models.resolve import resolve_model
    from rerank_eval.rerankers.loading import load_reranking_engine

    settings = {"model": told["folder"], "engine": "packed", "dtype": "float32", "max_length": told["max_length"]}
    if told["recipe"]:
        settings["recipe"] = told["recipe"]
    config = RerankerConfig.model_validate(settings)
    engine = load_reranking_engine(config, resolve_model(told["folder"], None, "families"), "cpu")

    def score(groups: Groups) -> list[float]:
        asked = [QueryGroup(query, None, documents) for query, documents in groups]
        return [float(margin) for one in engine.score_groups(asked) for margin in one.margins]

    return score, "rerank-eval"


def mxbai(told: dict[str, Any]) -> tuple[Score, str]:
    """mxbai-rerank's own class by its `rank`: a query at a time, in batches of its default size."""
    import torch
    from mxbai_rerank import MxbaiRerankV2

    model = MxbaiRerankV2(told["folder"], device="cpu", torch_dtype=torch.float32, max_length=told["max_length"])

    def score(groups: Groups) -> list[float]:
        found: list[float] = []
        for query, documents in groups:
            ranked = model.rank(query, documents, top_k=len(documents), sort=False, return_documents=False)
            found += [float(one.score) for one in sorted(ranked, key=lambda one: one.index)]
        return found

    return score, f"mxbai-rerank {version('mxbai-rerank')}"


def flag(told: dict[str, Any]) -> tuple[Score, str]:
    """FlagEmbedding's class: all pairs in one call, since it scores a call's first batch twice."""
    from FlagEmbedding import FlagReranker

    model = FlagReranker(told["folder"], use_fp16=False, devices=["cpu"], max_length=told["max_length"])

    def score(groups: Groups) -> list[float]:
        pairs = [[query, document] for query, documents in groups for document in documents]
        return [float(one) for one in model.compute_score(pairs)]

    return score, f"FlagEmbedding {version('FlagEmbedding')}"


SCORERS = {"ours": ours, "MxbaiRerankV2": mxbai, "FlagReranker": flag}


def main() -> None:
    """Load what the question says, then answer until the input ends."""
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries print; the answers' stream is ours alone
    score, name = SCORERS[told["peer"]](told)
    import torch

    torch.set_num_threads(told["threads"])
    groups = [(query, documents) for query, documents in told["groups"]]
    print(json.dumps({"version": name, "threads": torch.get_num_threads()}), file=answers, flush=True)
    for line in sys.stdin:
        first, number = map(int, line.split())
        chosen = groups[first : first + number]
        started = time.perf_counter()
        scores = score(chosen)
        print(json.dumps({"seconds": time.perf_counter() - started, "scores": scores}), file=answers, flush=True)


if __name__ == "__main__":
    main()
