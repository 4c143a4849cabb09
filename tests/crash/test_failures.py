"""What is not a kill: signals, full and read-only disks, a device without memory, two processes at once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rerank_eval.cli import _run
from rerank_eval.engine.interface import QueryGroup, Scores
from rerank_eval.errors import DeviceError, ModelError
from rerank_eval.rerankers.cross_encoder import CrossEncoder
from rerank_eval.store.cache import ScoreCache
from tests import processes
from tests.crash.kills import stored_pairs
from tests.models.test_reranker import WordOverlap, policy
from tests.models.test_retriever import meta
from tests.pipeline.folders import configs_with_random_weights, write_beir_folder
from tests.pipeline.test_end_to_end import fingerprint


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the configs and a task of 400 queries."""
    configs_with_random_weights(tmp_path)
    write_beir_folder(tmp_path / "data" / "tools", queries=400)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(results: Path | str = "results", *settings: str) -> list[str]:
    chosen = (
        "retriever.model=bm25",
        "retriever.top_k=20",
        "store.block_pairs=256",
        f"results_dir={results}",
        *settings,
    )
    whole = ["eval", "--config", "configs/base.yaml", "--task", "data/tools"]
    return [*whole, *(part for one in chosen for part in ("--set", one))]


def finished(results: Path | str = "results", *settings: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own."""
    return processes.run(command(results, *settings))


def until_stored(process: processes.Forked, results: Path, pairs: int = 1) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.returncode is None and sum(stored_pairs(results).values()) < pairs:
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code"), [("term", 143), ("twice", 130)])
def test_a_signal_keeps_what_was_scored(project: Path, kind: str, code: int) -> None:
    results = project / "results"
    with processes.start(command()) as process:
        until_stored(process, results, pairs=512)
        process.send_signal(signal.SIGTERM if kind == "term" else signal.SIGINT)
        if kind == "twice":
            time.sleep(random.Random(3).uniform(0.0, 0.2))
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "interrupted: what was scored is kept" in err or kind == "twice"
    assert "Traceback" not in out + err
    kept = sum(stored_pairs(results).values())
    assert 512 <= kept < 400 * 20
    done = finished()
    assert done.returncode == 0, done.stderr
    pairs = stored_pairs(results)
    assert max(pairs.values()) == 1
    assert sum(pairs.values()) == 400 * 20
    assert "Traceback" not in done.stderr
    assert _run(command("other")) == 0
    assert fingerprint(results) == fingerprint(project / "other")


@pytest.mark.slow
def test_a_disk_that_fills_in_mid_run_keeps_every_whole_block(project: Path) -> None:
    small = project / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        assert finished(small, "reranker=null").returncode == 0
        room = (shutil.disk_usage(small).used + 150_000) // 1024
        subprocess.run(["mount", "-o", f"remount,size={room}k", str(small)], check=True)
        done = finished(small)
        assert done.returncode == 6, done.stderr
        assert "no space left on the disk" in done.stderr
        assert "Traceback" not in done.stderr
        kept = stored_pairs(small)
        assert 256 <= sum(kept.values()) < 400 * 20
        subprocess.run(["mount", "-o", "remount,size=40m", str(small)], check=True)
        again = finished(small)
        assert again.returncode == 0, again.stderr
        assert max(stored_pairs(small).values()) == 1
        assert _run(command("other")) == 0
        assert fingerprint(small) == fingerprint(project / "other")
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        shown = finished(small)
        assert shown.returncode == 6
        assert "cannot be written" in shown.stderr
        assert "Traceback" not in shown.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_two_processes_on_one_folder_share_the_work(project: Path) -> None:
    write_beir_folder(project / "data" / "tools", queries=60)
    variants = "grid.reranker.instruction=[none, default]"
    told = []
    with processes.start(command("results", variants)) as one, processes.start(command("results", variants)) as other:
        for process in (one, other):
            out, err = process.communicate(timeout=400)
            assert process.returncode == 0, err
            told.append(out)
    assert max(stored_pairs(project / "results").values()) == 1
    computed = [int(out.split("computed ")[1].split(",")[0]) for out in told]
    assert sum(computed) == 3  # BM25 and two instructions: nothing twice
    assert _run(command("other", variants)) == 0
    assert fingerprint(project / "results") == fingerprint(project / "other")
    assert not list((project / "results").rglob(".lock"))


class _Failing(WordOverlap):
    """Scores some queries and then fails as a device or a model does."""

    def __init__(self, good: int, error: Exception | float) -> None:
        super().__init__()
        self.good, self.error = good, error

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[Scores]:
        for number, scores in enumerate(super().score_groups(groups)):
            if number >= self.good:
                if isinstance(self.error, Exception):
                    raise self.error
                scores.scores[0] = self.error
            yield scores


@pytest.mark.parametrize(
    ("error", "raised"),
    [(DeviceError("out of memory"), DeviceError), (float("nan"), ModelError), (-np.inf, ModelError)],
)
def test_what_was_scored_before_a_failure_is_kept_and_nothing_else(
    tmp_path: Path, error: Exception | float, raised: type[Exception]
) -> None:
    cache = ScoreCache(tmp_path, "words", {"model": "words"})
    ids = [f"q{n}" for n in range(6)]

    def predict(engine: WordOverlap) -> np.ndarray:
        return CrossEncoder(engine, meta(), policy(), cache=cache).predict(
            [{"id": ids, "text": [f"word{n}" for n in range(6)]}],
            [{"id": ["d"] * 6, "text": [f"word{n % 2} of a document" for n in range(6)]}],
            task_metadata=None,
            hf_split="test",
            hf_subset="default",
        )

    with pytest.raises(raised):
        predict(_Failing(4, error))
    assert sum(stored_pairs(tmp_path).values()) == 4
    again = WordOverlap()
    assert predict(again).tolist() == [1, 1, 0, 0, 0, 0]
    assert [query for query, _, _ in again.calls] == ["word4", "word5"]
    assert os.listdir(tmp_path) == ["scores"]  # noqa: PTH208 - the names alone
