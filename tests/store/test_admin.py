"""`rerank-eval store`: what people see of the store and do to it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rerank_eval.cli import _run
from rerank_eval.config.schema import StoreConfig
from rerank_eval.store import LOCK
from rerank_eval.store.cache import ScoreCache
from rerank_eval.store.cell import ScoreCacheCell
from rerank_eval.store.locks import locked
from tests.store.test_cell import TEXTS, scored

IDENTITY = {"model": "org/words", "dtype": "float32"}
CELL = {"task": "T", "subset": "default", "split": "test"}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A store with two tasks; one cell has its scores in three small shards."""
    cache = ScoreCache(tmp_path, "words", IDENTITY, StoreConfig(block_pairs=4))
    with cache.cell("T", "default", "test") as cell:
        for number in range(3):
            cell.add(scored(f"query {number}", TEXTS[:5]))
    with cache.cell("U", "a/b", "dev") as cell:
        cell.add(scored("other", TEXTS[:2]))
    return tmp_path


def store(*arguments: str, results: Path) -> int:
    return _run(["store", *arguments, "--results", str(results)])


def shards(results: Path) -> list[Path]:
    return sorted(results.glob("scores/*/*/*/*/*.parquet"))


def test_ls_says_what_is_there(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert store("ls", results=results) == 0
    printed = capsys.readouterr().out.split()
    digest = ScoreCache(results, "words", IDENTITY).digest
    row = printed.index(digest)
    assert printed[row : row + 6] == [digest, "words", "dtype=float32", "2", "4", "17"]
    assert store("ls", "nothing", results=results) == 2
    assert store("ls", results=results / "none") == 2
    assert "no scores are stored there" in capsys.readouterr().err


def test_verify_finds_the_one_altered_byte(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert store("verify", results=results) == 0
    assert "4 shard(s) with 17 pairs are sound" in capsys.readouterr().out
    path = shards(results)[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 8] ^= 1
    path.write_bytes(content)
    assert store("verify", results=results) == 3
    assert f"unsound: {path} " in capsys.readouterr().out


def test_gc_joins_shards_and_loses_no_score(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shards(results)[0].parent
    (folder / "000000-x.parquet.set-aside-1").write_bytes(b"old")
    again = scored("query 1", TEXTS[:5])
    owner = {"identity": ScoreCache(results, "words", IDENTITY).digest, **CELL}
    cell = ScoreCacheCell(folder, owner, computed_on=lambda: ["cpu (a processor)"])
    cell.add(again)
    cell.add(scored("query 3", TEXTS[:5]))
    cell.flush()
    before = len(shards(results))
    assert store("gc", "--dry-run", results=results) == 0
    assert len(shards(results)) == before
    with locked(folder.parent / LOCK):
        assert store("gc", results=results) == 0
    assert "in use, left alone" in capsys.readouterr().out
    assert store("gc", results=results) == 0
    assert [path.parent.parent.name for path in shards(results)] == ["T", "U"]
    assert not list(results.rglob("*.set-aside-*"))
    joined = ScoreCacheCell(folder, cell.owner)
    assert joined.pairs == 20
    assert joined.devices == {"cpu (a processor)"}
    for number in range(4):
        own = scored(f"query {number}", TEXTS[:5])
        assert joined.find(own.query, own.documents)[1].scores.tolist() == own.scores.scores.tolist()


def test_gc_takes_nothing_from_under_a_run(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A half-written shard is a run's own until it is renamed: without it the run would end in a traceback."""
    folder = shards(results)[0].parent
    half, aside = folder / ".000009-aa.parquet.77.tmp", folder / "000000-x.parquet.set-aside-1"
    for path in (half, aside):
        path.write_bytes(b"half")
    with locked(folder.parent / LOCK):
        assert store("gc", results=results) == 0
        assert half.exists()
        assert aside.exists()
    assert "in use, left alone" in capsys.readouterr().out
    assert store("gc", results=results) == 0
    assert not half.exists()
    assert not aside.exists()


def test_gc_drops_one_of_two_also_in_full_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [f"document {number}" for number in range(StoreConfig().block_pairs)]
    score_store = ScoreCache(tmp_path, "words", IDENTITY)
    with score_store.cell("T", "default", "test") as own:
        own.add(scored("query", documents))
    again = ScoreCacheCell(own.folder, own.owner)
    again.add(scored("query", documents))
    again.flush()
    assert store("gc", results=tmp_path) == 0
    assert store("verify", results=tmp_path) == 0
    assert f"1 shard(s) with {StoreConfig().block_pairs:,} pairs are sound" in capsys.readouterr().out


def test_gc_reads_names_that_a_person_gave(results: Path) -> None:
    first = shards(results)[0]
    for name in ("000000.parquet", "copy of 000000.parquet"):
        (first.parent / name).write_bytes(first.read_bytes())
    assert store("gc", results=results) == 0


def test_verify_finds_a_shard_that_was_moved(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run would set it aside: it is no shard of this cell."""
    first, last = shards(results)[0], shards(results)[-1]
    moved = last.with_name(first.name)
    first.rename(moved)
    assert store("verify", results=results) == 3
    assert f"unsound: {moved} belongs to another task or subset" in capsys.readouterr().out
    assert store("gc", results=results) == 0
    assert moved.exists()


def test_gc_leaves_an_unsound_shard_alone(results: Path) -> None:
    path = shards(results)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 8] ^= 1
    path.write_bytes(content)
    assert store("gc", results=results) == 0
    assert path.read_bytes() == content


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_export_holds_every_pair(results: Path, suffix: str) -> None:
    output = results / f"all{suffix}"
    assert store("export", "--output", str(output), results=results) == 0
    frame = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    assert len(frame) == 17
    assert set(zip(frame["task"], frame["subset"], frame["split"], strict=True)) == {
        ("T", "default", "test"),
        ("U", "a/b", "dev"),
    }
    own = frame[frame["query_id"] == "id of query 2"]
    assert np.array_equal(own["score"], scored("query 2", TEXTS[:5]).scores.scores)
    assert store("export", "--output", str(results / "all.xlsx"), results=results) == 2


def test_an_export_that_cannot_be_written_is_one_line(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert store("export", "--output", os.fspath(results / "scores" / "words" / "x" / "y.csv"), results=results) == 0
    (results / "file").write_text("")
    assert store("export", "--output", str(results / "file" / "y.csv"), results=results) == 6
    assert capsys.readouterr().err.count("\n") == 1
