"""`fetch` against a real HTTP server that speaks the hub's API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mteb
import pytest
import yaml

from rerank_eval.cli import _run
from rerank_eval.config import load_config
from rerank_eval.errors import ConfigError, DataError, ModelError, OfflineError, StorageError
from rerank_eval.models.resolve import registered_revision, resolve_model
from rerank_eval.tasks import mirror
from rerank_eval.tasks.registry import build, resolve
from tests.fetch.conftest import (
    FOLLOWIR,
    FOLLOWIR_DATA,
    PLAIN,
    PLAIN_DATA,
    RERANKER,
    REVISION,
    UNREAD,
    add_model,
)
from tests.fetch.hub_server import Hub, Served
from tests.mirror.miniatures import write_task
from tests.mirror.runs import manifests, run_eval

DOCUMENTS = "corpus/test-00000-of-00001.parquet"
CARD = load_config(Path(__file__).parents[2] / "configs" / "model-card.yaml")
DATA = {PLAIN: PLAIN_DATA, FOLLOWIR: FOLLOWIR_DATA}
READ = {
    "README.md",
    DOCUMENTS,
    "queries/test-00000-of-00001.parquet",
    "default/test-00000-of-00001.parquet",
}


def here(folder: Path) -> set[str]:
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {path.as_posix() for path in found if path.parts[0] != ".cache"}


def fetch(*arguments: str) -> int:
    return _run(["fetch", *arguments])


def line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was printed as an error, which is one line."""
    [message] = capsys.readouterr().err.strip().splitlines()
    return message


def write_config(folder: Path) -> Path:
    path = folder / "mine.yaml"
    config = {
        "tasks": [PLAIN, FOLLOWIR],
        "data_root": "data",
        "model_root": "models",
        "results_dir": "results",
        "retriever": {"model": "bm25", "top_k": 5},
        "reranker": {"model": RERANKER, "max_length": 128},
    }
    path.write_text(yaml.safe_dump(config))
    return path


