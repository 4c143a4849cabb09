from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from rerank_eval.errors import ConfigError, StorageError
from rerank_eval.files import at_home, atomic_path, load_json, storage_error, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError, match="half way"), atomic_path(path) as temporary:
        temporary.write_text("{", encoding="utf-8")
        raise RuntimeError("half way")
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?i)nan"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_a_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        write_json(tmp_path / "results" / "a.json", {})


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no space left"), (errno.EROFS, "cannot be written"), (errno.EACCES, "results_dir")],
)
def test_operating_system_errors_are_translated(number: int, words: str) -> None:
    assert words in str(storage_error(OSError(number, "x"), Path("results")))
    assert storage_error(OSError(errno.EIO, "x"), Path("results")) is None


def test_a_user_that_is_not_there_has_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home("~/results") == tmp_path / "results"
    with pytest.raises(ConfigError, match="~nosuchuser/results: there is no such user's home"):
        at_home("~nosuchuser/results")


def test_what_has_no_end_is_no_json(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "zero.json"):
        with pytest.raises(ValueError, match="not a file"):
            load_json(tmp_path / name)
    with pytest.raises(OSError, match="directory"):
        load_json(tmp_path)
