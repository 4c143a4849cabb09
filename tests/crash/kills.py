"""Kills real runs at random moments, starts them again, and holds what comes out against an undisturbed run.

    python -m tests.crash.kills --kills 50 --output results/crash/kills.json

A run is a forked process that does what `rerank-eval eval` does; forking spares the seconds that the imports take, so
that moments are spread over the work itself. Half of the moments are drawn from the clock, the other half lie just
before or just after one of the run's own renamings, where a file turns from absent to complete.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rerank_eval.cli import _run
from rerank_eval.files import write_json
from rerank_eval.models.resolve import resolve_model
from rerank_eval.store.cell import ScoreCacheCell
from rerank_eval.store.shards import ScoredQuery
from tests.pipeline.folders import configs_with_random_weights, write_beir_folder
from tests.pipeline.test_end_to_end import fingerprint
from tests.tiny_embedding import write_qwen3_embedding

BLOCK = 64
TASKS = {"tools": 40, "more": 60}
FEWER = {"tools": 12, "more": 20}
TOP_K = 20


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        moment: What it was aimed at.
        stage: Where the run was: what it wrote last.
        stored: Pairs in the store afterwards.
        lost: Pairs scored by the killed process that are not in the store.
    """

    moment: str
    stage: str
    stored: int
    lost: int


def prepare(folder: Path, queries: Mapping[str, int]) -> list[str]:
    """Write tasks of so many queries, an encoder and configs into a folder, and return the run's arguments."""
    configs_with_random_weights(folder)
    demo = Path(resolve_model("demo:qwen3-random", None, "test").source)
    write_qwen3_embedding(folder / "encoder", demo)
    tasks = [part for name, number in queries.items() for part in ("--task", str(write(folder, name, number)))]
    settings = {
        "grid.retriever.model": f"[bm25, {folder / 'encoder'}]",
        "retriever.top_k": TOP_K,
        "store.block_pairs": BLOCK,
    }
    chosen = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["eval", "--config", str(folder / "configs" / "base.yaml"), *tasks, *chosen]


def write(folder: Path, name: str, queries: int) -> Path:
    """Write one task."""
    return write_beir_folder(folder / "data" / name, queries=queries)


