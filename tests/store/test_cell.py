"""The score cache's cells: what was added is found again, whatever happened to the files in between."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_eval.config.schema import StoreConfig
from rerank_eval.engine.interface import Scores
from rerank_eval.errors import StorageError
from rerank_eval.store.cell import ScoreCacheCell
from rerank_eval.store.shards import ScoredQuery, ShardError, document_digest, query_digest, read_owner, read_shard

OWNER = {"identity": "abc", "task": "T", "subset": "default", "split": "test"}
TEXTS = [f"document number {n}" for n in range(40)]


def scored(query: str, documents: list[str], instruction: str | None = None, offset: float = 0.0) -> ScoredQuery:
    count = len(documents)
    values = np.array([offset + len(query) + 0.125 * len(text) + 1e-9 * n for n, text in enumerate(documents)])
    return ScoredQuery(
        f"id of {query}",
        [f"d{n}" for n in range(count)],
        query_digest(query, instruction),
        [document_digest(text) for text in documents],
        Scores(values, -values, np.arange(count) % 2 == 0, np.zeros(count, bool), np.arange(count) + 7),
    )


def add_and_flush(folder: Path, *queries: ScoredQuery) -> ScoreCacheCell:
    cell = ScoreCacheCell(folder, OWNER)
    for one in queries:
        cell.add(one)
    cell.flush()
    return cell


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def test_what_was_added_is_found_by_another_process(tmp_path: Path) -> None:
    first = scored("wrench", TEXTS[:5])
    add_and_flush(tmp_path, first, scored("vise", TEXTS[3:9]))
    found, known = ScoreCacheCell(tmp_path, OWNER).find(first.query, [document_digest(TEXTS[n]) for n in (4, 30, 0)])
    assert found.tolist() == [True, False, True]
    assert known.scores[[0, 2]].tolist() == first.scores.scores[[4, 0]].tolist()
    assert known.margins[[0, 2]].tolist() == first.scores.margins[[4, 0]].tolist()
    assert known.truncated.tolist() == [True, False, True]
    assert known.tokens.tolist() == [11, 0, 7]


def test_texts_are_the_key_and_ids_are_not(tmp_path: Path) -> None:
    own = scored("wrench", TEXTS[:2], instruction="find tools")
    cell = add_and_flush(tmp_path, own)
    for query, instruction in (("wrench", None), ("wrench", ""), ("Wrench", "find tools"), ("wrench", "find")):
        assert not cell.find(query_digest(query, instruction), own.documents)[0].any()
    assert not cell.find(own.query, [document_digest(TEXTS[0] + " ")])[0].any()
    assert cell.find(query_digest("wrench", "find tools"), own.documents)[0].all()


def test_instruction_and_query_do_not_run_into_each_other() -> None:
    assert query_digest("b", "a") != query_digest("ab", "") != query_digest("ab", None)


def test_the_same_text_twice_in_a_list_is_found_twice(tmp_path: Path) -> None:
    own = scored("wrench", TEXTS[:2])
    _, known = add_and_flush(tmp_path, own).find(own.query, [own.documents[1], own.documents[1]])
    assert known.scores.tolist() == [own.scores.scores[1]] * 2


@given(
    st.lists(
        st.tuples(st.text(max_size=6), st.lists(st.sampled_from(TEXTS), min_size=1, max_size=6, unique=True)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 9),
)
@settings(max_examples=25, deadline=None)
def test_any_block_size_gives_back_what_was_put_in(
    tmp_path_factory: pytest.TempPathFactory, groups: list[tuple[str, list[str]]], pairs: int
) -> None:
    folder = tmp_path_factory.mktemp("cell")
    cell = ScoreCacheCell(folder, OWNER, StoreConfig(block_pairs=pairs))
    expected: dict[tuple[bytes, bytes], float] = {}
    for query, documents in groups:
        one = scored(query, documents)
        cell.add(one)
        for digest, score in zip(one.documents, one.scores.scores, strict=True):
            expected.setdefault((one.query, digest), score)
    cell.flush()
    again = ScoreCacheCell(folder, OWNER)
    assert again.pairs == sum(len(documents) for _, documents in groups)
    for opened in (cell, again):
        for (query, digest), score in expected.items():
            found, known = opened.find(query, [digest])
            assert found.tolist() == [True]
            assert known.scores[0] == pytest.approx(score)


def test_a_block_is_written_when_full_and_when_old(tmp_path: Path) -> None:
    cell = ScoreCacheCell(tmp_path / "full", OWNER, StoreConfig(block_pairs=4, block_seconds=1e9))
    cell.add(scored("a", TEXTS[:3]))
    assert not shards(tmp_path / "full")
    cell.add(scored("b", TEXTS[:3]))
    assert [read_owner(path)["rows"] for path in shards(tmp_path / "full")] == [6]
    old = ScoreCacheCell(tmp_path / "old", OWNER, StoreConfig(block_pairs=10**9, block_seconds=0.0))
    old.add(scored("a", TEXTS[:1]))
    assert len(shards(tmp_path / "old")) == 1


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_shard_is_set_aside_and_the_others_stay(
    tmp_path: Path, cut: float, caplog: pytest.LogCaptureFixture
) -> None:
    torn, sound = scored("torn", TEXTS[:6]), scored("sound", TEXTS[:6])
    add_and_flush(tmp_path, torn)
    add_and_flush(tmp_path, sound)
    path = shards(tmp_path)[0]
    os.truncate(path, int(path.stat().st_size * cut))
    with caplog.at_level(logging.WARNING):
        cell = ScoreCacheCell(tmp_path, OWNER)
        assert not cell.find(torn.query, torn.documents)[0].any()
        assert cell.find(sound.query, sound.documents)[0].all()
    assert f"kept as {path.name}.set-aside-1, its pairs are scored again" in caplog.text
    assert (cell.pairs, len(shards(tmp_path))) == (6, 1)
    add_and_flush(tmp_path, torn)
    _, known = ScoreCacheCell(tmp_path, OWNER).find(torn.query, torn.documents)
    assert known.scores.tolist() == torn.scores.scores.tolist()


def test_every_single_altered_byte_is_noticed(tmp_path: Path) -> None:
    """Whoever reads scores notices any change; whoever only reads whose they are, any that matters to that."""
    own = scored("wrench", TEXTS[:6])
    add_and_flush(tmp_path, own)
    [path] = shards(tmp_path)
    whole = path.read_bytes()
    facts = read_owner(path)
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(ShardError):
            read_shard(path)
        with suppress(ShardError):
            assert read_owner(path) == facts


def test_a_foreign_shard_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = scored("wrench", TEXTS[:3])
    add_and_flush(tmp_path / "other", own)
    (tmp_path / "here").mkdir()
    shards(tmp_path / "other")[0].rename(tmp_path / "here" / "000000-foreign.parquet")
    (tmp_path / "here" / "000001-text.parquet").write_text("not parquet at all")
    pq.write_table(pq.read_table(tmp_path / "here" / "000000-foreign.parquet"), tmp_path / "here" / "2-bare.parquet")
    with caplog.at_level(logging.WARNING):
        cell = ScoreCacheCell(tmp_path / "here", {**OWNER, "split": "dev"})
    assert cell.pairs == 0
    assert not cell.find(own.query, own.documents)[0].any()
    assert "000000-foreign.parquet belongs to something else" in caplog.text
    assert "000001-text.parquet is torn or no shard" in caplog.text
    assert len(list((tmp_path / "here").glob("*.set-aside-1"))) == 2 + 1


def test_a_killed_writers_temporary_file_goes(tmp_path: Path) -> None:
    (tmp_path / ".000000-aa.parquet.123.tmp").write_bytes(b"half")
    ScoreCacheCell(tmp_path, OWNER)
    assert not list(tmp_path.iterdir())


def test_nothing_is_lost_by_a_disk_that_fills_and_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = scored("wrench", TEXTS[:3])
    blocker = tmp_path / "cell"
    blocker.write_text("a file where the folder should be")
    cell = ScoreCacheCell(blocker, OWNER)
    cell.add(own)
    with pytest.raises(StorageError):
        cell.flush()
    blocker.unlink()
    cell.flush()
    assert ScoreCacheCell(blocker, OWNER).find(own.query, own.documents)[0].all()


def test_nothing_is_written_once_the_lock_is_anothers(tmp_path: Path) -> None:
    def lost() -> None:
        raise StorageError("another process has taken this work over")

    cell = ScoreCacheCell(tmp_path, OWNER, StoreConfig(block_pairs=4), check=lost)
    with pytest.raises(StorageError, match="taken this work over"):
        cell.add(scored("wrench", TEXTS[:5]))
    assert not list(tmp_path.iterdir())


def test_duckdb_and_plain_pyarrow_read_it(tmp_path: Path) -> None:
    own = scored("wrench", TEXTS[:3])
    add_and_flush(tmp_path, own)
    rows = duckdb.read_parquet(f"{tmp_path}/*.parquet").project("doc_id, score").order("doc_id").fetchall()
    assert rows == list(zip(own.doc_ids, own.scores.scores.tolist(), strict=True))
    assert pq.read_table(shards(tmp_path)[0]).num_rows == 3


def test_ids_that_are_no_utf8_are_kept(tmp_path: Path) -> None:
    odd = scored("odd \ud800 query", ["lone \udfff surrogate"])
    cell = add_and_flush(tmp_path, odd)
    assert cell.find(odd.query, odd.documents)[0].all()


def test_a_pipe_among_shards_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "000000-00000000.parquet")
    with caplog.at_level(logging.WARNING):
        assert ScoreCacheCell(tmp_path, OWNER).pairs == 0
    assert "000000-00000000.parquet is torn or no shard" in caplog.text
    with pytest.raises(ShardError):
        read_shard(next(tmp_path.glob("*.set-aside-1")))
