"""Folders that cannot be written, and disks that are full, are told before a run is begun."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rerank_eval.doctor.disk import check_folder
from rerank_eval.doctor.findings import Finding

REMEDY = "choose another with --set results_dir=DIR"
NOBODY = 65_534


def check(folder: Path, **settings: int) -> Finding:
    [finding] = check_folder("results_dir", folder, REMEDY, **{"comfort": 0, "floor": 0, **settings})
    return finding


def test_a_folder_that_is_not_there_yet_is_made_and_removed_again(tmp_path: Path) -> None:
    finding = check(tmp_path / "a" / "b")
    assert finding.level == "ok"
    assert "can be written" in finding.found
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("x")
    assert check(tmp_path).level == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_file_in_the_way_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    for folder in (tmp_path / "results", tmp_path / "results" / "inside"):
        finding = check(folder)
        assert finding.level == "failure"
        assert f"{folder} cannot be written" in finding.found
        assert finding.remedy == REMEDY
    assert (tmp_path / "results").read_text() == ""


@pytest.fixture
def another_user() -> Iterator[None]:
    """Go on as a user who may not write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.usefixtures("another_user")
@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs users as Unix has them")
def test_a_folder_without_the_right_to_write_is_a_failure() -> None:
    folder = Path("/") if os.access("/", os.X_OK) else Path(tempfile.gettempdir()).parent
    finding = check(folder / "results-of-nobody")
    assert finding.level == "failure"
    assert "Permission denied" in finding.found or "Read-only" in finding.found
    [finding] = check_folder("hub cache", folder / "results-of-nobody", REMEDY, needed=False)
    assert finding.level == "warning"


def test_too_little_room_is_a_failure_and_little_room_a_warning(tmp_path: Path) -> None:
    finding = check(tmp_path, floor=1 << 60)
    assert finding.level == "failure"
    assert "GiB free, and 1073741824.0 are the least" in finding.found
    assert REMEDY in finding.remedy
    assert check(tmp_path, comfort=1 << 60).level == "warning"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount")
def test_a_small_disk_is_a_failure_with_the_usual_floor(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        [finding] = check_folder("results_dir", folder, REMEDY)
        assert finding.level == "failure"
        assert "0.0 GiB free, and 1.0 are the least" in finding.found
        with suppress(OSError), (folder / "full").open("wb", buffering=0) as handle:
            while True:
                handle.write(b"x" * 4096)
        [finding] = check_folder("results_dir", folder, REMEDY)
        assert finding.level == "failure"
        assert "No space left on device" in finding.found
    finally:
        subprocess.run(["umount", str(folder)], check=True)
