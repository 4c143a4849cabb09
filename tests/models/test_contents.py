"""Which files a checkpoint consists of, and that the identity covers each of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from transformers import AutoModelForCausalLM

from rerank_eval.doctor.checkpoints import count_parameters
from rerank_eval.errors import ModelError
from rerank_eval.models.checkpoint import weight_files
from rerank_eval.models.contents import ContentsError, IncompleteError, contents, read_folder
from rerank_eval.models.resolve import resolve_model
from tests.models.checkpoints import TRANSFORMER, copy_of, edit

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def chosen(files: dict[str, Any], *, pinned: bool = False) -> Any:
    return contents(files, files.get, pinned=pinned)


def in_shards(folder: Path) -> list[str]:
    """Split a folder's weights into two shards with an index, and leave the whole file."""
    state = load_file(folder / WHOLE)
    names = sorted(state)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    place = {name: shards[number % 2] for number, name in enumerate(names)}
    for shard in shards:
        save_file({name: state[name] for name in names if place[name] == shard}, folder / shard, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return shards


def test_a_whole_file_beside_shards_can_be_read_in_two_ways(tmp_path: Path) -> None:
    """The digest was of the shards and transformers loads the whole file: another file, the same identity."""
    folder = copy_of(tmp_path / "model")
    shards = in_shards(folder)
    with pytest.raises(ModelError, match=r"holds model\.safetensors as well as model\.safetensors\.index\.json"):
        resolve_model(str(folder), None, "reranker.model")
    (folder / WHOLE).unlink()
    ref = resolve_model(str(folder), None, "reranker.model")
    assert [path.name for path in weight_files(ref, "")] == shards
    state = load_file(folder / shards[0])
    state = {name: tensor + 1 for name, tensor in state.items()}
    save_file(state, folder / shards[0], {"format": "pt"})
    assert resolve_model(str(folder), None, "reranker.model").revision != ref.revision


def test_what_transformers_loads_is_what_is_listed(tmp_path: Path) -> None:
    """Of a published checkpoint with both, the commit covers both; transformers' own choice is told."""
    folder = copy_of(tmp_path / "model")
    in_shards(folder)
    save_file({name: torch.zeros_like(one) for name, one in load_file(folder / WHOLE).items()}, folder / WHOLE)
    found = read_folder(folder, pinned=True)
    assert found.weights == (WHOLE,)
    assert "and not the shards" in found.note
    loaded = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    assert not loaded.model.norm.weight.any()
    edit(folder / "config.json", transformers_weights=INDEX)
    assert len(read_folder(folder).weights) == 2
    assert AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).model.norm.weight.any()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": {}, "pytorch_model.bin": None}, "pickled weights are not loaded"),
        ({"config.json": {}, "model.fp16.safetensors": None}, "rename it if it is the whole model"),
        ({"config.json": {}, INDEX: []}, "not a safetensors index"),
        ({"config.json": {}, WHOLE: None, "modules.json": {"0": {}}}, "is not a list of modules"),
        ({"config.json": {}, WHOLE: None, "modules.json": [{"path": "../x", "type": "D"}]}, "leads out of its folder"),
        ({"modules.json": [{"path": "", "type": "Router"}], "router_config.json": {}}, "several networks"),
        ({"config.json": {}, WHOLE: None, "modules.json": [{"path": "1_D"}]}, "is not a list of modules"),
        ({"config.json": {}, INDEX: {"weight_map": {"a": "../a.safetensors"}}}, "no safetensors file beside it"),
        ({"config.json": {}, INDEX: {"weight_map": {"a": "1.safetensors"}}}, r"shard 1\.safetensors is missing"),
        ({"config.json": {"transformers_weights": "x.safetensors"}, WHOLE: None}, "names weights that are not there"),
        ({"adapter_config.json": {"base_model_name_or_path": "o/n"}}, r"adapter \(LoRA\) of o/n.*without its model"),
        ({"config.json": {}, WHOLE: None, "adapter_config.json": {}}, "with the adapter or without; merge it first"),
        ({"config.json": {}, WHOLE: None, "adapter_model.safetensors": None}, "merge it first"),
        (
            {
                "config.json": {},
                WHOLE: None,
                "modules.json": [{"path": "0_T", "type": "x.Transformer"}],
                "0_T/adapter_config.json": {},
            },
            "0_T/adapter_config.json",
        ),
    ],
)
def test_what_is_no_checkpoint_of_one_reading_is_refused(files: dict[str, Any], message: str) -> None:
    with pytest.raises(ContentsError, match=message):
        chosen(files)


@pytest.mark.parametrize("name", [WHOLE, "tokenizer.json"])
def test_a_clone_without_its_large_files_is_told(tmp_path: Path, name: str) -> None:
    folder = copy_of(tmp_path / "model")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelError, match=rf"{name} is a pointer of Git LFS and not the file; run `git lfs"):
        resolve_model(str(folder), None, "reranker.model")


