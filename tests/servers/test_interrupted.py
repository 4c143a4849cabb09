"""Runs that end early on queries under way: each score that came back is kept, under its own query."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rerank_eval.config import RerankerConfig
from rerank_eval.models.sections import resolve_section
from rerank_eval.rerankers.cross_encoder import Candidates, CrossEncoder, Reranked
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker
from rerank_eval.store.cache import ScoreCache
from tests.servers.stand_in import StandIn, overlap

TASK = SimpleNamespace(name="tools", prompt=None)


def candidates(number: int) -> Candidates:
    documents = [f"tool {number} number {place}" + " x" * number for place in range(3)]
    return Candidates(f"q{number}", f"tool number {number}", None, [f"d{place}" for place in range(3)], documents)


def answers(server: StandIn, folder: Path, numbers: list[int]) -> Iterator[Reranked]:
    config = RerankerConfig(model=server.url, concurrency=4)
    ref = resolve_section(config, "reranker")
    prepared = prepare_reranker(config, ref)
    engine = load_reranking_engine(config, ref, "cpu", prepared.prompting)
    meta: Any = SimpleNamespace(name="demo")
    encoder = CrossEncoder(engine, meta, prepared.policy, cache=ScoreCache(folder, "demo", {"identity": 1}))
    return encoder.answer([candidates(number) for number in numbers], TASK, "default", "test")


@pytest.mark.parametrize("known", [[], [0], [0, 1, 3], [2]])
def test_scores_of_an_interrupted_run_are_kept_under_their_own_query(tmp_path: Path, known: list[int]) -> None:
    with StandIn("vllm") as server:
        list(answers(server, tmp_path, known))
        stream = answers(server, tmp_path, list(range(6)))
        next(stream)
        time.sleep(0.3)  # all are back by now
        stream.close()  # as an interruption does, wherever the reader of the scores is
        found = list(answers(server, tmp_path, list(range(6))))
    assert [one.stored for one in found] == [3] * 6
    for number, one in enumerate(found):
        asked = candidates(number)
        assert one.scores.scores.tolist() == [overlap(asked.query, text) for text in asked.documents]


def test_an_interruption_does_not_wait_for_the_server(tmp_path: Path) -> None:
    with StandIn("vllm") as server:
        stream = answers(server, tmp_path, list(range(6)))
        server.delay = 6.0
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        started = time.perf_counter()
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert time.perf_counter() - started < 4
