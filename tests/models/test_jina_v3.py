"""jina-reranker-v3 on a tiny checkpoint in the published layout, against its authors' code written out plainly."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.jina_v3 import JinaV3Engine
from rerank_eval.errors import ModelError
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers.cross_encoder import score_groups
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker
from tests.tiny_jina import PlainJinaV3, write_jina_v3

WORDS = "the of a search result engine query banana tree light python code model rank order paper".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jina_v3(tmp_path_factory.mktemp("jina") / "tiny")


def engine_of(folder: Path, **settings: Any) -> JinaV3Engine:
    config = RerankerConfig(model=str(folder), **settings)
    engine = load_reranking_engine(config, resolve_model(config.model, None, "reranker.model"), "cpu")
    assert isinstance(engine, JinaV3Engine)
    return engine


def texts(number: int, longest: int = 12) -> list[str]:
    draw = random.Random(number)
    return [" ".join(draw.choice(WORDS) for _ in range(draw.randint(1, longest))) for _ in range(number)]


@pytest.mark.parametrize("instruction", [None, "Find the paper that proves it."])
@pytest.mark.parametrize("count", [1, 7])
def test_scores_are_the_authors(folder: Path, count: int, instruction: str | None) -> None:
    documents = texts(count)
    found = engine_of(folder).score(QueryGroup("which tree is a banana", instruction, documents))
    expected = PlainJinaV3(folder).rerank("which tree is a banana", documents, instruction)
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)
    assert found.margins.tolist() == found.scores.tolist()
    assert len(set(found.scores.tolist())) == count


def test_scores_in_bfloat16_are_the_authors(folder: Path) -> None:
    found = engine_of(folder, dtype="bfloat16").score(QueryGroup("a query", None, texts(9)))
    np.testing.assert_allclose(found.scores, PlainJinaV3(folder, torch.bfloat16).rerank("a query", texts(9)), atol=1e-6)


def test_more_documents_than_a_prompt_takes_are_joined_as_published(folder: Path) -> None:
    documents = texts(270, longest=4)
    engine = engine_of(folder)
    found = engine.score(QueryGroup("a query", None, documents))
    assert (engine.stats.windows, engine.stats.forwards) == (3, 3)
    np.testing.assert_allclose(found.scores, PlainJinaV3(folder).rerank("a query", documents), atol=1e-6)


def test_long_texts_are_cut_and_blocks_are_shorter(tmp_path: Path) -> None:
    folder = write_jina_v3(tmp_path / "short", model_max_length=6000)
    documents = ["light tree " * 1500, "a short one", "code " * 1000, "model rank " * 700, "the end"]
    engine = engine_of(folder)
    query = "banana " * 700
    found = engine.score(QueryGroup(query, None, documents))
    assert engine.stats.windows > 1
    np.testing.assert_allclose(found.scores, PlainJinaV3(folder).rerank(query, documents), atol=1e-6)
    assert found.truncated.all()  # the query lost tokens, which each document was read with
    kept = engine.score(QueryGroup("banana", None, documents))
    assert kept.truncated.tolist() == [True, False, False, False, False]
    assert not kept.query_overlong


def test_tokens_add_up_to_the_prompts(folder: Path) -> None:
    engine, documents = engine_of(folder), texts(6)
    found = engine.score(QueryGroup("a query", None, documents))
    plain = PlainJinaV3(folder)
    assert found.tokens.sum() == len(plain.words(plain.prompt("a query", documents, None))["input_ids"])
    assert engine.stats.prompt_tokens == found.tokens.sum()
    shown = engine.render("a query", documents[0], None)
    assert shown.text == plain.prompt("a query", documents[:1], None)
    assert list(shown.token_ids) == plain.words(shown.text)["input_ids"]


@pytest.mark.parametrize("order", ["given", "reversed", "shuffled"])
def test_the_order_changes_scores_which_stay_with_their_documents(folder: Path, order: str) -> None:
    documents = texts(8)
    found = engine_of(folder, listwise={"order": order}).score(QueryGroup("a query", None, documents))
    given = engine_of(folder)
    if order == "reversed":
        backwards = given.score(QueryGroup("a query", None, documents[::-1]))
        assert found.scores.tolist() == backwards.scores.tolist()[::-1]
        assert found.tokens.tolist() == backwards.tokens.tolist()[::-1]
    same = found.scores.tolist() == given.score(QueryGroup("a query", None, documents)).scores.tolist()
    assert same == (order == "given")


def test_marks_and_lone_surrogates_in_texts_do_no_harm(folder: Path) -> None:
    engine, mark = engine_of(folder), "<|embed_token|>"
    plain = engine.score(QueryGroup("query", "find it", ["one", "two"]))
    nested = "tw<|embed_<|rerank_token|>token|>o"
    marked = engine.score(QueryGroup(f"qu<|rerank_token|>ery{mark}", f"find{mark} it", [f"{mark}one", nested]))
    assert marked.scores.tolist() == plain.scores.tolist()
    assert engine.special_tokens.found(f"one {mark}") == (mark,)
    assert np.isfinite(engine.score(QueryGroup("a \ud800", None, ["b \udfff", ""])).scores).all()
    assert len(engine.score(QueryGroup("a", None, []))) == 0


def test_the_authors_pass_no_instruction_and_so_do_tasks(folder: Path) -> None:
    class Task:
        prompt = {"query": "Given a question, find its answer."}

    ref = resolve_model(str(folder), None, "reranker.model")
    policy = prepare_reranker(RerankerConfig(model=str(folder)), ref).policy
    assert policy.choose(None, Task) == ("default", None)
    assert policy.choose("Only papers of 2020.", Task) == ("query", "Only papers of 2020.")
    own = prepare_reranker(RerankerConfig(model=str(folder), instruction="find the best one"), ref)
    assert own.policy.choose(None, Task) == ("config", "find the best one")
    assert own.identity == {"dtype": "float32", "listwise": {"order": "given"}}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"recipe": "mteb"}, r"reranker\.recipe: .* take it out"),
        ({"engine": "reference"}, r"reranker\.engine: .* take it out"),
        ({"max_length": 512}, r"reranker\.max_length: .* take it out"),
        ({"special_tokens": "escape"}, r"reranker\.special_tokens: .* take it out"),
        ({"dtype": "int8"}, r"reranker\.dtype: .* not quantised"),
        ({"listwise": {"window": 20}}, r"reranker\.listwise\.window: .* whole list at once"),
        ({"listwise": {"passes": 2}}, r"reranker\.listwise\.passes: .* whole list at once"),
    ],
)
def test_settings_that_nothing_reads_are_one_line(folder: Path, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ModelError, match=line):
        engine_of(folder, **settings)


def test_other_models_of_the_architecture_are_refused(tmp_path: Path) -> None:
    layers = {"use_sliding_window": True, "sliding_window": 1024, "layer_types": ["full_attention"] * 2}
    slides = write_jina_v3(tmp_path / "v3.5", **layers)
    with pytest.raises(ModelError, match=r"sliding window by its config\.json; .*jina-reranker-v3 alone"):
        engine_of(slides)
    mixed = write_jina_v3(tmp_path / "mixed", layer_types=["full_attention", "sliding_attention"])
    with pytest.raises(ModelError, match="sliding window"):
        engine_of(mixed)
    with pytest.raises(ModelError, match=r"is of type 'qwen2'"):
        engine_of(write_jina_v3(tmp_path / "qwen2", model_type="qwen2"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda state: state.pop("projector.2.weight"), r"lacks projector\.2\.weight"),
        (lambda state: state.pop("model.norm.weight"), r"lacks model\.norm\.weight"),
        (lambda state: state.update({"projector.0.bias": torch.zeros(16)}), r"has projector\.0\.bias"),
        (lambda state: state.update({"projector.0.weight": torch.zeros(16, 8)}), "projector has shapes"),
        (lambda state: state.update({"projector.2.weight": torch.zeros(8, 16)}), "vector is zero"),
        (lambda state: state["model.norm.weight"].fill_(float("nan")), "vector is zero, NaN or infinite"),
    ],
)
def test_damaged_weights_are_one_line(tmp_path: Path, change: Any, line: str) -> None:
    folder = write_jina_v3(tmp_path / "damaged")
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ModelError, match=line):
        list(score_groups(engine_of(folder), [QueryGroup("a", None, ["b", "c"])]))


def test_a_tokenizer_without_marks_is_refused(tmp_path: Path) -> None:
    folder = write_jina_v3(tmp_path / "unmarked")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [one for one in content["added_tokens"] if one["content"] != "<|rerank_token|>"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    told = json.loads((folder / "tokenizer_config.json").read_text())
    told.pop("additional_special_tokens", None), told.pop("extra_special_tokens", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match=r"its tokenizer has no token <\|rerank_token\|>"):
        engine_of(folder)
