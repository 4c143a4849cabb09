"""Tiny encoders with a head of modules, built and saved by sentence-transformers' own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from torch import nn

from tests.tiny_classifiers import modernbert, save

IDENTITY = nn.Identity()


def build(
    folder: Path,
    model: Any = None,
    pooling: str = "cls",
    last: nn.Module = IDENTITY,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Save a reranker as the Ettin rerankers are: pooled, Dense with GELU, LayerNorm, Dense with one output."""
    model = modernbert() if model is None else model
    base = save(model, folder.with_name(f"{folder.name}-classifier"))
    model.base_model.save_pretrained(base)
    encoder = Transformer(str(base))
    torch.manual_seed(3)
    width = model.config.hidden_size
    norm = LayerNorm(width)
    nn.init.normal_(norm.norm.weight, mean=1.0, std=0.2)
    nn.init.normal_(norm.norm.bias, std=0.2)
    first = Dense(width, width, activation_function=nn.GELU())
    answer = Dense(width, 1, activation_function=last, module_output_name="scores", **(options or {}))
    modules = [encoder, Pooling(width, pooling), first, norm, answer]
    CrossEncoder(modules=modules, device="cpu", **settings).save(str(folder))
    assert {one["type"].rsplit(".", 1)[-1] for one in json.loads((folder / "modules.json").read_text())} == {
        "Transformer",
        "Pooling",
        "Dense",
        "LayerNorm",
    }
    return folder
