"""What weights answer: known pairs in order, both engines alike, and what it looks like when they are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rerank_eval.doctor.checkpoints import Subject
from rerank_eval.doctor.pairs import PAIRS
from rerank_eval.doctor.rerankers import check_reranker, judge_agreement, judge_order, score_pairs
from rerank_eval.doctor.retrievers import check_retriever, embed_pairs
from rerank_eval.doctor.retrievers import judge_agreement as judge_vectors
from rerank_eval.errors import ModelError
from tests.doctor.conftest import reranker, retriever
from tests.doctor.taught import changed, swap_answers

NAME = "Qwen/Qwen3-Reranker-0.6B"


def published(subject: Subject) -> Subject:
    """Give a checkpoint the hub's name, as a mirror does, so that the published model's expectation holds."""
    return replace(subject, ref=replace(subject.ref, name=NAME, label="Qwen3-Reranker-0.6B", origin="mirror"))


def test_pairs_differ_and_cover_three_kinds_of_text() -> None:
    assert {pair.language for pair in PAIRS} == {"en", "zh", "code"}
    texts = [text for pair in PAIRS for text in (pair.query, pair.relevant, pair.irrelevant)]
    assert len(set(texts)) == len(texts) == 18


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_reranker_that_knows_the_pairs_is_right(taught_reranker: Path, dtype: str) -> None:
    order, engines = check_reranker(published(reranker(taught_reranker, dtype=dtype)), "cpu")
    assert (order.level, engines.level) == ("ok", "ok"), (order, engines)
    assert "6 of 6 pairs as expected" in order.found
    assert f"at most in {dtype}" in engines.found


def test_swapped_rows_of_yes_and_no_are_a_failure(taught_reranker: Path, tmp_path: Path) -> None:
    folder = changed(taught_reranker, tmp_path / "swapped", swap_answers)
    order, engines = check_reranker(reranker(folder), "cpu")
    assert order.level == "failure"
    assert "0 of 6 pairs as expected" in order.found
    assert "fetch" in order.remedy
    assert engines.level == "ok"  # both engines read the same wrong rows


def test_weights_that_are_not_finite_are_a_failure(taught_reranker: Path, tmp_path: Path) -> None:
    def break_norm(weights: dict[str, torch.Tensor]) -> None:
        weights["model.norm.weight"][0] = torch.nan

    folder = changed(taught_reranker, tmp_path / "broken", break_norm)
    with pytest.raises(ModelError, match="margins are NaN or infinite"):
        list(check_reranker(reranker(folder), "cpu"))


@pytest.mark.slow
def test_other_weights_in_the_other_engine_are_a_failure(taught_reranker: Path, tmp_path: Path) -> None:
    """The engines are given different checkpoints: what a wrong kernel would look like."""

    def scale(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.self_attn.o_proj.weight"] *= 1.001

    near = reranker(changed(taught_reranker, tmp_path / "near", scale))
    subject = reranker(taught_reranker)
    mine, _ = score_pairs(subject.config, subject, "cpu")
    theirs, causal = score_pairs(near.config.model_copy(update={"engine": "reference"}), near, "cpu")
    assert causal
    finding = judge_agreement(subject, mine, theirs)
    assert finding.level == "failure"
    assert "reranker.engine=reference" in finding.remedy


@pytest.mark.parametrize(
    ("share", "level"), [(0.0, "ok"), (0.05, "ok"), (0.2, "warning"), (0.6, "failure"), (np.nan, "failure")]
)
def test_in_half_precision_the_range_of_margins_decides(taught_reranker: Path, share: float, level: str) -> None:
    subject = reranker(taught_reranker, dtype="bfloat16")
    margins = np.linspace(-5, 5, 12).reshape(6, 2)
    other = margins.copy()
    other[2, 1] += 10 * share
    assert judge_agreement(subject, other, margins).level == level


def margins_of(pairs: list[tuple[float, float]]) -> np.ndarray[Any, Any]:
    return np.array(pairs + [(8.0, -8.0)] * (len(PAIRS) - len(pairs)))


@pytest.mark.parametrize(
    ("pairs", "of_published", "of_any"),
    [
        ([], "ok", "ok"),
        ([(9.0, 2.0)], "failure", "ok"),  # an irrelevant document above 0
        ([(-1.0, -9.0)], "failure", "ok"),  # a relevant one below
        ([(0.2, -0.2)], "failure", "ok"),  # in order, and too close
        ([(-2.0, 3.0)], "failure", "warning"),
        ([(-2.0, 3.0)] * 3, "failure", "failure"),
        ([(np.nan, 3.0)], "failure", "failure"),
    ],
)
def test_expected_margins(
    taught_reranker: Path, pairs: list[tuple[float, float]], of_published: str, of_any: str
) -> None:
    subject = reranker(taught_reranker)
    assert judge_order(published(subject), margins_of(pairs), "float32").level == of_published
    assert judge_order(subject, margins_of(pairs), "float32").level == of_any


@pytest.mark.slow
def test_random_weights_are_not_asked_for_an_order() -> None:
    order, engines = check_reranker(reranker("demo:qwen3-random"), "cpu")
    assert order.level == engines.level == "ok"
    assert "not applicable: random weights" in order.found


def test_the_reranker_that_comes_with_the_project_is_asked_about_python() -> None:
    order, engines = check_reranker(reranker("demo:qwen3-python"), "cpu")
    assert "4 of 4 pairs as expected" in order.found
    assert engines.level == "ok", engines.found


@pytest.mark.slow
def test_an_embedder_that_knows_the_pairs_is_right(taught_embedder: Path) -> None:
    order, engines = check_retriever(retriever(taught_embedder), "cpu")
    assert (order.level, engines.level) == ("ok", "ok"), (order, engines)
    assert "6 of 6" in order.found
    assert "packed and sentence-transformers differ by" in engines.found


@pytest.mark.slow
def test_an_embedder_with_other_weights_is_a_failure(taught_embedder: Path, tmp_path: Path) -> None:
    def turn(weights: dict[str, torch.Tensor]) -> None:
        for name, value in weights.items():
            if name.endswith("o_proj.weight"):
                value.neg_()

    harmed = retriever(changed(taught_embedder, tmp_path / "turned", turn))
    order, engines = check_retriever(harmed, "cpu")
    assert order.level in {"warning", "failure"}
    assert engines.level == "ok"
    healthy = retriever(taught_embedder)
    mine = embed_pairs(healthy.config, healthy, "cpu", packed=True)
    theirs = embed_pairs(harmed.config, harmed, "cpu", packed=False)
    finding = judge_vectors(healthy, mine, theirs)
    assert finding.level == "failure"
    assert "retriever.engine=sentence-transformers" in finding.remedy
