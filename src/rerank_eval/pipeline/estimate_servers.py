"""How fast a server scores: a few seconds of pairs as long as the run's, as many queries at a time as the run sends."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from rerank_eval.engine.interface import QueryGroup
from rerank_eval.pipeline.estimate_texts import Cell
from rerank_eval.pipeline.plan import RunSpec
from rerank_eval.rerankers.cross_encoder import score_groups
from rerank_eval.rerankers.loading import load_reranking_engine
from rerank_eval.servers.scoring import KNOWN

_SECONDS = 3.0
_MOST_DOCUMENTS = 100


@dataclass(frozen=True)
class ServerRate:
    """What a server was measured to do.

    Attributes:
        pairs: Pairs a second.
        concurrency: Queries under way at a time.
    """

    pairs: float
    concurrency: int


def measure_server(row: RunSpec, cell: Cell) -> ServerRate | None:
    """Measure a server for some seconds, on texts of words in random order.

    Args:
        row: A reranker's, whose model is a server.
        cell: Whose texts' mean lengths are sent.

    Returns:
        The rate; None for a hosted service, which lets one pay for every pair.

    Raises:
        ModelError: The server refuses the texts, or its answer is not what it should be.
        ServerError: The server does not answer.
    """
    served, prepared = row.ref.served, row.prepared
    if served is None or prepared is None or not served.facts.software:
        return None
    engine = load_reranking_engine(prepared.config, row.ref, "cpu", prepared.prompting)
    concurrency = int(engine.settings["concurrency"])
    words = " ".join((KNOWN.query, *KNOWN.documents)).split()
    characters_a_word = 1 + float(np.mean([len(word) for word in words]))
    random = np.random.default_rng(0)

    def text(characters: float) -> str:
        return " ".join(random.choice(words, max(1, round(characters / characters_a_word))))

    documents = max(1, min(round(cell.pairs / max(cell.queries, 1)), _MOST_DOCUMENTS))
    pairs, seconds, groups = 0, 0.0, max(1, concurrency // 4)
    while seconds < _SECONDS:
        asked = [
            QueryGroup(text(cell.query_characters), None, [text(cell.candidate.mean) for _ in range(documents)])
            for _ in range(groups)
        ]
        started = time.perf_counter()
        pairs = sum(len(scores) for scores in score_groups(engine, asked))
        seconds = time.perf_counter() - started
        # The last turn counts alone: the first ones warm up, and are too short to fill the server.
        groups = max(groups + 1, min(4 * groups, round(groups * 1.2 * _SECONDS / max(seconds, 1e-3))))
    return ServerRate(pairs / seconds, concurrency)
