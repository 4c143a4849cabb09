"""Missing, torn and unreachable sources are named, each with the command that mends it."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import yaml

from rerank_eval import hub
from rerank_eval.config import LoadedConfig, load_config
from rerank_eval.doctor.checkpoints import count_parameters, heads_of
from rerank_eval.doctor.sources import (
    check_hub,
    check_instructions,
    check_model,
    check_tasks,
    find_models,
    find_tasks,
    needs_hub,
)
from rerank_eval.errors import ConfigError, ModelError
from rerank_eval.models.demo import WEIGHTS
from tests.doctor.conftest import reranker
from tests.mirror.miniatures import write_mirror
from tests.pipeline.folders import write_beir_folder

FETCH = "rerank-eval fetch --config x.yaml"


def config(folder: Path, **keys: object) -> LoadedConfig:
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump({"retriever": {"model": "bm25"}, "reranker": None, **keys}))
    return load_config(path)


def test_an_unknown_task_names_the_nearest(tmp_path: Path) -> None:
    tasks, [finding] = find_tasks(config(tmp_path, tasks=["SciFcat"]))
    assert tasks == []
    assert finding.level == "failure"
    assert "did you mean 'SciFact'" in finding.found


def test_data_in_a_mirror_that_is_whole_is_right_and_a_missing_file_is_named(tmp_path: Path) -> None:
    root = write_mirror(tmp_path / "mirror", ["ArguAna"])
    loaded = config(tmp_path, tasks=["ArguAna"], data_root=str(root))
    tasks, _ = find_tasks(loaded)
    [finding] = check_tasks(loaded, tasks)
    assert (finding.level, finding.found) == ("ok", f"1 task(s) whole in {root}")
    (root / "mteb/arguana/corpus/test-00000-of-00001.parquet").unlink()
    [finding] = check_tasks(loaded, tasks)
    assert finding.level == "failure"
    assert "corpus/test-00000-of-00001.parquet is missing" in finding.found
    assert f"rerank-eval fetch --config {tmp_path / 'x.yaml'}" in finding.remedy


def test_many_missing_tasks_are_not_many_lines(tmp_path: Path) -> None:
    loaded = config(tmp_path, tasks=["MTEB-R"], data_root=str(tmp_path))
    tasks, _ = find_tasks(loaded)
    findings = list(check_tasks(loaded, tasks))
    assert [finding.level for finding in findings] == 6 * ["failure"]
    assert findings[-1].found.startswith("5 more tasks lack theirs")


def test_a_broken_beir_folder_is_named_with_its_line(tmp_path: Path) -> None:
    folder = write_beir_folder(tmp_path / "tools")
    loaded = config(tmp_path, tasks=[str(folder)])
    tasks, _ = find_tasks(loaded)
    [finding] = check_tasks(loaded, tasks)
    assert finding.found == "1 task(s) from a folder that is whole"
    with (folder / "qrels" / "test.tsv").open("a") as handle:
        handle.write("q0\tnowhere\tyes\n")
    [finding] = check_tasks(loaded, tasks)
    assert finding.level == "failure"
    assert "test.tsv" in finding.found
    assert "fetch" not in finding.remedy


def test_a_model_that_is_not_here_while_the_hub_is_off_is_a_failure(tmp_path: Path) -> None:
    loaded = config(tmp_path, tasks=["SciFact"], reranker={"model": "Qwen/Qwen3-Reranker-0.6B"})
    subjects, [finding] = find_models(loaded)
    assert [subject.ref.label for subject in subjects] == ["BM25"]
    assert finding.level == "failure"
    assert "Qwen/Qwen3-Reranker-0.6B is not in the hub cache and" in finding.found
    assert "rerank-eval fetch" in finding.remedy
    assert needs_hub(loaded, find_tasks(loaded)[0]) == ["Qwen/Qwen3-Reranker-0.6B", "data sets"]
    [finding] = check_hub(["Qwen/Qwen3-Reranker-0.6B"], FETCH)
    assert "switched off by HF_HUB_OFFLINE" in finding.found


def test_a_local_folder_s_remedy_is_not_fetch(tmp_path: Path, checkpoint: Path) -> None:
    _stub(checkpoint)
    _, [finding] = find_models(config(tmp_path, tasks=["SciFact"], reranker={"model": str(checkpoint)}))
    assert "is a pointer of Git LFS" in finding.found
    assert "correct reranker.model" in finding.remedy
    assert "rerank-eval fetch" not in finding.remedy


def test_an_instruction_set_that_lacks_a_task_is_named_as_a_run_names_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("otherwise: error\ntasks: {SciFact: Judge the claim}\n")
    settings = {"reranker": {"model": "demo:qwen3-random", "instruction": str(tmp_path / "mine.yaml")}}
    loaded = config(tmp_path, tasks=["SciFact"], **settings)
    [finding] = check_instructions(loaded, find_tasks(loaded)[0])
    assert (finding.level, finding.name) == ("ok", "reranker.instruction")
    loaded = config(tmp_path, tasks=["SciFact", "NFCorpus"], **settings)
    with pytest.raises(ConfigError, match=r"reranker\.instruction: .*NFCorpus"):
        list(check_instructions(loaded, find_tasks(loaded)[0]))


def test_each_model_is_looked_at_once_whatever_its_instruction(tmp_path: Path) -> None:
    grid = {"reranker.instruction": ["none", "default"], "reranker.dtype": ["float32", "bfloat16"]}
    subjects, _ = find_models(config(tmp_path, reranker={"model": "demo:qwen3-random"}, grid=grid))
    assert [(subject.role, subject.config.dtype) for subject in subjects] == [
        ("retriever", "float32"),
        ("reranker", "float32"),
        ("reranker", "bfloat16"),
    ]


@pytest.fixture
def checkpoint(tmp_path: Path, demo: Path) -> Path:
    return shutil.copytree(demo, tmp_path / "checkpoint")


def _cut(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1000])


def _stub(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def _short(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"weights")


def _damaged(folder: Path) -> None:
    path = folder / WEIGHTS
    content = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 20) + b"{" * 20 + content[28:])


def _shard(folder: Path) -> None:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / WEIGHTS).rename(folder / names["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_cut, r"model.safetensors \(.* bytes\) is cut short"),
        (_stub, "is a pointer of Git LFS"),
        (_short, "is cut short, damaged, or no safetensors file"),
        (_damaged, "is cut short, damaged, or no safetensors file .*header"),
        (_shard, "shard model-00002-of-00002.safetensors is missing"),
    ],
)
def test_torn_weights_are_told_without_loading_them(checkpoint: Path, harm: Callable[[Path], None], words: str) -> None:
    subject = reranker(checkpoint)
    [finding] = check_model(subject, FETCH)
    assert finding.level == "ok"
    assert "9.8 M parameters" in finding.found
    assert heads_of(checkpoint) == (4, 2, 32)
    harm(checkpoint)
    with pytest.raises(ModelError, match=words):
        list(check_model(subject, FETCH))


def test_no_weights_at_all_is_none(tmp_path: Path) -> None:
    assert count_parameters(tmp_path, "") is None
    assert heads_of(tmp_path) is None


class _Hub(BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(status: int) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), type("Handler", (_Hub,), {"status": status}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Let the hub libraries ask, and name an endpoint."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    def use(endpoint: str) -> None:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        hub.reachable.cache_clear()

    yield use
    hub.reachable.cache_clear()


def test_a_hub_that_answers_is_right(online: Callable[[str], None]) -> None:
    with serving(200) as endpoint:
        online(endpoint)
        [finding] = check_hub(["data sets"], FETCH)
    assert (finding.level, finding.found) == ("ok", f"{endpoint} answers")


def test_a_hub_that_answers_by_an_error_is_a_failure(online: Callable[[str], None]) -> None:
    with serving(503) as endpoint:
        online(endpoint)
        [finding] = check_hub(["data sets"], FETCH)
    assert finding.level == "failure"
    assert "it answers 503" in finding.found
    assert "HTTPS_PROXY" in finding.remedy
    assert FETCH in finding.remedy
    assert hub.offline()  # so that nothing behind it waits again


def test_a_hub_that_never_answers_costs_seconds(online: Callable[[str], None]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        online(f"http://127.0.0.1:{silent.getsockname()[1]}")
        [finding] = check_hub(["data sets"], FETCH, seconds=0.5)
    assert finding.level == "failure"
    assert "cannot be reached" in finding.found


def test_a_name_that_does_not_resolve_is_a_failure(online: Callable[[str], None]) -> None:
    online("https://hub.invalid")
    [finding] = check_hub(["data sets"], FETCH)
    assert finding.level == "failure"
    assert "its name does not resolve" in finding.found or "no answer within" in finding.found


def test_a_hub_that_is_not_needed_is_not_asked() -> None:
    [finding] = check_hub([], FETCH)
    assert finding.level == "ok"
