"""The manifest: one reader and one writer, and what the last release wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rerank_eval.errors import DataError
from rerank_eval.results.manifest import Manifest, file_digest
from rerank_eval.results.records import load_manifests

RELEASED = Path(__file__).with_name("release-0.1.0.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A result's folder with the manifest of the last release."""
    place = tmp_path / "runs" / "Model" / "0123456789ab" / "Task"
    place.mkdir(parents=True)
    shutil.copy(RELEASED, place / "manifest.json")
    return place


def altered(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_last_release_s_is_read_whole(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert manifest.sealed
    assert (manifest.row.kind, manifest.task.main_score) == ("reranker", "p-MRR")
    assert manifest.scores.metric("ndcg_at_10") == pytest.approx(0.7132265864029333, abs=0)
    assert manifest.scores.unrounded("p-MRR") == manifest.scores.metric("p_mrr")
    assert manifest.settings["model"] == "rerank-eval/qwen3-python"
    assert manifest.environment.computed_on
    assert load_manifests(folder.parents[3])[0].identity == "96909538c0a7"


def test_reading_and_writing_keeps_every_byte_but_the_files_and_the_seal(folder: Path) -> None:
    before = folder.joinpath("manifest.json").read_text()
    (folder / "scores.parquet").write_bytes(b"scores")
    manifest = Manifest.read(folder)
    manifest.write(folder)
    again = Manifest.read(folder)
    assert again.sealed
    assert again.files == {"scores.parquet": file_digest(folder / "scores.parquet")}
    first, second = (json.loads(text) for text in (before, folder.joinpath("manifest.json").read_text()))
    for one in (first, second):
        del one["files"], one["seal"]
    assert json.dumps(first) == json.dumps(second)  # 80 stays 80 and 80.0 stays 80.0


def test_keys_of_a_later_release_are_kept(folder: Path) -> None:
    altered(folder, later={"key": 1})
    manifest = Manifest.read(folder)
    assert not manifest.sealed  # somebody wrote into the file
    manifest.write(folder)
    assert json.loads((folder / "manifest.json").read_text())["later"] == {"key": 1}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema": 2}, "schema 2; this release reads 1, finished"),
        ({"complete": False}, "schema 1; this release reads 1, finished"),
        ({"row": {"kind": "reranker", "label": 3, "detail": ""}}, "row.label: Input should be a valid string"),
        ({"scores": {}}, "scores.main: Field required"),
        ({"files": ["scores.parquet"]}, "files: Input should be a valid dictionary"),
    ],
)
def test_what_is_no_manifest_is_named(
    folder: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], problem: str
) -> None:
    altered(folder, **changes)
    with pytest.raises(DataError, match=problem) as caught:
        Manifest.read(folder)
    assert str(folder / "manifest.json") in str(caught.value)
    assert Manifest.find(folder) is None
    assert load_manifests(folder.parents[3]) == []
    assert problem in caplog.text


def test_a_torn_file_is_named(folder: Path) -> None:
    (folder / "manifest.json").write_text(RELEASED.read_text()[:400])
    with pytest.raises(DataError, match="is no JSON"):
        Manifest.read(folder)
