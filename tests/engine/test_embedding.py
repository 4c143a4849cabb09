"""Embeddings of the packed forward against sentence-transformers on the same checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from rerank_eval.engine.embedding import PackedEmbedder, load_embedder
from rerank_eval.engine.errors import EngineError
from tests.tiny_embedding import QUERY_PROMPT, write_qwen3_embedding

LIMIT = 96
QUERIES = ["how do vises hold wood", "", "Was hält ein Schraubstock?", "why " * 300]
DOCUMENTS = [
    "",
    " ",
    "A vise holds the work.",
    "A vise holds the work.",
    "Zwei Backen, eine Spindel. 夹具。\n\n" * 3,
    "<|endoftext|> in the middle and at the end <|endoftext|>",
    "word " * 60,
    "The longest of them is cut. " * 200,
]


@pytest.fixture(scope="module")
def folder(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen3_embedding(tmp_path_factory.mktemp("embedding") / "tiny", demo)


@pytest.fixture(scope="module")
def plain(folder: Path) -> SentenceTransformer:
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    model.max_seq_length = LIMIT
    return model


@pytest.fixture(scope="module")
def packed(folder: Path) -> PackedEmbedder:
    return load_embedder(folder, device="cpu", max_length=LIMIT)


def ids_of(plain: SentenceTransformer, text: str) -> list[int]:
    features = plain[0].preprocess([text])
    return features["input_ids"][0].tolist()


@pytest.mark.parametrize("prompt", ["", QUERY_PROMPT])
def test_vectors_equal_those_of_sentence_transformers(
    plain: SentenceTransformer, packed: PackedEmbedder, prompt: str
) -> None:
    texts = QUERIES + DOCUMENTS
    expected = plain.encode(texts, prompt=prompt, batch_size=4)
    found = packed.embed([prompt + text for text in texts])
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-5
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(len(texts)), abs=1e-5)
    assert np.abs(found[0] - found[2]).max() > 0.01  # the vectors do depend on the text


def test_the_end_of_text_token_survives_truncation(plain: SentenceTransformer, packed: PackedEmbedder) -> None:
    end = packed._tokenizer.convert_tokens_to_ids("<|endoftext|>")
    for text in QUERIES + DOCUMENTS:
        ids = packed.token_ids(text)
        assert ids == ids_of(plain, text)
        assert ids[-1] == end
        assert len(ids) <= LIMIT
    assert len(packed.token_ids(DOCUMENTS[-1])) == LIMIT
    assert packed.token_ids("") == [end]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200))
def test_any_text_has_the_ids_that_sentence_transformers_gives_it(
    plain: SentenceTransformer, packed: PackedEmbedder, text: str
) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        return  # sentence-transformers ends with an error there
    assert packed.token_ids(text) == ids_of(plain, text)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.sampled_from(QUERIES + DOCUMENTS), min_size=1, max_size=12),
    budget=st.integers(1, 400),
)
def test_order_and_budget_change_nothing(packed: PackedEmbedder, texts: list[str], budget: int) -> None:
    other = PackedEmbedder(packed._network, packed._tokenizer, max_length=LIMIT, token_budget=budget)
    found = other.embed(texts)
    for text, vector in zip(texts, found, strict=True):
        assert np.abs(vector - packed.embed([text])[0]).max() <= 1e-6
    assert other.stats.embedded == len(set(texts))


def test_each_distinct_text_is_computed_once_and_counted(packed: PackedEmbedder) -> None:
    before = packed.stats
    packed.embed(["a vise", "a vise", "a clamp " * 200])
    done = packed.stats
    assert (done.texts - before.texts, done.embedded - before.embedded) == (3, 2)
    assert done.truncated - before.truncated == 1
    assert done.tokens - before.tokens == len(packed.token_ids("a vise")) + LIMIT
    assert done.forwards - before.forwards == 1


def test_no_texts_and_lone_surrogates_are_texts_too(packed: PackedEmbedder) -> None:
    assert packed.embed([]).shape == (0, packed.dim)
    assert np.array_equal(packed.embed(["a \ud800 b"]), packed.embed(["a \ufffd b"]))


def test_a_tokenizer_that_adds_no_token_gives_zeros_for_an_empty_text(demo: Path, folder: Path) -> None:
    bare = load_embedder(demo, device="cpu", max_length=LIMIT)
    found = bare.embed(["", "a vise"])
    assert not found[0].any()
    assert np.linalg.norm(found[1]) == pytest.approx(1, abs=1e-5)


def test_the_default_limit_is_the_model_s(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert load_embedder(folder, device="cpu").max_length == config["max_position_embeddings"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_stays_near(folder: Path, packed: PackedEmbedder, dtype: str) -> None:
    near = load_embedder(folder, device="cpu", max_length=LIMIT, dtype=dtype).embed(DOCUMENTS)
    assert near.dtype == np.float32
    assert (near * packed.embed(DOCUMENTS)).sum(axis=1).min() > 0.99


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2Model"]}, "is of type 'qwen2'"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "is a Qwen3ForSequenceClassification"),
        ({"is_causal": False}, "attends in both directions"),
        ({"num_hidden_layers": 3}, "weights that would be left random"),
    ],
)
def test_what_the_engine_does_not_compute_is_refused(variant, changes: dict, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        load_embedder(variant(changes), device="cpu")


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"max_length": 1}, "leaves no room"),
        ({"max_length": 1_000_000}, "exceeds the 40960 positions"),
        ({"token_budget": -1}, "token_budget must be at least 1"),
        ({"dtype": "float64"}, "unknown dtype 'float64'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder: Path, settings_: dict, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        load_embedder(folder, device="cpu", **settings_)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_vector_that_is_not_finite_is_refused(variant, bad: float) -> None:
    def broken(weights):
        return {**weights, "model.norm.weight": torch.full_like(weights["model.norm.weight"], bad)}

    with pytest.raises(EngineError, match="not finite"):
        load_embedder(variant(weights=broken), device="cpu", max_length=LIMIT).embed(["a vise"])
