"""The head's arithmetic on hidden states with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.head import Head


def linear(weight: list[list[float]], dtype: torch.dtype) -> torch.nn.Linear:
    layer = torch.nn.Linear(2, len(weight), bias=False, dtype=dtype)
    layer.weight.data = torch.tensor(weight, dtype=dtype)
    return layer.requires_grad_(False)


def test_margin_is_yes_less_no():
    head = Head(linear([[9.0, 9.0], [1.0, 0.0], [0.0, 2.0]], torch.float32), 1, 2, "float32", "model")
    output = head.from_hidden(torch.tensor([[3.0, 0.5], [0.0, 1.0]]))
    assert output.margin.tolist() == [2.0, -2.0]
    scores, margins = output.arrays()
    assert scores.dtype == margins.dtype == np.float64
    assert scores.tolist() == margins.tolist() == [2.0, -2.0]


def test_float32_keeps_apart_what_bfloat16_logits_tie():
    weight = [[1.0, 1.0], [1.0, 1.0078125]]
    hidden = torch.tensor([[18.0, 1.0], [18.0, 2.0]], dtype=torch.bfloat16)
    layer = linear(weight, torch.bfloat16)
    exact = Head(layer, 1, 0, "float32", "model").from_hidden(hidden)
    assert exact.margin.tolist() == [0.0078125, 0.015625]
    softmax = Head(layer, 1, 0, "recipe_softmax", "model").from_hidden(hidden)
    assert softmax.margin.tolist() == [0.0, 0.0]
    assert softmax.arrays()[0].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("softmax_dtype", ["model", "float32"])
def test_recipe_softmax_is_log_softmax_of_no_and_yes(softmax_dtype):
    head = Head(linear([[0.0, 0.0]] * 3, torch.bfloat16), 2, 0, "recipe_softmax", softmax_dtype)
    logits = torch.tensor([[1.5, 99.0, 2.75], [4.0, -9.0, 1.0]], dtype=torch.bfloat16)
    pair = logits[:, [0, 2]]
    expected = torch.log_softmax(pair if softmax_dtype == "model" else pair.float(), dim=1).exp()[:, 1]
    output = head.from_logits(logits)
    scores, margins = output.arrays()
    assert scores.tolist() == expected.tolist()
    assert margins.tolist() == [1.25, -3.0]


def test_a_rows_margin_does_not_depend_on_the_other_rows():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 1024, generator=generator)
    layer = torch.nn.Linear(1024, 2, bias=False)
    layer.weight.data = weight
    head = Head(layer.requires_grad_(False), 0, 1, "float32", "model")
    hidden = torch.randn(50, 1024, generator=generator)
    assert torch.equal(head.from_hidden(hidden).margin[7:8], head.from_hidden(hidden[7:8]).margin)


def test_unknown_head():
    with pytest.raises(EngineError, match="unknown head 'double'; valid: float32, recipe_softmax"):
        Head(linear([[0.0, 0.0]], torch.float32), 0, 0, "double", "model")