def test_what_a_config_needs_is_then_found_without_a_hub(
    tmp_path: Path, online: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    assert fetch("--config", str(config)) == 0
    assert here(tmp_path / "data" / PLAIN_DATA) == READ
    sent = list(online.sent)
    assert len(sent) == len(set(sent))
    assert f"{FOLLOWIR_DATA}/qrel_diff/qrel_diff-00000-of-00001.parquet" in sent
    assert not [name for name in sent if "unused" in name or name.endswith(".bin")]
    capsys.readouterr()
    assert fetch("--config", str(config)) == 0
    shown = capsys.readouterr().out
    assert "nothing to download" in shown
    assert "--set data_root=data --set model_root=models" in shown
    assert online.sent == sent
    online.close()
    for name in (PLAIN, FOLLOWIR):
        assert mirror.find(mteb.get_task(name), tmp_path / "data").path == tmp_path / "data" / DATA[name]
    assert resolve_model(RERANKER, None, "reranker.model", tmp_path / "models").revision == REVISION


@pytest.mark.slow
def test_a_config_s_needs_are_fetched_once_and_the_run_then_needs_no_hub(tmp_path: Path, hub: Hub) -> None:
    """In processes of their own, told of the hub by HF_ENDPOINT alone."""
    config = write_config(tmp_path)
    command = [sys.executable, "-m", "rerank_eval", "fetch", "--config", str(config)]
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    environment["HF_DATASETS_OFFLINE"] = "0"

    def run() -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    first = run()
    assert REVISION[:8] in first
    sent = list(hub.sent)
    assert "nothing to download" in run()
    assert hub.sent == sent
    hub.close()
    done = run_eval(tmp_path, config)
    assert done.returncode == 0, done.stderr
    for kind in ("retriever", "reranker"):
        assert sorted(manifests(tmp_path, kind)) == sorted([PLAIN, FOLLOWIR])
    assert manifests(tmp_path, "reranker")[PLAIN]["identity"]["reranker"]["revision"] == REVISION


def test_sizes_come_first_and_a_dry_run_leaves_nothing(
    tmp_path: Path, online: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch("--task", PLAIN, "--model", RERANKER, "--dry-run") == 0
    shown = capsys.readouterr().out
    folder = online.served["dataset", PLAIN_DATA].folder
    size = sum((folder / name).stat().st_size for name in READ)
    assert f"{size / 1000:.1f} kB" in next(row for row in shown.splitlines() if PLAIN_DATA in row)
    assert "free on the disk" in shown
    assert not (tmp_path / "mirror").exists()
    assert set(online.sent) <= {f"{PLAIN_DATA}/README.md", f"{RERANKER}/config.json"}


def test_only_what_loading_a_model_needs_is_fetched(tmp_path: Path, online: Hub) -> None:
    assert fetch("--model", RERANKER, "--model-root", "here") == 0
    folder = tmp_path / "here" / RERANKER
    assert here(folder) == here(online.served["model", RERANKER].folder) - set(UNREAD)


def test_a_connection_that_drops_half_way_goes_on_from_there(
    tmp_path: Path, online: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 256)  # of 10 MB, more than the file has
    online.served["dataset", PLAIN_DATA].drops[DOCUMENTS] = 1
    assert fetch("--task", PLAIN) == 0
    assert online.ranges == [f"{PLAIN_DATA}/{DOCUMENTS}"]
    assert here(tmp_path / "mirror" / "data" / PLAIN_DATA) == READ


def test_a_hub_that_goes_away_is_one_line_and_the_same_command_goes_on(
    tmp_path: Path, online: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)  # its pauses between attempts
    one = online.served["dataset", PLAIN_DATA]
    last = max(READ - {"README.md"})
    one.lost.add(last)
    assert fetch("--task", PLAIN) == OfflineError.exit_code
    message = line(capsys)
    assert "run the same command again" in message
    assert last in message
    before = list(online.sent)
    assert here(tmp_path / "mirror" / "data" / PLAIN_DATA) == READ - {last}
    one.lost.clear()
    assert fetch("--task", PLAIN) == 0
    assert online.sent[len(before) :] == [f"{PLAIN_DATA}/{last}"]


def test_damaged_content_is_noticed_and_not_kept(
    tmp_path: Path, online: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    one = online.served["dataset", PLAIN_DATA]
    one.damaged.add(DOCUMENTS)
    assert fetch("--task", PLAIN) == DataError.exit_code
    assert f"{PLAIN_DATA}: {DOCUMENTS} came damaged" in line(capsys)
    assert DOCUMENTS not in here(tmp_path / "mirror" / "data" / PLAIN_DATA)
    one.damaged.clear()
    assert fetch("--task", PLAIN) == 0


def test_a_file_that_was_changed_since_is_fetched_anew(tmp_path: Path, online: Hub) -> None:
    assert fetch("--task", PLAIN) == 0
    path = tmp_path / "mirror" / "data" / PLAIN_DATA / DOCUMENTS
    content = path.read_bytes()
    path.write_bytes(b"mine")
    os.utime(path, (4e9, 4e9))
    before = len(online.sent)
    assert fetch("--task", PLAIN) == 0
    assert path.read_bytes() == content
    assert online.sent[before:] == [f"{PLAIN_DATA}/{DOCUMENTS}"]


def test_another_revision_than_the_pinned_one_is_never_taken(online: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    online.served["dataset", PLAIN_DATA].commit = "d" * 40
    assert fetch("--task", PLAIN) == DataError.exit_code
    assert f"{PLAIN_DATA}: the hub has no revision " in line(capsys)
    assert online.sent == []


def test_a_model_that_nobody_pins_is_fetched_at_one_commit(tmp_path: Path, online: Hub) -> None:
    add_model(online, tmp_path, "someone/own", {"config.json": "{}", "model.safetensors": "weights"})
    assert fetch("--model", "someone/own") == 0
    note = tmp_path / "mirror/models/someone/own/.cache/huggingface/download/model.safetensors.metadata"
    assert note.read_text().startswith("c" * 40)
    assert fetch("--model", f"someone/own@{'e' * 40}") == ModelError.exit_code


def test_code_comes_where_the_config_lets_it_run(tmp_path: Path, online: Hub) -> None:
    auto_map = {"AutoModelForSequenceClassification": "someone/code--modeling.Own"}
    files = {"config.json": json.dumps({"auto_map": auto_map}), "model.safetensors": "weights", "own.py": "1"}
    add_model(online, tmp_path, "someone/own", files)
    add_model(online, tmp_path, "someone/code", {"modeling.py": "2", "weights.bin": "3"}, "f" * 40)
    model = {"model": "someone/own", "revision": "c" * 40}
    for trust in (False, True):
        code = {"trust_remote_code": True, "code_revision": "f" * 40} if trust else {}
        config = {"tasks": ["Embedded"], "retriever": {"model": "bm25"}, "reranker": {**model, **code}}
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
        assert fetch("--config", "own.yaml") == 0
        expected = {"config.json", "model.safetensors", *(["own.py"] if trust else [])}
        assert here(tmp_path / "mirror" / "models" / "someone" / "own") == expected
        assert (tmp_path / "mirror" / "models" / "someone" / "code").exists() is trust
    assert here(tmp_path / "mirror" / "models" / "someone" / "code") == {"modeling.py"}


def test_a_disk_that_is_too_small_is_told_before_anything_large_is_fetched(
    online: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    online.served["dataset", PLAIN_DATA].sizes[DOCUMENTS] = 10**18
    assert fetch("--task", PLAIN) == StorageError.exit_code
    captured = capsys.readouterr()
    assert "1,000,000.0 TB" in captured.out
    assert len(captured.err.strip().splitlines()) == 1
    assert "to be fetched" in captured.err
    assert online.sent == [f"{PLAIN_DATA}/README.md"]


@pytest.mark.parametrize(("kind", "name", "code"), [("dataset", PLAIN_DATA, 3), ("model", RERANKER, 4)])
def test_a_gated_repository_names_page_and_login(
    online: Hub, capsys: pytest.CaptureFixture[str], kind: str, name: str, code: int
) -> None:
    online.served[kind, name].gated = True
    assert fetch("--task" if kind == "dataset" else "--model", PLAIN if kind == "dataset" else name) == code
    message = line(capsys)
    assert f"{name}: gated; accept its terms on {online.endpoint}/" in message
    assert "hf auth login" in message


def test_an_unknown_or_private_repository_names_the_login(online: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch("--model", "nobody/nothing") == ModelError.exit_code
    message = line(capsys)
    assert "the hub has no model of this name that you may read (HTTP 401)" in message
    assert "hf auth login" in message


def test_a_hub_out_of_reach_is_one_line(online: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    online.close()
    assert fetch("--task", PLAIN) == OfflineError.exit_code
    assert f"{PLAIN_DATA}: the hub cannot be reached" in line(capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", PLAIN, "--set", "top_k=3"], "--set changes a config"),
        (["--task", "SCIDOC"], "did you mean 'SCIDOCS'"),
        (["--model", "bm25"], "not a hub name"),
        (["--config", "gone.yaml"], "no such config file"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert fetch(*arguments) == ConfigError.exit_code
    assert words in line(capsys)


@pytest.mark.parametrize("arguments", [["--suite", "Embedded"], []])
def test_what_needs_no_hub_needs_no_fetch(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert fetch(*arguments) == 0
    assert "nothing to fetch" in capsys.readouterr().out


@pytest.mark.slow
def test_all_that_the_model_card_s_table_reads_is_found_in_what_was_fetched(tmp_path: Path, online: Hub) -> None:
    """Every task of the six suites, and the seven models, from one config."""
    tasks = {task.name: mteb.get_task(task.name) for task in resolve(CARD.base.tasks)}
    for name, task in tasks.items():
        repository = write_task(tmp_path / "all", build(resolve([name])[0]))
        shutil.rmtree(repository.folder / ".cache")
        online.served["dataset", task.metadata.dataset["path"]] = Served(repository.folder, repository.revision)
    models = {section.model: section for run in CARD.runs for section in (run.retriever, run.reranker) if section}
    commits = {name: one.revision or str(registered_revision(name)) for name, one in models.items()}
    assert len(commits) == 7
    for name, commit in commits.items():
        add_model(online, tmp_path, name, {"config.json": "{}", "model.safetensors": "weights", "own.py": ""}, commit)
    assert fetch("--config", str(CARD.path), "--data-root", "data", "--model-root", "models") == 0
    online.close()
    for task in tasks.values():
        mirror.find(task, tmp_path / "data")
    for name, one in models.items():
        found = resolve_model(name, one.revision, "reranker.model", tmp_path / "models")
        assert (found.origin, found.revision) == ("mirror", commits[name])
    assert not [name for name in online.sent if name.endswith(".py")]
