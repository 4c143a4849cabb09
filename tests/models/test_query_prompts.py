"""A checkpoint's default prompt goes before the query where, and as, sentence-transformers' CrossEncoder puts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from torch import nn

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.classifier import PairClassifier
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.errors import ModelError
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers.loading import load_reranking_engine
from tests.models.checkpoints import edit
from tests.tiny_classifiers import bert, save

QUERY, DOCUMENTS = " which tool? ", ["a vise holds work still", "short", "very long " * 200, ""]


@pytest.fixture
def prompted(tmp_path: Path) -> Path:
    """A sequence classifier that CrossEncoder saved with a default prompt."""
    base = save(bert(), tmp_path / "base")
    prompts = {"search": "Find the tool:  ", "none": ""}
    model = CrossEncoder(str(base), device="cpu", prompts=prompts, default_prompt_name="search", local_files_only=True)
    model.save(str(tmp_path / "prompted"))
    assert "modules.json" in [path.name for path in (tmp_path / "prompted").iterdir()]
    return tmp_path / "prompted"


def load(folder: Path, **options: Any) -> PairClassifier:
    config = RerankerConfig(model=str(folder), **options)
    scorer = load_reranking_engine(config, resolve_model(config.model, None, "reranker.model"), "cpu")
    assert isinstance(scorer, PairClassifier)
    return scorer


def scores(folder: Path, query: str = QUERY, instruction: str | None = None) -> np.ndarray:
    return load(folder).score(QueryGroup(query, instruction, DOCUMENTS)).scores


def expected(folder: Path, query: str = QUERY) -> np.ndarray:
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    with torch.inference_mode():
        return np.array([model.predict([(query, text)], activation_fn=nn.Identity())[0] for text in DOCUMENTS])


def test_a_classifier_s_prompt_stands_before_the_query(prompted: Path) -> None:
    wanted = expected(prompted)
    np.testing.assert_allclose(scores(prompted), wanted, atol=1e-5, rtol=0)
    assert load(prompted).settings["query_prompt"] == "Find the tool:  "
    edit(prompted / "config_sentence_transformers.json", default_prompt_name="none")
    without = scores(prompted)
    np.testing.assert_allclose(without, expected(prompted), atol=1e-5, rtol=0)
    assert np.abs(without - wanted).max() > 1e-3


def test_an_instruction_of_the_query_s_own_stands_behind_both(prompted: Path) -> None:
    found = scores(prompted, "which tool?", "only vises")
    np.testing.assert_allclose(found, expected(prompted, "which tool? only vises"), atol=1e-5, rtol=0)


def test_a_long_prompt_is_cut_with_its_query(prompted: Path) -> None:
    prompts = {"search": "word " * 400, "none": ""}
    edit(prompted / "config_sentence_transformers.json", prompts=prompts)
    result = load(prompted).score(QueryGroup(QUERY, None, DOCUMENTS))
    np.testing.assert_allclose(result.scores, expected(prompted), atol=1e-5, rtol=0)
    assert result.overlong.all()


@pytest.mark.parametrize("change", ["no modules.json", "saved by another class", "sent as messages"])
def test_a_prompt_that_would_not_be_put_there_is_refused(prompted: Path, change: str) -> None:
    if change == "no modules.json":
        (prompted / "modules.json").unlink()
    elif change == "saved by another class":
        edit(prompted / "config_sentence_transformers.json", model_type="SentenceTransformer")
    else:
        saved = json.loads((prompted / "sentence_bert_config.json").read_text())
        entries = saved["modality_config"]
        edit(prompted / "sentence_bert_config.json", modality_config=entries | {"message": entries["text"]})
    with pytest.raises(ModelError, match=r"puts 'Find the tool:  ?' before every query .* it is not scored"):
        load(prompted)


def test_a_prompt_s_special_tokens_are_not_escaped_in_silence(prompted: Path) -> None:
    load(prompted, special_tokens="escape")
    edit(prompted / "config_sentence_transformers.json", prompts={"search": "[MASK] tool: "})
    load(prompted)
    with pytest.raises(ModelError, match=r"escape would escape '\[MASK\]' of the checkpoint's own prompt"):
        load(prompted, special_tokens="escape")
