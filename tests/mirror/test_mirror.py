"""The mirror is whole and of the pinned revision, or the run ends in one line before any model loads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import mteb
import pytest

from rerank_eval.cli import _run
from rerank_eval.errors import DataError
from rerank_eval.tasks import mirror, prepare
from rerank_eval.typed import command
from tests.mirror.hub_layout import Repository
from tests.mirror.miniatures import write_mirror, write_task
from tests.mirror.runs import manifests, write_config

TASK, NAME = "ArguAna", "mteb/arguana"
DOCUMENTS = "corpus/test-00000-of-00001.parquet"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(mirror, "_usual_cache", lambda: tmp_path / "cache")
    return write_mirror(tmp_path / "mirror", [TASK])


def task(name: str = TASK) -> Any:
    return mteb.get_task(name)


def note(root: Path, file: str) -> Path:
    return root / NAME / ".cache" / "huggingface" / "download" / f"{file}.metadata"


def documents(root: Path) -> list[str]:
    loaded = task()
    prepare.load(loaded, root)
    [(_, _, data)] = list(prepare.cells(loaded))
    return list(data["corpus"]["text"])


def test_a_task_reads_its_folder_and_its_class_keeps_the_hub_s_name(root: Path) -> None:
    read = task()
    prepare.load(read, root)
    assert read.mirror.dataset == type(read).metadata.dataset["path"] == NAME
    assert read.mirror.commit == read.metadata.dataset["revision"]
    assert read.metadata.dataset["path"] == str(root / NAME)


def test_the_same_data_has_one_identity_wherever_it_is_read(root: Path) -> None:
    read = task()
    before = prepare.fingerprint(read)
    prepare.load(read, root)
    assert prepare.fingerprint(read) == prepare.fingerprint(task()) == before


def _no_folder(root: Path) -> None:
    shutil.rmtree(root / NAME)


def _no_card(root: Path) -> None:
    (root / NAME / "README.md").unlink()


def _no_configs(root: Path) -> None:
    (root / NAME / "README.md").write_text("no front matter")


def _no_queries(root: Path) -> None:
    card = root / NAME / "README.md"
    card.write_text(card.read_text().replace("config_name: queries", "config_name: other"))


def _no_documents(root: Path) -> None:
    (root / NAME / DOCUMENTS).unlink()


def _other_commit(root: Path) -> None:
    note(root, DOCUMENTS).write_text(note(root, DOCUMENTS).read_text().replace("c22ab2a5", "00000000"))


def _no_note(root: Path) -> None:
    note(root, DOCUMENTS).unlink()


def _changed(root: Path) -> None:
    shutil.copy(root / NAME / "queries" / "test-00000-of-00001.parquet", root / NAME / DOCUMENTS)
    os.utime(root / NAME / DOCUMENTS, (4e9, 4e9))


def _no_shard(root: Path) -> None:
    card = root / NAME / "README.md"
    card.write_text(card.read_text().replace(DOCUMENTS, "corpus/test-*"))
    for path in (root / NAME / DOCUMENTS, note(root, DOCUMENTS)):
        path.rename(path.with_name(path.name.replace("of-00001", "of-00002")))


def _outside(root: Path) -> None:
    card = root / NAME / "README.md"
    card.write_text(card.read_text().replace(DOCUMENTS, "../../secrets/*"))


def _torn_card(root: Path) -> None:
    (root / NAME / "README.md").write_text("---\nconfigs: [\n---\n")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_no_folder, "no such folder"),
        (_no_card, "README.md is missing"),
        (_no_configs, "has no README.md whose front matter names configurations"),
        (_no_queries, "has no configuration 'queries' or 'query' in README.md"),
        (_no_documents, f"{DOCUMENTS} is missing"),
        (_other_commit, f"{DOCUMENTS} is of commit 00000000.*, the pinned revision is c22ab2a5"),
        (_no_note, f"{DOCUMENTS} has no note of its commit"),
        (_changed, f"{DOCUMENTS} was changed after its download"),
        (_no_shard, "only 1 of the 2 files corpus/test-\\*-of-00002.parquet are there"),
        (_outside, "which is outside of it"),
        (_torn_card, "README.md cannot be read"),
    ],
)
def test_what_is_missing_is_one_line_with_its_remedy(root: Path, harm: Callable[[Path], None], words: str) -> None:
    harm(root)
    with pytest.raises(DataError, match=words) as caught:
        mirror.find(task(), root)
    message = str(caught.value)
    assert message.startswith(f"data_root: {root / NAME}: ")
    assert f"`{command('fetch', '--task', TASK, '--data-root', root)}`" in message
    assert "\n" not in message


def test_followir_without_its_changed_judgements_is_refused_before_the_night_s_work(tmp_path: Path) -> None:
    built = task("Core17InstructionRetrieval")
    folder = write_task(tmp_path, built).folder
    assert mirror.find(built, tmp_path).path == folder
    (folder / "qrel_diff" / "qrel_diff-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"qrel_diff-00000-of-00001\.parquet is missing"):
        mirror.find(built, tmp_path)


@pytest.mark.parametrize("name", ["CodeSearchNetCCRetrieval", "CodeEditSearchRetrieval"])
def test_a_v1_task_s_own_layout_is_checked(tmp_path: Path, name: str) -> None:
    built = task(name)
    folder = write_task(tmp_path, built).folder
    mirror.find(built, tmp_path)
    shutil.rmtree(next(path for path in folder.iterdir() if path.name.startswith("ruby")))
    with pytest.raises(DataError, match="ruby"):
        mirror.find(built, tmp_path)


def test_a_copy_of_the_mirror_without_its_times_is_checked_by_content(root: Path) -> None:
    for path in (root / NAME).rglob("*.parquet"):
        os.utime(path, (4e9, 4e9))
    assert mirror.find(task(), root).commit == task().metadata.dataset["revision"]


def test_other_files_of_the_repository_are_nobody_s_business(root: Path) -> None:
    (root / NAME / "queries" / "train-00000-of-00001.parquet").write_bytes(b"of another day")
    (root / NAME / "notes.txt").write_text("mine")
    assert mirror.find(task(), root).commit == task().metadata.dataset["revision"]


def test_a_mirror_that_changes_is_read_anew(root: Path) -> None:
    """Even where a file's path and time stay, by which alone `datasets` knows it in its cache."""
    before = documents(root)
    path = root / NAME / DOCUMENTS
    stat = path.stat()
    repository = Repository(root / NAME, task().metadata.dataset["revision"])
    rows = [{"_id": f"doc{number}", "title": "", "text": f"another text {number}"} for number in range(len(before))]
    repository.write(DOCUMENTS, rows)
    repository.note_downloads()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert documents(root) == [row["text"] for row in rows] != before


def test_a_missing_data_set_ends_the_run_before_a_model_is_loaded(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr("rerank_eval.pipeline.run.load_backend", lambda *_: loaded.append("a model"))
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, root, [TASK, "SCIDOCS"])
    assert _run(["eval", "--config", str(config)]) == DataError.exit_code
    error = capsys.readouterr().err
    assert "mteb/scidocs (no such folder; SCIDOCS reads it)" in error
    assert f"`{command('fetch', '--config', config, '--data-root', root)}`" in error
    assert loaded == []


def test_a_result_does_not_depend_on_where_its_data_stood(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first = write_config(tmp_path, root, [TASK], reranker=None)
    assert _run(["eval", "--config", str(first)]) == 0
    manifest = manifests(tmp_path, "retriever")[TASK]
    assert "data_root" not in manifest["config"]
    assert manifest["inputs"]["data"] == prepare.fingerprint(task())
    shutil.copytree(root, tmp_path / "elsewhere")
    second = write_config(tmp_path, tmp_path / "elsewhere", [TASK], reranker=None)
    capsys.readouterr()
    assert _run(["eval", "--config", str(second)]) == 0
    assert "computed 0, done before 1" in capsys.readouterr().out
