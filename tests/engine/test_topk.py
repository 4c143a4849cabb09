"""Exact search against brute force, with ties, and the same bits whatever is read at a time."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.format import open_memmap

from rerank_eval.engine import topk
from rerank_eval.engine.topk import Best, scores_of, top_k


def brute_force(queries: np.ndarray, corpus: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries.astype(np.float64) @ corpus.T.astype(np.float64)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(scores, order, axis=1).astype(np.float32), order


@settings(max_examples=60, deadline=None)
@given(
    queries=st.integers(0, 9),
    documents=st.integers(0, 40),
    depth=st.integers(1, 12),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 50), st.integers(1, 60)),
    seed=st.integers(0, 99),
)
def test_equals_brute_force_with_ties_in_corpus_order(queries, documents, depth, sizes, seed) -> None:
    generator = np.random.default_rng(seed)
    query_tile, corpus_tile, chunk = sizes
    # Small whole numbers: products are exact, and there are many ties.
    asked = generator.integers(-2, 3, (queries, 3)).astype(np.float32)
    corpus = generator.integers(-2, 3, (documents, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "QUERY_TILE", query_tile)
        patch.setattr(topk, "CORPUS_TILE", corpus_tile)
        best = top_k(asked, corpus, depth, corpus_chunk=chunk)
        lists = [generator.permutation(documents)[: generator.integers(0, documents + 1)] for _ in range(queries)]
        within = scores_of(asked, corpus, lists)
    scores, rows = brute_force(asked, corpus, depth)
    assert np.array_equal(best.rows.numpy(), rows)
    assert np.array_equal(best.scores.numpy(), scores)
    whole = asked @ corpus.T
    assert all(np.array_equal(own, whole[i][rows]) for i, (own, rows) in enumerate(zip(within, lists, strict=True)))


@pytest.fixture(scope="module")
def vectors() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    queries, corpus = generator.normal(size=(150, 48)), generator.normal(size=(9_000, 48))
    corpus[8_000:] = corpus[:1_000]  # equal documents far apart
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (queries, corpus)]
    return unit[0].astype(np.float32), unit[1].astype(np.float32)


def test_the_bits_do_not_depend_on_chunks_or_company(vectors) -> None:
    queries, corpus = vectors
    whole = top_k(queries, corpus, 50, corpus_chunk=100_000)
    for chunk in (1, 5_000):
        part = top_k(queries, corpus, 50, corpus_chunk=chunk)
        assert torch.equal(part.scores, whole.scores)
        assert torch.equal(part.rows, whole.rows)
    alone = top_k(queries[:1], corpus, 50)
    assert torch.equal(alone.scores, whole.scores[:1])
    shorter = top_k(queries, corpus[:4_500], 50)
    kept = [row for row in whole.rows[0].tolist() if row < 4_500]
    assert shorter.rows[0].tolist()[: len(kept)] == kept


def test_scores_within_a_list_have_the_bits_of_the_search(vectors) -> None:
    queries, corpus = vectors
    best = top_k(queries, corpus, 50)
    lists = [rows[::-1].copy() for rows in best.rows.numpy()]
    for own, scores in zip(scores_of(queries, corpus, lists), best.scores.numpy(), strict=True):
        assert np.array_equal(own[::-1], scores)


def test_near_the_double_precision_result(vectors) -> None:
    queries, corpus = vectors
    scores, _ = brute_force(queries, corpus, 50)
    assert np.abs(top_k(queries, corpus, 50).scores.numpy() - scores).max() < 1e-6


def test_nothing_that_is_not_finite_is_lost() -> None:
    corpus = np.ones((topk.CORPUS_TILE + 20, 2), dtype=np.float32)
    corpus[-1] = np.nan
    best = top_k(np.ones((1, 2), dtype=np.float32), corpus, 5)
    assert torch.isnan(best.scores[0, 0])
    assert best.rows[0].tolist() == [len(corpus) - 1, 0, 1, 2, 3]


def test_a_merge_of_few_equals_a_merge_of_all() -> None:
    generator = torch.Generator().manual_seed(3)
    parts = [torch.randint(0, 30, (4, 200), generator=generator).float() for _ in range(5)]
    best, start = Best.empty(4), 0
    for part in parts:
        best = best.merged(part, start, 20)
        start += 200
    order = torch.sort(torch.cat(parts, dim=1), dim=1, descending=True, stable=True).indices[:, :20]
    assert torch.equal(best.rows, order)


def test_the_tf32_setting_is_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        top_k(np.ones((1, 2), dtype=np.float32), np.ones((3, 2), dtype=np.float32), 1)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_memory_map_is_searched(tmp_path: Path, vectors) -> None:
    queries, corpus = vectors
    stored = open_memmap(tmp_path / "corpus.npy", mode="w+", dtype=np.float32, shape=corpus.shape)
    stored[:] = corpus
    best = top_k(queries, stored, 10, corpus_chunk=3)
    assert torch.equal(best.rows, top_k(queries, corpus, 10).rows)


PEAK = """
import resource, sys
import numpy as np
from rerank_eval.engine.topk import top_k

class Made:
    def __init__(self, rows):
        self.shape = (rows, 64)
    def __getitem__(self, rows):
        return np.random.default_rng(rows.start).random((rows.stop - rows.start, 64), dtype=np.float32)

queries = np.random.default_rng(0).random((500, 64), dtype=np.float32)
for rows in sys.argv[1:]:
    top_k(queries, Made(int(rows)), 100)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("sizes", [(20_000, 200_000), pytest.param((200_000, 2_000_000), marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_corpus(sizes: tuple[int, int]) -> None:
    """The larger one's vectors alone are 51 MB (512 MB in the slow test), its score matrix 400 MB (4 GB)."""
    command = [sys.executable, "-c", PEAK, *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())
    assert large - small < 24


def test_query_tiles_are_cut_at_fixed_places() -> None:
    sizes = [size for _, size in topk._query_tiles(np.zeros((130, 2), dtype=np.float32), "cpu")]
    assert sizes == [64, 64, 2]
    starts = [start for start, _ in itertools.islice(topk._chunks(np.zeros((9000, 1), dtype=np.float32), 5000), 9)]
    assert starts == [0, 8192]
