from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub
import mteb
import pytest

from rerank_eval import hub as hub_module
from rerank_eval.models.demo import build_demo_reranker
from rerank_eval.models.resolve import cache_dir
from tests.fetch.hub_server import Hub, Served
from tests.mirror.hub_layout import Repository
from tests.mirror.miniatures import write_task

PLAIN, FOLLOWIR = "SCIDOCS", "News21InstructionRetrieval"
PLAIN_DATA = "mteb/scidocs"
FOLLOWIR_DATA = "mteb/News21InstructionRetrieval"
RERANKER = "Qwen/Qwen3-Reranker-0.6B"
REVISION = str(mteb.get_model_meta(RERANKER, fetch_from_hf=False).revision)
UNREAD = ("onnx/model.onnx", "pytorch_model.bin", "modeling_own.py", "README.md", ".gitattributes")


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Served]:
    """What the hub holds: two data sets with more in them than their tasks read, and a reranker likewise."""
    root = tmp_path_factory.mktemp("hub")
    found: dict[tuple[str, str], Served] = {}
    for name in (PLAIN, FOLLOWIR):
        task = mteb.get_task(name)
        repository = write_task(root, task)
        repository.add("unused", "train", [{"text": "nobody reads this"}])
        repository.finish()
        (repository.folder / "extra.bin").write_bytes(b"nor this")
        found["dataset", task.metadata.dataset["path"]] = Served(repository.folder, repository.revision)
    model = root / "models" / RERANKER
    shutil.copytree(build_demo_reranker(cache_dir() / "models" / "qwen3-random"), model)
    for name in UNREAD:
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"another format")
    found["model", RERANKER] = Served(model, REVISION)
    for one in found.values():
        shutil.rmtree(one.folder / ".cache", ignore_errors=True)
    return found


@pytest.fixture
def hub(repositories: dict[tuple[str, str], Served], tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    for key, one in repositories.items():
        folder = tmp_path / "hub" / key[0] / key[1]
        shutil.copytree(one.folder, folder)
        server.served[key] = Served(folder, one.commit)
    yield server
    server.close()


@pytest.fixture
def online(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Let this process ask the server, as HF_ENDPOINT does before huggingface_hub is imported."""
    constants = huggingface_hub.constants
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.chdir(tmp_path)
    hub_module.reachable.cache_clear()
    yield hub
    hub_module.reachable.cache_clear()


def add_model(hub: Hub, folder: Path, name: str, files: dict[str, str], commit: str = "c" * 40) -> Served:
    """Let the server offer a model of given files."""
    repository = Repository(folder / "added" / name, commit)
    for file, content in files.items():
        path = repository.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if content else json.dumps({}))
    hub.served["model", name] = Served(repository.folder, commit)
    return hub.served["model", name]