def test_files_that_no_loader_opens_are_no_part_of_a_checkpoint() -> None:
    files = dict.fromkeys(
        [WHOLE, "tokenizer.json", "model.fp16.safetensors", "onnx/model.onnx", "onnx/config.json", "pytorch_model.bin"]
    ) | {"config.json": {}, "checkpoint-500/adapter_config.json": {}, "checkpoint-500/model.safetensors": None}
    assert chosen(files).loaded == ["config.json", WHOLE, "tokenizer.json"]
    with pytest.raises(IncompleteError):
        chosen({name: None for name in files if name != WHOLE and not name.endswith("fp16.safetensors")})


def test_modules_at_any_depth_belong_to_a_checkpoint() -> None:
    files: dict[str, Any] = {
        "config.json": {},
        WHOLE: None,
        "modules.json": [{"path": one, "type": f"x.{one}"} for one in ("", "2_Dense", "3_Router")],
        "2_Dense/model.safetensors": None,
        "2_Dense/pytorch_model.bin": None,
        "3_Router/query_0_Dense/pytorch_model.bin": None,
        "3_Router/query_0_Dense/config.json": None,
        "router_config.json": {"types": {"document_0_Dense": "Dense"}},
        "document_0_Dense/model.safetensors": None,
        "1_LogitScore/config.json": {},
    }
    found = chosen(files)
    assert found.parts == (
        "2_Dense/model.safetensors",
        "3_Router/query_0_Dense/pytorch_model.bin",
        "document_0_Dense/model.safetensors",
    )
    assert {"3_Router/query_0_Dense/config.json", "1_LogitScore/config.json"} <= set(found.texts)


def test_a_modules_weights_change_a_retrievers_revision(tmp_path: Path) -> None:
    """A Dense layer that was trained alone: the corpus's vectors under the old revision would be served for it."""
    transformer = Transformer(str(copy_of(tmp_path / "base")))
    size = transformer.get_embedding_dimension()
    SentenceTransformer(modules=[transformer, Pooling(size, "mean"), Dense(size, 8)]).save(str(tmp_path / "model"))
    where = str(tmp_path / "model")
    before = resolve_model(where, None, "retriever.model").revision
    weights = next((tmp_path / "model").glob("*_Dense/model.safetensors"))
    state = load_file(weights)
    parameters = count_parameters(tmp_path / "model", "")
    whole = load_file(tmp_path / "model" / WHOLE).values()
    assert parameters == sum(one.numel() for one in (*whole, *state.values()))
    save_file({name: tensor + 1e-3 for name, tensor in state.items()}, weights)
    assert resolve_model(where, None, "retriever.model").revision != before


@pytest.mark.parametrize("how", ["./ in modules.json", "a link"])
def test_a_modules_weights_count_however_its_folder_is_reached(tmp_path: Path, how: str) -> None:
    transformer = Transformer(str(copy_of(tmp_path / "base")))
    size = transformer.get_embedding_dimension()
    folder = tmp_path / "model"
    SentenceTransformer(modules=[transformer, Pooling(size, "mean"), Dense(size, 8)]).save(str(folder))
    dense = folder / "2_Dense"
    if how == "a link":
        dense.rename(tmp_path / "outside")
        dense.symlink_to(tmp_path / "outside")
        (folder / "loop").symlink_to(folder)
    else:
        modules = json.loads((folder / "modules.json").read_text())
        modules[2]["path"] = "./2_Dense"
        (folder / "modules.json").write_text(json.dumps(modules))
    before = resolve_model(str(folder), None, "retriever.model").revision
    state = {name: tensor + 1 for name, tensor in load_file(dense / WHOLE).items()}
    save_file(state, dense / WHOLE)
    assert resolve_model(str(folder), None, "retriever.model").revision != before


def test_every_vocabulary_of_transformers_belongs_to_a_checkpoint() -> None:
    """PhoBERT keeps its merges in bpe.codes: another file there, other ids, the same identity."""
    source = Path(transformers.__file__).parent / "models"
    names: set[str] = set()
    for path in source.glob("*/tokenization*.py"):
        for found in re.findall(r"VOCAB_FILES_NAMES\s*=\s*\{(.*?)\}", path.read_text(), re.DOTALL):
            names |= set(re.findall(r":\s*\"([^\"]+)\"", found))
    assert {"bpe.codes", "source.spm", "vocab.txt"} <= names
    files = dict.fromkeys(names) | {"config.json": {}, WHOLE: None}
    assert names <= set(chosen(files).texts)


def test_a_score_module_without_modules_json_changes_the_revision(tmp_path: Path) -> None:
    folder = copy_of(tmp_path / "model")
    before = resolve_model(str(folder), None, "reranker.model").revision
    (folder / "1_LogitScore").mkdir()
    (folder / "1_LogitScore" / "config.json").write_text('{"true_token_id": 1}')
    (folder / "modules.json").write_text(json.dumps([TRANSFORMER]))
    assert resolve_model(str(folder), None, "reranker.model").revision != before
