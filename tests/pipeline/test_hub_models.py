"""The hub configs as they stand, on tiny checkpoints of the same architectures in the hub cache's own layout.

Real weights cannot be had in a test; the names, revisions, file formats, loaders and code paths are the real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mteb
import pandas as pd
import pytest
import torch
from huggingface_hub import constants
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from rerank_eval.cli import _run, main
from rerank_eval.models.demo import build_demo_reranker
from tests.mirror.hub_layout import Repository
from tests.pipeline.folders import write_beir_folder
from tests.processes import Forked

ROOT = Path(__file__).parents[2]
EMBEDDER, RERANKER = "Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-Reranker-0.6B"


def put_in_cache(hub: Path, name: str, source: Path) -> str:
    """Lay a checkpoint out as the hub's cache does, under the revision that mteb pins."""
    revision = str(mteb.get_model_meta(name, fetch_from_hf=False).revision)
    repository = hub / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    return revision


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("hub")
    reranker = build_demo_reranker(folder / "tiny-reranker")
    embedder = SentenceTransformer(
        modules=[
            module := Transformer(str(reranker)),
            Pooling(module.get_embedding_dimension(), "lasttoken"),
            Normalize(),
        ]
    )
    embedder.save(str(folder / "tiny-embedder"))
    # The hub's Qwen3-Embedding was saved before this file existed; with it, and the chat template of its tokenizer,
    # sentence-transformers 6 would wrap every text in a chat turn.
    (folder / "tiny-embedder" / "sentence_bert_config.json").unlink()
    cache = folder / "home" / "hub"
    return folder / "home", {
        EMBEDDER: put_in_cache(cache, EMBEDDER, folder / "tiny-embedder"),
        RERANKER: put_in_cache(cache, RERANKER, reranker),
    }


COMMAND = ["eval", "--task", "./tools", "--config", "configs/qwen3-0.6b.yaml"]


def evaluate(monkeypatch: pytest.MonkeyPatch, folder: Path, cache: Path, *settings: str) -> None:
    """Run the hub config in this process, with another hub cache."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    assert _run([*COMMAND, *(part for one in settings for part in ("--set", one))]) == 0


@pytest.fixture(scope="module")
def from_the_hub(tmp_path_factory: pytest.TempPathFactory, hub: tuple[Path, dict[str, str]]) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("from-the-hub")
    shutil.copytree(ROOT / "configs", folder / "configs")
    write_beir_folder(folder / "tools")
    with Forked(run_with_cache, folder, hub[0] / "hub") as process:
        printed, said = process.communicate()
        assert process.returncode == 0, said
    return folder, printed


def run_with_cache(folder: Path, cache: Path) -> None:
    """Run the hub config in a process that is this one's only task."""
    os.chdir(folder)
    constants.HF_HUB_CACHE = str(cache)
    main(COMMAND)


@pytest.mark.slow
def test_hf_home_alone_names_the_cache(
    tmp_path: Path, from_the_hub: tuple[Path, str], hub: tuple[Path, dict[str, str]]
) -> None:
    """In a process that was started anew: the hub's libraries read HF_HOME when they are imported."""
    folder, _ = from_the_hub
    command = [sys.executable, "-m", "rerank_eval", *COMMAND, "--set", f"results_dir={tmp_path}"]
    environment = {**os.environ, "HF_HOME": str(hub[0]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_scores(scores(tmp_path), scores(folder / "results"))


def test_the_hub_config_runs_from_the_hub_cache_without_an_edit(
    from_the_hub: tuple[Path, str], hub: tuple[Path, dict[str, str]]
) -> None:
    (folder, printed), (_, revisions) = from_the_hub, hub
    assert "Python functions alone" not in printed  # that note belongs to the demo model, not to a name on the hub
    found = {}
    for path in (folder / "results").glob("runs/*/*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        found[manifest["row"]["kind"]] = manifest
    for kind, name in (("retriever", EMBEDDER), ("reranker", RERANKER)):
        identity = found[kind]["identity"][kind]
        assert (identity["model"], identity["revision"], identity["dtype"]) == (name, revisions[name], "bfloat16")
    assert found["retriever"]["identity"]["retriever"]["engine"] == "packed"
    assert list((folder / "results" / "mteb").rglob(f"Qwen__Qwen3-Reranker-0.6B/{revisions[RERANKER]}/**/tools.json"))


def scores(results: Path) -> dict[str, pd.DataFrame]:
    """Return identity -> scores of everything in a results folder."""
    return {path.parts[-3]: pd.read_parquet(path) for path in results.glob("runs/*/*/*/scores.parquet")}


def assert_same_scores(ours: dict[str, pd.DataFrame], theirs: dict[str, pd.DataFrame]) -> None:
    assert len(ours) == 2
    assert ours.keys() == theirs.keys()
    for identity, frame in ours.items():
        pd.testing.assert_frame_equal(frame, theirs[identity])


def test_a_model_mirror_gives_the_same_results_under_the_same_identity(
    tmp_path: Path,
    from_the_hub: tuple[Path, str],
    hub: tuple[Path, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder, _), (home, revisions) = from_the_hub, hub
    for name, revision in revisions.items():
        snapshot = home / "hub" / f"models--{name.replace('/', '--')}" / "snapshots" / revision
        shutil.copytree(snapshot, tmp_path / "models" / name)
        Repository(tmp_path / "models" / name, revision).note_downloads()
    mirrored = tmp_path / "mirrored"
    roots = f"model_root={tmp_path / 'models'}", f"results_dir={mirrored}"
    evaluate(monkeypatch, folder, tmp_path / "empty", *roots)
    assert_same_scores(scores(mirrored), scores(folder / "results"))


def test_qwen3_embedding_gets_its_instruction_as_the_model_card_says(
    tmp_path: Path, hub: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Instruct: ...` and `Query:` before queries, nothing before documents: the scores are those of writing it out."""
    home, _ = hub
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_beir_folder(tmp_path / "tools")
    evaluate(
        monkeypatch,
        tmp_path,
        home / "hub",
        "retriever.dtype=float32",
        "reranker=null",
        "retriever.top_k=60",
        "retriever.instruction=Given a question, retrieve tools",
    )
    scores = pd.read_parquet(next((tmp_path / "results").glob("runs/*/*/*/scores.parquet")))
    snapshot = next((home / "hub").glob("models--Qwen--Qwen3-Embedding-0.6B/snapshots/*"))
    model = SentenceTransformer(str(snapshot), device="cpu", model_kwargs={"dtype": torch.float32})
    rows = [json.loads(line) for line in (tmp_path / "tools" / "queries.jsonl").read_text().splitlines()]
    corpus = [json.loads(line) for line in (tmp_path / "tools" / "corpus.jsonl").read_text().splitlines()]
    texts = [f"Instruct: Given a question, retrieve tools\nQuery:{row['text']}" for row in rows]
    similarity = model.encode(texts) @ model.encode([row["text"] for row in corpus]).T
    expected = {
        (query["_id"], document["_id"]): similarity[i, j]
        for i, query in enumerate(rows)
        for j, document in enumerate(corpus)
    }
    for row in scores.itertuples():
        assert row.score == pytest.approx(expected[row.query_id, row.doc_id], abs=1e-5)
