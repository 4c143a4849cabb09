"""A reranker whose head lies in module folders comes whole from the hub, and is then scored without one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from rerank_eval.cli import _run
from rerank_eval.config import RerankerConfig
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers.loading import load_reranking_engine
from tests.fetch.hub_server import Hub, Served
from tests.tiny_pooled import build

NAME, COMMIT = "someone/ettin", "c" * 40
HEAD = {
    f"{folder}/{file}"
    for folder in ("2_Dense", "3_LayerNorm", "4_Dense")
    for file in ("config.json", "model.safetensors")
}
GROUP = QueryGroup("which tool", None, ["a vise", "short", "very long " * 200])


@pytest.mark.parametrize("way", ["hub", "mirror"])
def test_a_head_of_modules_comes_whole(tmp_path: Path, online: Hub, way: str) -> None:
    folder = build(tmp_path / "local")
    expected = load_reranking_engine(
        RerankerConfig(model=str(folder)), resolve_model(str(folder), None, "reranker.model"), "cpu"
    )
    served = Path(shutil.copytree(folder, tmp_path / "served" / NAME))
    (served / "4_Dense" / "pytorch_model.bin").write_bytes(b"another format")
    online.served["model", NAME] = Served(served, COMMIT)
    root = None
    if way == "mirror":
        assert _run(["fetch", "--model", NAME]) == 0
        root = tmp_path / "mirror" / "models"
        online.served.clear()
    config = RerankerConfig(model=NAME)
    ref = resolve_model(NAME, None, "reranker.model", root)
    assert (ref.revision, ref.origin) == (COMMIT, way)
    scores = load_reranking_engine(config, ref, "cpu").score(GROUP).scores
    assert scores.tobytes() == expected.score(GROUP).scores.tobytes()
    assert np.ptp(scores) > 0
    sent = {name.removeprefix(f"{NAME}/") for name in online.sent}
    assert sent >= HEAD | {"1_Pooling/config.json"}
    assert "4_Dense/pytorch_model.bin" not in sent
