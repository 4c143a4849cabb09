"""Fixtures of the engine's tests: the demo checkpoint, its tokenizer, and engines loaded once."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rerank_eval.engine.attention import register
from rerank_eval.engine.base import EngineParts
from rerank_eval.engine.head import Head
from rerank_eval.engine.interface import Engine
from rerank_eval.engine.packed import PackedEngine
from rerank_eval.engine.prompts import PromptTokenizer
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.engine.reference import ReferenceEngine
from rerank_eval.models.demo import WEIGHTS, build_demo_reranker

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_demo_reranker(tmp_path_factory.mktemp("demo") / "reranker")


@pytest.fixture(scope="session")
def tokenizer(demo: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(demo)


@pytest.fixture(scope="session")
def engine_for(demo: Path, tokenizer: PreTrainedTokenizerBase) -> Callable[..., Engine]:
    """Put an engine on the demo model together.

    Model and tokenizer are read once, because reading takes seconds; `load_engine` has tests of its own. The same
    settings give the same engine, so its stats are a running sum.
    """

    @cache
    def network(attention: str, dtype: str) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(
            demo, dtype=getattr(torch, dtype), attn_implementation=attention
        ).eval()

    @cache
    def make(
        *,
        recipe: str = "card",
        engine: str = "packed",
        head: str = "float32",
        dtype: str = "float32",
        max_length: int = 8192,
        batch_size: int = 16,
        token_budget: int = 0,
    ) -> Engine:
        model = network(register() if engine == "packed" else "sdpa", dtype)
        parts = EngineParts(
            model=model,
            prompts=PromptTokenizer(tokenizer, RECIPES[recipe], max_length),
            head=Head(model.lm_head, 9693, 2152, head, RECIPES[recipe].softmax_dtype),
            pad_id=tokenizer.pad_token_id,
            settings={},
        )
        return PackedEngine(parts, token_budget) if engine == "packed" else ReferenceEngine(parts, batch_size)

    return make


@pytest.fixture
def variant(demo: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a copy of the demo checkpoint with another config and other weights."""

    def make(config: dict | None = None, weights: Callable[[Weights], Weights] | None = None) -> Path:
        for path in demo.iterdir():
            if path.name not in {"config.json", WEIGHTS}:
                (tmp_path / path.name).symlink_to(path)
        merged = {**json.loads((demo / "config.json").read_text()), **(config or {})}
        (tmp_path / "config.json").write_text(json.dumps(merged))
        if weights is None:
            (tmp_path / WEIGHTS).symlink_to(demo / WEIGHTS)
        else:
            save_file(weights(load_file(demo / WEIGHTS)), tmp_path / WEIGHTS, metadata={"format": "pt"})
        return tmp_path

    return make
