from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rerank_eval.errors import ModelError, OfflineError
from rerank_eval.models.resolve import resolve_model
from tests.mirror.hub_layout import Repository


def checkpoint(folder: Path, value: float, name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"]}))
    save_file({"w": torch.full((64, 64), value)}, folder / name)
    return folder


def test_a_local_folder_is_known_by_its_weights(tmp_path: Path) -> None:
    one = resolve_model(str(checkpoint(tmp_path / "a", 1.0)), None, "reranker.model")
    same = resolve_model(str(checkpoint(tmp_path / "b", 1.0)), None, "reranker.model")
    other = resolve_model(str(checkpoint(tmp_path / "c", 2.0)), None, "reranker.model")
    assert one.revision == same.revision != other.revision
    assert (one.name, one.label, one.origin, one.architecture) == ("local/a", "a", "local", "Qwen3ForCausalLM")
    assert one.load_revision is None


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("no folder", "no config.json there"),
        ("no weights", "no .safetensors weights there; pickled weights are not loaded"),
        ("missing shard", r"shard model-2.safetensors is missing \(1 in all\)"),
        ("bad index", "not a safetensors index"),
        ("bad config", "config.json cannot be read"),
    ],
)
def test_an_unusable_folder_is_told_before_anything_is_loaded(tmp_path: Path, broken: str, message: str) -> None:
    folder = tmp_path / "model"
    if broken != "no folder":
        checkpoint(folder, 1.0, "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    if broken == "no weights":
        (folder / "model-1.safetensors").rename(folder / "pytorch_model.bin")
    elif broken == "missing shard":
        index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    elif broken == "bad index":
        index.write_text("[]")
    elif broken == "bad config":
        (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=message) as caught:
        resolve_model(str(folder), None, "own.yaml: reranker.model")
    assert str(caught.value).startswith("own.yaml: reranker.model: ")


def test_a_hub_model_out_of_reach_names_the_remedy_and_the_nearest_name() -> None:
    with pytest.raises(
        OfflineError,
        match=r"rerank-eval fetch --model Qwen/Qwen3-Rernker-0\.6B .*did you mean 'Qwen/Qwen3-Reranker-0\.6B'",
    ):
        resolve_model("Qwen/Qwen3-Rernker-0.6B", None, "own.yaml: reranker.model")


def mirrored(root: Path, name: str, commit: str) -> Repository:
    repository = Repository(checkpoint(root / name, 1.0), commit)
    repository.note_downloads()
    return repository


def test_a_mirrored_model_keeps_its_hub_name_and_commit(tmp_path: Path) -> None:
    folder = mirrored(tmp_path, "someone/tiny", "a" * 40).folder
    ref = resolve_model("someone/tiny", None, "reranker.model", tmp_path)
    assert (ref.name, ref.revision, ref.origin, ref.source) == ("someone/tiny", "a" * 40, "mirror", str(folder))
    assert (ref.load_revision, ref.published) == (None, True)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("another revision", r"config\.json is of commit a{40}, the pinned revision is b{40}"),
        ("no folder", "no such folder"),
        ("a missing file", r"tokenizer\.json is missing"),
        ("no weights", "model.safetensors is missing"),
    ],
)
def test_a_mirror_without_the_model_names_the_command_that_fetches_it(tmp_path: Path, broken: str, words: str) -> None:
    folder = tmp_path / "someone" / "tiny"
    if broken != "no folder":
        repository = mirrored(tmp_path, "someone/tiny", "a" * 40)
        (folder / "tokenizer.json").write_text("{}")
        repository.note_downloads()
    if broken == "a missing file":
        (folder / "tokenizer.json").unlink()
    elif broken == "no weights":
        (folder / "model.safetensors").unlink()
    revision = "b" * 40 if broken == "another revision" else None
    with pytest.raises(ModelError, match=words) as caught:
        resolve_model("someone/tiny", revision, "own.yaml: reranker.model", tmp_path)
    wanted = f"someone/tiny@{revision}" if revision else "someone/tiny"
    assert f"rerank-eval fetch --model {wanted} --model-root {tmp_path}" in str(caught.value)


def test_a_hub_cache_folder_is_read_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "a" * 40
    repository = tmp_path / "models--someone--tiny"
    checkpoint(repository / "snapshots" / commit, 1.0)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    ref = resolve_model("someone/tiny", None, "reranker.model")
    assert (ref.origin, ref.revision, ref.load_revision, ref.label) == ("hub", commit, commit, "tiny")


@pytest.mark.parametrize("name", ["tokenizer.json", "1_Pooling/config.json", "modules.json", "modeling_own.py"])
def test_whatever_changes_scores_changes_a_folders_revision(tmp_path: Path, name: str) -> None:
    folder = checkpoint(tmp_path / "model", 1.0)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("[]" if name == "modules.json" else "{}")
    before = resolve_model(str(folder), None, "retriever.model").revision
    (folder / "README.md").write_text("read me")
    assert resolve_model(str(folder), None, "retriever.model").revision == before
    changed = [{"path": "", "type": "Transformer"}] if name == "modules.json" else {"pooling_mode_cls_token": True}
    path.write_text(json.dumps(changed))
    assert resolve_model(str(folder), None, "retriever.model").revision != before


def test_a_single_weight_that_changed_changes_a_folders_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that was trained alone, a norm of one layer: scores under the old revision would be served for it."""
    monkeypatch.setenv("RERANK_EVAL_CACHE", str(tmp_path / "cache"))
    folder = checkpoint(tmp_path / "model", 1.0)
    weights = {"head": torch.zeros(8), "layers": torch.zeros(2**20)}
    for place in (0, 12_345, 2**19 + 7, 2**20 - 1):
        save_file(weights, folder / "model.safetensors")
        before = resolve_model(str(folder), None, "reranker.model").revision
        weights["layers"][place] += 1
        save_file(weights, folder / "model.safetensors")
        assert resolve_model(str(folder), None, "reranker.model").revision != before


def test_weights_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_EVAL_CACHE", str(tmp_path / "cache"))
    folder = checkpoint(tmp_path / "model", 1.0)
    read: list[str] = []
    digest_of = hashlib.file_digest

    def counted(handle: Any, name: str) -> Any:
        read.append(handle.name)
        return digest_of(handle, name)

    monkeypatch.setattr("hashlib.file_digest", counted)
    first, again = (resolve_model(str(folder), None, "reranker.model").revision for _ in range(2))
    assert first == again
    assert read == [str(folder / "model.safetensors")]
    (note,) = (tmp_path / "cache" / "digests").iterdir()
    for spoilt in ("", "[]", '{"facts": 1}', note.read_text().replace('"sha256": "', '"sha256": 1, "x": "')):
        note.write_text(spoilt)
        assert resolve_model(str(folder), None, "reranker.model").revision == first


def test_a_folder_that_is_there_is_no_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint(tmp_path / "models" / "mine", 1.0)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("models/mine", None, "reranker.model").origin == "local"
