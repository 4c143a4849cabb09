"""Embeddings on disk: reused, continued, never trusted when torn, and flat in memory."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from rerank_eval.errors import StorageError
from rerank_eval.retrievers import embedding_store as module
from rerank_eval.retrievers.embedding_store import Embed, EmbeddingStore, TemporaryStore, texts_digest

DIM = 8
IDENTITY = {"name": "org/model", "revision": "1"}


class Listed:
    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def block(self, start: int, stop: int) -> list[str]:
        return self.texts[start:stop]


class Lengths:
    """Vectors that depend on the text; counts calls, and stops at the one that it is told to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.calls = 0
        self.stop_at = stop_at

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        seeds = [np.frombuffer(text.encode().ljust(DIM)[:DIM], dtype=np.uint8) for text in texts]
        return np.array(seeds, dtype=np.float32).reshape(len(texts), DIM)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 10)


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "embeddings")


def texts(count: int = 47) -> Listed:
    return Listed([f"text {number}" for number in range(count)])


def blockwise(embed: Callable[[Sequence[str]], np.ndarray]) -> Embed:
    return lambda blocks: map(embed, blocks)


def ask(store: EmbeddingStore, embed: Lengths, wanted: Listed | None = None, **changes: str) -> np.ndarray:
    told: list[int] = []
    wanted = texts() if wanted is None else wanted
    identity = {**IDENTITY, **changes}
    found = store.vectors("model", identity, wanted, dim=DIM, embed=blockwise(embed), advance=told.append)
    assert sum(told) == len(wanted)
    assert found.shape == (len(wanted), DIM)
    return found[0 : len(wanted)]


def only_folder(store: EmbeddingStore) -> Path:
    (folder,) = (store.folder / "model").iterdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_second_run_embeds_nothing(store: EmbeddingStore) -> None:
    first, second = Lengths(), Lengths()
    made = ask(store, first)
    assert np.array_equal(made, Lengths()(texts().texts))
    assert np.array_equal(ask(EmbeddingStore(store.folder), second), made)
    assert (first.calls, second.calls) == (5, 0)
    assert names(only_folder(store)) == ["embeddings.npy", "manifest.json"]
    assert np.array_equal(np.load(only_folder(store) / "embeddings.npy"), made)


@pytest.mark.parametrize("change", ["model", "text", "order", "boundary", "fewer"])
def test_another_model_or_other_texts_get_a_file_of_their_own(store: EmbeddingStore, change: str) -> None:
    ask(store, Lengths())
    other = texts()
    if change == "text":
        other.texts[3] = "another"
    elif change == "order":
        other.texts[3], other.texts[4] = other.texts[4], other.texts[3]
    elif change == "boundary":
        other.texts[3], other.texts[4] = "text 3t", "ext 4"
    elif change == "fewer":
        other.texts.pop()
    again = Lengths()
    ask(store, again, other, **({"revision": "2"} if change == "model" else {}))
    assert again.calls == 5
    assert len(list((store.folder / "model").iterdir())) == 2


def test_an_interrupted_run_continues_at_the_last_whole_block(store: EmbeddingStore, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(store, Lengths(stop_at=4))
    assert names(only_folder(store)) == ["embeddings.npy.partial", "progress.json"]
    rest = Lengths()
    ask(store, rest)
    assert rest.calls == 2
    at_once = EmbeddingStore(tmp_path / "other")
    ask(at_once, Lengths())
    for name in ("embeddings.npy", "manifest.json"):
        assert (only_folder(store) / name).read_bytes() == (only_folder(at_once) / name).read_bytes()


def test_who_lost_its_lock_writes_no_more(store: EmbeddingStore) -> None:
    """Another process took the work over while this one slept: it may be at the very same file, or done with it."""

    class Robbed(Lengths):
        def __call__(self, texts: Sequence[str]) -> np.ndarray:
            if self.calls == 2:
                lock = only_folder(store) / ".lock"
                lock.write_text(lock.read_text().replace("token=", "token=0"))
            return super().__call__(texts)

    robbed = Robbed()
    with pytest.raises(StorageError, match="taken this work over"):
        ask(store, robbed)
    assert robbed.calls == 3
    (only_folder(store) / ".lock").unlink(missing_ok=True)
    rest = Lengths()
    ask(store, rest)
    assert rest.calls == 3


def test_killed_between_manifest_and_renaming(store: EmbeddingStore) -> None:
    made = ask(store, Lengths())
    folder = only_folder(store)
    (folder / "embeddings.npy").rename(folder / "embeddings.npy.partial")
    again = Lengths()
    assert np.array_equal(ask(store, again), made)
    assert again.calls == 0


def test_a_torn_block_is_embedded_again(store: EmbeddingStore, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(store, Lengths(stop_at=5))
    partial = only_folder(store) / "embeddings.npy.partial"
    rows = np.load(partial, mmap_mode="r+")
    rows[25] = 0
    rows.flush()
    rest = Lengths()
    with caplog.at_level(logging.WARNING):
        made = ask(store, rest)
    assert "block 2 is torn" in caplog.text
    assert rest.calls == 3
    assert np.array_equal(made, Lengths()(texts().texts))


@pytest.mark.parametrize("damage", ["zeroed", "cut", "empty", "text", "other shape", "no manifest", "bad manifest"])
def test_a_torn_or_foreign_file_is_set_aside_and_made_again(
    store: EmbeddingStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = ask(store, Lengths())
    folder = only_folder(store)
    final, manifest = folder / "embeddings.npy", folder / "manifest.json"
    if damage == "zeroed":
        rows = np.load(final, mmap_mode="r+")
        rows[40:] = 0
        rows.flush()
    elif damage == "cut":
        final.write_bytes(final.read_bytes()[:-7])
    elif damage == "empty":
        final.write_bytes(b"")
    elif damage == "text":
        final.write_text("not ours")
    elif damage == "other shape":
        np.save(final, made[:, :3])
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "checksums": ["x"]}))
    kept = final.read_bytes()
    again = Lengths()
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(ask(store, again), made)
    assert again.calls == 5
    assert "kept as embeddings.npy.set-aside-1" in caplog.text
    assert (folder / "embeddings.npy.set-aside-1").read_bytes() == kept
    third = Lengths()
    ask(store, third)
    assert third.calls == 0


