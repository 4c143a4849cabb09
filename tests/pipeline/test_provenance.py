"""What a manifest says of the machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rerank_eval.engine.loading import device_name
from rerank_eval.pipeline.provenance import environment


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    environment.cache_clear()
    yield
    environment.cache_clear()


def test_the_environment_names_the_device_that_auto_chooses() -> None:
    device = environment()["device"]
    assert device_name("auto") == f"{device['kind']} ({device['name']})"


def test_an_apple_gpu_is_not_called_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert environment()["device"]["kind"] == "mps"
