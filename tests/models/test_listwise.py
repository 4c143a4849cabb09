"""Listwise Python rerankers as engines, and what the score cache serves them: the very list, whole, or nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rerank_eval
from rerank_eval.config import RerankerConfig
from rerank_eval.config.listwise import ListwiseConfig
from rerank_eval.engine.interface import QueryGroup, Scores, reads_lists
from rerank_eval.errors import DeviceError, ModelError
from rerank_eval.models.resolve import resolve_model
from rerank_eval.registry import RERANKERS
from rerank_eval.rerankers.cross_encoder import Candidates, CrossEncoder, score_groups
from rerank_eval.rerankers.families.python_object import ListEngine, ObjectEngine, is_listwise, ranks
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker
from rerank_eval.store.cache import ScoreCache
from rerank_eval.store.shards import PairDigests, ScoredQuery
from tests.models.test_reranker import batches, policy
from tests.models.test_retriever import SmallTask, meta


class Lengths:
    """Ranks longer documents first, and remembers what it was asked."""

    revision = "1"

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    def rank(self, query: str, documents: list[str]) -> Sequence[int]:
        self.asked.append((query, documents))
        return sorted(range(len(documents)), key=lambda place: -len(documents[place]))


def answered(part: Lengths, documents: list[str], folder: Path, query: str = "q") -> tuple[list[float], int]:
    """The scores of a list by a cache, and how many of them it had."""
    engine = ListEngine(part, "Lengths", ListwiseConfig())
    model = CrossEncoder(engine, meta(), policy("none"), cache=ScoreCache(folder, "lengths", {"model": "lengths"}))
    candidates = Candidates(query, query, None, [f"d{place}" for place in range(len(documents))], documents)
    [reranked] = model.answer([candidates], SmallTask().metadata, "default", "test")
    return reranked.scores.scores.tolist(), reranked.stored


def test_only_the_very_list_is_served_from_the_cache(tmp_path: Path) -> None:
    part, documents = Lengths(), ["a", "bbb", "cc", "bbb"]
    assert answered(part, documents, tmp_path) == ([1, 4, 2, 3], 0)  # equal texts, two ranks
    assert answered(part, documents, tmp_path) == ([1, 4, 2, 3], 4)
    assert len(part.asked) == 1
    for other in (documents[::-1], documents[:3], [*documents, "d"], ["a", "bbb", "cc", "bbbb"]):
        assert answered(part, other, tmp_path)[1] == 0
        assert part.asked[-1] == ("q", other)
    assert answered(part, documents, tmp_path, query="another")[1] == 0
    assert answered(part, documents, tmp_path) == ([1, 4, 2, 3], 4)


def test_a_list_that_is_there_in_part_is_scored_whole(tmp_path: Path) -> None:
    documents = ["a", "bbb", "cc"]
    query, digests = PairDigests.of_list(QueryGroup("q", None, documents))
    cache = ScoreCache(tmp_path, "lengths", {"model": "lengths"})
    with cache.cell(SmallTask().metadata.name, "default", "test") as cell:
        wrong = Scores.empty(2)
        wrong.scores[:] = 9.0
        cell.add(ScoredQuery("q", ["d0", "d1"], query, digests[:2], wrong))
    part = Lengths()
    assert answered(part, documents, tmp_path) == ([1, 3, 2], 0)
    assert part.asked == [("q", documents)]


def test_pairs_of_a_pointwise_reranker_serve_no_list_and_keep_their_digests() -> None:
    group = QueryGroup("q", "i", ["a", "b", "a"])
    pairs, whole = PairDigests.of(group), PairDigests.of_list(group)
    assert not {pairs.query, *pairs.documents} & {whole.query, *whole.documents}
    assert (len(set(pairs.documents)), len(set(whole.documents))) == (2, 3)
    assert pairs.documents[0].hex() == "27c35e6e9373877f29e562464e46497e"  # what caches of the last release hold


@pytest.mark.parametrize(
    ("members", "listwise", "by_rank"),
    [
        ({"rank": None}, True, True),
        ({"score": None}, False, False),
        ({"predict": None}, False, False),
        ({"score": None, "rank": None}, False, False),
        ({"predict": None, "rank": None}, False, False),  # sentence-transformers' CrossEncoder
        ({"score": None, "rank": None, "listwise": True}, True, True),
        ({"score": None, "listwise": True}, True, False),
        ({"predict": None, "listwise": True}, True, False),
        ({"score": None, "listwise": "yes"}, False, False),
        ({"rank": None, "listwise": False}, True, True),
    ],
)
def test_which_classes_are_listwise(members: dict[str, Any], listwise: bool, by_rank: bool) -> None:
    part = type("Part", (), {name: (lambda *_: None) if value is None else value for name, value in members.items()})
    assert (is_listwise(part), ranks(part)) == (listwise, by_rank)


def test_sentence_transformers_cross_encoder_stays_pointwise() -> None:
    from sentence_transformers import CrossEncoder as Theirs

    assert hasattr(Theirs, "rank")
    assert not is_listwise(Theirs)


def loaded(part: Any, name: str, **settings: Any) -> Any:
    RERANKERS.register(name, part)
    config = RerankerConfig(model=name, **settings)
    return load_reranking_engine(config, resolve_model(name, None, "reranker.model"), "cpu")


def test_windows_go_from_the_end_to_the_top() -> None:
    part = Lengths()
    engine = loaded(part, "lengths-windows", listwise={"window": 4, "stride": 2})
    assert isinstance(engine, ListEngine)
    assert reads_lists(engine)
    documents = [chr(97 + number) * (number + 1) for number in range(8)]
    found = engine.score(QueryGroup("q", "own", documents))
    assert [len(asked) for _, asked in part.asked] == [4, 4, 4]
    assert part.asked[0] == ("q own", documents[4:])  # no parameter for an instruction: behind the query
    assert part.asked[1][1] == [documents[2], documents[3], documents[7], documents[6]]
    assert found.scores.tolist() == [5, 6, 3, 4, 1, 2, 7, 8]
    assert engine.stats.windows == 3
    assert engine.score(QueryGroup("q", None, ["alone"])).scores.tolist() == [1.0]
    assert len(engine.score(QueryGroup("q", None, []))) == 0
    assert engine.stats.windows == 3  # a document alone is not asked about


def test_a_list_s_own_scores_stay_with_their_documents() -> None:
    class Places:
        listwise = True
        revision = "1"

        def score(self, query: str, documents: list[str]) -> Any:
            return np.arange(len(documents)) + 0.5

    given = loaded(Places(), "places-given")
    backwards = loaded(Places(), "places-reversed", listwise={"order": "reversed"})
    group = QueryGroup("q", None, ["a", "b", "c"])
    assert given.score(group).scores.tolist() == [0.5, 1.5, 2.5]
    assert backwards.score(group).scores.tolist() == [2.5, 1.5, 0.5]


def test_settings_are_the_identity_with_defaults_written_out() -> None:
    RERANKERS.register("lengths-identity", Lengths())
    ref = resolve_model("lengths-identity", None, "reranker.model")
    stated = {"window": 20, "stride": 10, "passes": 1, "order": "given"}

    def identity(**listwise: Any) -> Any:
        section = {"listwise": listwise} if listwise else {}
        return prepare_reranker(RerankerConfig(model="lengths-identity", **section), ref).identity["listwise"]

    assert identity() == identity(order="given") == identity(window=20, stride=10, passes=1) == stated
    assert identity(window=8) == stated | {"window": 8, "stride": 4}
    assert identity(order="shuffled", passes=3) == stated | {"passes": 3, "order": "shuffled"}


def test_configs_of_pointwise_rerankers_are_what_they_were() -> None:
    assert "listwise" not in RerankerConfig().model_dump(mode="json")
    assert RerankerConfig(listwise={"order": "reversed"}).model_dump(mode="json")["listwise"]["order"] == "reversed"
    config = RerankerConfig(model="demo:qwen3-random", listwise={"order": "given"})
    with pytest.raises(ModelError, match=r"reranker\.listwise: .* scores each pair by itself"):
        prepare_reranker(config, resolve_model(config.model, None, "reranker.model"))


def test_a_class_that_turns_listwise_when_it_is_made_is_refused() -> None:
    class Late:
        revision = "1"

        def __init__(self) -> None:
            self.listwise = True

        def score(self, query: str, documents: list[str]) -> list[float]:
            return [0.0] * len(documents)

    with pytest.raises(ModelError, match="has `listwise` in an object only; set it in the class"):
        loaded(Late, "late")


def test_a_family_that_disagrees_with_its_engine_is_refused() -> None:
    class Family:
        def serves(self, ref: Any) -> bool:
            return False

        def prepare(self, config: RerankerConfig, ref: Any, prompting: Any) -> Any:
            return RERANKERS.get("causal").prepare(config, ref, prompting)

        def load(self, prepared: Any, device: str) -> ObjectEngine:
            return ListEngine(Lengths(), "Lengths", ListwiseConfig())

    RERANKERS.register("disagrees", Family())
    config = RerankerConfig(model="demo:qwen3-random", kind="disagrees")
    with pytest.raises(ModelError, match="disagrees with its engine on `listwise`"):
        load_reranking_engine(config, resolve_model(config.model, None, "reranker.model"), "cpu")


def test_a_family_whose_identity_lacks_the_list_s_settings_is_refused() -> None:
    class Family:
        def serves(self, ref: Any) -> bool:
            return False

        def prepare(self, config: RerankerConfig, ref: Any, prompting: Any) -> Any:
            return dataclasses.replace(RERANKERS.get("causal").prepare(config, ref, prompting), listwise=True)

        def load(self, prepared: Any, device: str) -> Any:
            raise AssertionError

    RERANKERS.register("forgets", Family())
    config = RerankerConfig(model="demo:qwen3-random", kind="forgets")
    with pytest.raises(ModelError, match="leaves `listwise` out of its identity"):
        prepare_reranker(config, resolve_model(config.model, None, "reranker.model"))


def test_memory_that_does_not_suffice_for_a_list_is_one_line() -> None:
    class Large:
        revision = "1"

        def rank(self, query: str, documents: list[str]) -> list[int]:
            raise MemoryError

    with pytest.raises(DeviceError, match=r"one list at a time; lower retriever\.top_k"):
        list(score_groups(loaded(Large(), "large"), [QueryGroup("q", None, ["a", "b"])]))


def test_an_object_with_rank_is_evaluated_from_python(tmp_path: Path) -> None:
    assert hasattr(rerank_eval.ListwiseReranker, "rank")
    results = rerank_eval.evaluate(
        Lengths(),
        "PyModuleRetrieval",
        results_dir=tmp_path,
        device="cpu",
        **{"retriever.model": "bm25", "retriever.top_k": 5, "reranker.listwise.order": "reversed"},
    )
    assert "order=reversed" in results.table()["Details"].tolist()[1]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_mteb_s_batches_cut_no_list(size: int) -> None:
    part, documents = Lengths(), ["a", "bbb", "cc", "bbb"]
    model = CrossEncoder(ListEngine(part, "Lengths", ListwiseConfig()), meta(), policy("none"))
    queries = batches(size, id=["q1"] * 4 + ["q2"] * 3, text=["one"] * 4 + ["two"] * 3)
    texts = batches(size, id=[f"d{n}" for n in range(7)], text=documents + documents[:3])
    found = model.predict(queries, texts, task_metadata=SmallTask().metadata, hf_split="test", hf_subset="default")
    assert found.tolist() == [1, 4, 2, 3, 1, 3, 2]
    assert part.asked == [("one", documents), ("two", documents[:3])]
