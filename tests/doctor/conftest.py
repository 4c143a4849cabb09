"""Checkpoints that are made once, and a way to look at a model as the doctor does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rerank_eval.config import RerankerConfig, RetrieverConfig
from rerank_eval.doctor.checkpoints import Subject, folder_of
from rerank_eval.models.resolve import resolve_model
from tests.doctor.taught import teach_embedder, teach_reranker


@pytest.fixture(scope="session")
def demo() -> Path:
    return Path(resolve_model("demo:qwen3-random", None, "").source)


@pytest.fixture(scope="session")
def taught_reranker(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    return teach_reranker(tmp_path_factory.mktemp("taught") / "reranker", demo)


@pytest.fixture(scope="session")
def taught_embedder(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    return teach_embedder(tmp_path_factory.mktemp("taught") / "embedder", demo)


def reranker(model: Path | str, **settings: Any) -> Subject:
    config = RerankerConfig(model=str(model), **{"recipe": "card"} | settings)
    ref = resolve_model(str(model), None, "reranker.model")
    return Subject("reranker", config, ref, folder_of(ref))


def retriever(model: Path | str, **settings: Any) -> Subject:
    config = RetrieverConfig(model=str(model), **settings)
    ref = resolve_model(str(model), None, "retriever.model")
    return Subject("retriever", config, ref, folder_of(ref))