def test_a_partial_file_without_its_note_is_not_trusted(store: EmbeddingStore) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(store, Lengths(stop_at=4))
    (only_folder(store) / "progress.json").write_text("{")
    again = Lengths()
    assert np.array_equal(ask(store, again), Lengths()(texts().texts))
    assert again.calls == 5


def test_two_runs_at_once_embed_once(store: EmbeddingStore) -> None:
    started, embed = threading.Event(), Lengths()

    def slow(block: Sequence[str]) -> np.ndarray:
        started.set()
        return embed(block)

    first = threading.Thread(target=lambda: store.vectors("model", IDENTITY, texts(), dim=DIM, embed=blockwise(slow)))
    first.start()
    assert started.wait(10)
    second = Lengths()
    made = ask(EmbeddingStore(store.folder), second)
    first.join()
    assert (embed.calls, second.calls) == (5, 0)
    assert np.array_equal(made, Lengths()(texts().texts))


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "embeddings").write_text("a file")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        ask(EmbeddingStore(tmp_path / "embeddings"), Lengths())


def test_a_full_disk_is_told_before_anything_is_embedded(store: EmbeddingStore, monkeypatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "posix_fallocate", full, raising=False)
    embed = Lengths()
    with pytest.raises(StorageError, match="no space left"):
        ask(store, embed)
    assert embed.calls == 0
    assert not (only_folder(store) / "embeddings.npy.partial").exists()


def test_names_from_outside_stay_in_the_folder(store: EmbeddingStore) -> None:
    store.vectors("../../evil/model", IDENTITY, texts(3), dim=DIM, embed=blockwise(Lengths()))
    assert not list(store.folder.parent.parent.glob("evil*"))
    assert len(list(store.folder.iterdir())) == 1


def test_no_texts_need_no_file(store: EmbeddingStore) -> None:
    assert ask(store, Lengths(), Listed([])).shape == (0, DIM)
    assert not store.folder.exists()


def test_a_temporary_store_leaves_nothing() -> None:
    store = TemporaryStore()
    ask(store, Lengths())
    folder = store.folder
    assert folder.exists()
    del store
    assert not folder.exists()


def test_the_digest_knows_where_a_text_ends_and_takes_any_text() -> None:
    assert texts_digest(Listed(["ab", "c"])) != texts_digest(Listed(["a", "bc"]))
    assert len(texts_digest(Listed(["\ud800"]))) == 32


PEAK = """
import resource, sys
from pathlib import Path
import numpy as np
from rerank_eval.engine.topk import top_k
from rerank_eval.retrievers.embedding_store import EmbeddingStore

class Made:
    def __init__(self, rows):
        self.rows = rows
    def __len__(self):
        return self.rows
    def block(self, start, stop):
        return [f"text {number}" for number in range(start, stop)]

def embed(texts):
    return np.random.default_rng(len(texts[0])).random((len(texts), 64), dtype=np.float32)

for rows in sys.argv[2:]:
    for _ in range(2):  # made, then checked and reused
        store = EmbeddingStore(Path(sys.argv[1], rows))
        vectors = store.vectors("m", {}, Made(int(rows)), dim=64, embed=lambda blocks: map(embed, blocks))
        top_k(embed(["query"] * 200), vectors, 100)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("sizes", [(20_000, 200_000), pytest.param((200_000, 2_000_000), marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, sizes: tuple[int, int]) -> None:
    """The larger file is 51 MB, in the slow test 512 MB."""
    command = [sys.executable, "-c", PEAK, str(tmp_path), *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())
    assert large - small < 24