def fork(arguments: list[str], log: Path, before: Callable[[], None] | None = None) -> int:
    """Start a run in a forked process and return its id; it notes how many pairs it scored."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        note_scored(log.with_suffix(".scored"))
        if before is not None:
            before()
        code = _run(arguments)
    finally:
        os._exit(code)


def note_scored(path: Path) -> None:
    """Write a byte for every pair that comes out of the model, past every buffer of this process."""
    note = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    add = ScoreCacheCell.add

    def noted(cell: ScoreCacheCell, scored: ScoredQuery) -> None:
        os.write(note, b"." * len(scored.doc_ids))
        add(cell, scored)

    ScoreCacheCell.add = noted  # type: ignore[method-assign]


def die_at_renaming(number: int, *, after: bool) -> Callable[[], None]:
    """Return what makes a process kill itself around its n-th renaming of a file."""

    def arm() -> None:
        rename = Path.replace
        seen = 0

        def counted(path: Path, target: Any) -> Path:
            nonlocal seen
            seen += 1
            if seen == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            moved = rename(path, target)
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return moved

        Path.replace = counted  # type: ignore[method-assign]

    return arm


def stored_pairs(results: Path) -> Counter[tuple[str, bytes, bytes]]:
    """Count each pair of the store."""
    pairs: Counter[tuple[str, bytes, bytes]] = Counter()
    for path in results.glob("scores/*/*/*/*/[0-9]*.parquet"):
        table = pq.read_table(path, columns=["query_digest", "document_digest"])
        cell = path.parent.as_posix()
        pairs.update((cell, *key) for key in zip(*(column.to_pylist() for column in table.columns), strict=True))
    return pairs


def stage_of(results: Path) -> str:
    """Say where a run was, by what stands there."""
    done = sorted(results.glob("runs/*/*/*/manifest.json"), key=lambda path: path.stat().st_mtime)
    if (results / "leaderboard.md").is_file():
        return "leaderboard"
    if any(path.name == "progress.json" for path in results.rglob("*.json")):
        return "embedding"
    if len(done) < 2 * len(TASKS):
        return "retrieving"
    return "reranking"


def scored(log: Path) -> int:
    """How many pairs came out of models so far."""
    path = log.with_suffix(".scored")
    return path.stat().st_size if path.exists() else 0


def torture(folder: Path, kills: int, seed: int, queries: Mapping[str, int] = TASKS) -> dict[str, Any]:
    """Kill `kills` runs and judge every run that comes to its end.

    Args:
        folder: An empty folder.
        kills: How many.
        seed: Of the moments.
        queries: How many each of the two tasks has.

    Returns:
        What happened, for a JSON file.

    Raises:
        AssertionError: A result differs, a pair stands twice, more than a block was lost, or a run failed.
    """
    arguments = prepare(folder, queries)
    dice = random.Random(seed)
    started = time.monotonic()
    assert run_to_end([*arguments, "--set", f"results_dir={folder / 'whole'}"], folder / "whole.log") == 0
    seconds = time.monotonic() - started
    whole = fingerprint(folder / "whole")
    pairs = len(stored_pairs(folder / "whole"))
    log, results = folder / "killed.log", folder / "killed"
    happened: list[Kill] = []
    finished = 0
    while len(happened) < kills or results.exists():
        number, after = dice.randint(1, 60), dice.random() < 0.5
        by_clock = dice.random() < 0.5
        moment = f"{'after' if after else 'before'} renaming {number}"
        delay = dice.uniform(0.0, seconds * 0.7)
        before_scored, before_stored = scored(log), sum(stored_pairs(results).values())
        aimed = None if by_clock or len(happened) >= kills else die_at_renaming(number, after=after)
        child = fork([*arguments, "--set", f"results_dir={results}"], log, aimed)
        if by_clock and len(happened) < kills:
            moment = f"{delay:.2f} s"
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        found = stored_pairs(results)
        assert max(found.values(), default=1) == 1, "a pair was scored again though it was stored"
        lost = (scored(log) - before_scored) - (sum(found.values()) - before_stored)
        assert 0 <= lost <= BLOCK + TOP_K, f"{lost} pairs were lost"
        if os.WIFSIGNALED(status):
            happened.append(Kill(moment, stage_of(results), sum(found.values()), lost))
            continue
        assert os.WEXITSTATUS(status) == 0, log.read_text()[-3000:]
        assert not (differing := differences(whole, fingerprint(results))), differing
        assert len(found) == pairs
        assert not list(results.rglob("*.tmp"))
        shutil.rmtree(results)
        finished += 1
    assert "Traceback" not in log.read_text()
    return {
        "kills": len(happened),
        "runs_finished_and_identical": finished,
        "stages": dict(sorted(Counter(one.stage for one in happened).items())),
        "pairs_of_a_run": pairs,
        "block_pairs": BLOCK,
        "most_pairs_lost_by_a_kill": max(one.lost for one in happened),
        "pairs_scored_twice_though_stored": 0,
        "seconds_undisturbed": round(seconds, 1),
        "seed": seed,
        "log": [asdict(one) for one in happened],
    }


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """List what differs: files, and keys of JSON files."""
    told = [f"only in one: {name}" for name in sorted(expected.keys() ^ found.keys())]
    for name in sorted(expected.keys() & found.keys()):
        one, other = expected[name], found[name]
        if one != other and isinstance(one, dict):
            told += [f"{name}: {key}: {one.get(key)} {other.get(key)}" for key in one if one.get(key) != other.get(key)]
        elif one != other:
            told.append(name)
    return told


def run_to_end(arguments: list[str], log: Path) -> int:
    """Run undisturbed and return the exit code."""
    return os.WEXITSTATUS(os.waitpid(fork(arguments, log), 0)[1])


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=20_261_123)
    parser.add_argument("--output", type=Path, default=None)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        found = torture(Path(folder), chosen.kills, chosen.seed)
    if chosen.output is not None:
        write_json(chosen.output, found)
    summary = {key: value for key, value in found.items() if key != "log"}
    print(json.dumps(summary, indent=2))  # noqa: T201 - what the command is for


if __name__ == "__main__":
    main()
