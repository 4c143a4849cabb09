"""Hostile input to every reader: success or one clear line, and nothing else. `make fuzz` goes on for longer."""

from __future__ import annotations

import gzip
import io
import json
import logging
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing import samples
from tests.fuzzing.guard import Violation, held
from tests.fuzzing.mutate import mutated
from tests.fuzzing.targets import PARTS, targets

ROOT = Path(__file__).parents[2]
NAMES = list(targets())


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def attempt(name: str, value: bytes, folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    target = targets()[name]
    target.prepare(folder, value)
    return held(lambda: target.run(folder), folder)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=2, max_size=60))
def test_any_input_ends_well(name: str, data: bytes, tmp_path: Path) -> None:
    target = targets()[name]
    attempt(name, mutated(data, target.seeds, target.words), tmp_path / "one")


@pytest.mark.parametrize("name", NAMES)
def test_seeds_end_well_and_one_is_good(name: str, tmp_path: Path) -> None:
    ended = [attempt(name, seed, tmp_path / "one") for seed in targets()[name].seeds]
    assert "ok" in ended


def found() -> dict[str, tuple[str, bytes]]:
    """What fuzzing has found so far, and was mended."""
    manifest = json.dumps(samples.MANIFEST).encode()
    half = b'"' + bytes("\\ud800", "ascii") + b'"'
    return {
        "half of a surrogate pair in a config": ("config", b"tasks: [" + half + b"]"),
        "NUL in a path": ("config", b'results_dir: "a\\0b"'),
        "half of a surrogate pair in a published table": ("published", b"{" + half + b": 1}"),
        "a number to the base of 60": ("config", b"reranker: {max_length: 1" + b":1" * 400_000 + b"}"),
        "a number that Python does not print": ("config", b"reranker: {max_length: -0b" + b"1" * 90_000 + b"}"),
        "a tag that does not fit": ("config", b"description: !!timestamp x"),
        "another tag that does not fit": ("config", b"description: !!bool x"),
        "no number at all": ("config", b"description: !!int ''"),
        "a key of many parts": ("overrides", b"a" + b".a" * 5000 + b"=1"),
        "half of a surrogate pair in a manifest": ("manifest", manifest.replace(b'"label": "m"', b'"label": ' + half)),
        "half of a surrogate pair in a document": (
            "beir",
            PARTS.join((b'{"_id": "d1", "text": ' + half + b"}", *samples.FOLDER[1:])),
        ),
        "NaN in a manifest": ("manifest", manifest.replace(b"0.5", b"NaN")),
        "infinity for a whole number": ("manifest", manifest.replace(b'"order": 2', b'"order": 1e999')),
        "a manifest without an identity": ("manifest", manifest.replace(b'"identity"', b'"identify"')),
        "a manifest whose row is text": (
            "manifest",
            manifest.replace(b'"retriever": {"detail"', b'"retriever": {"det"'),
        ),
        "a deep manifest": ("manifest", b'{"schema": 1, "row":' + b"[" * 100_000),
        "a frame without cells": ("per_query", b'{"query_id": ["a"], "ndcg_at_10": [1.0]}'),
        "an index that names what is no file name": (
            "model",
            PARTS.join((samples.MODELS[0], b'{"weight_map": {"a": "' + b"x" * 5000 + b'"}}')),
        ),
        "a deep config.json": ("model", b"[" * 100_000),
        "a rank beyond 64 bits": ("trec", b"q1 Q0 d1 " + b"2" * 60 + b" 0.5 tag\n"),
        "a grade beyond 32 bits": ("trec", b"q1 Q0 d1 1 0.5 tag\n%%%\nq1 0 d1 " + b"1" * 40 + b"\n"),
        "ids with a NUL": ("trec", b"q1 Q0 d1 1 0.5 tag\n%%%\n\0q1 0 d1 1\n\0q2 0 d1 1\n"),
        "a README that is not UTF-8": ("readme", b"\xff<!-- leaderboard:begin --><!-- leaderboard:end -->"),
    }


@pytest.mark.parametrize("what", list(found()))
def test_what_was_found_stays_mended(what: str, tmp_path: Path) -> None:
    attempt(*found()[what], tmp_path / "one")


def test_the_guard_notices(tmp_path: Path) -> None:
    import os

    def writes() -> None:
        (tmp_path.parent / "elsewhere").write_text("x")

    cases: dict[str, Callable[[], object]] = {
        "writes": writes,
        "os.system": lambda: os.system("true"),  # noqa: S605
        "ZeroDivisionError at": lambda: 1 / 0,
        "subprocess.Popen": lambda: subprocess.run(["true"], check=False),
    }
    for expected, call in cases.items():
        with pytest.raises(Violation, match=expected):
            held(call, tmp_path)


BOMBS = {
    "aliases": (
        "config.yaml",
        lambda: (
            b"a: &a [x, x]\n"
            + b"".join(
                b"%c: &%c [%s]\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 10)) for c in range(ord("b"), ord("z"))
            )
        ),
    ),
    "depth": ("config.yaml", lambda: b"[" * 900_000),
    "flow maps": ("config.yaml", lambda: b"{a: " * 200_000),
    "a huge line": ("data/corpus.jsonl", lambda: b'{"_id": "d", "text": "' + b"x" * 70_000_000 + b'"}\n'),
    "gzip of one line": ("data/corpus.jsonl.gz", lambda: gzipped(b"\x00" * 2**20, 2000)),
    "gzip of empty lines": ("data/corpus.jsonl.gz", lambda: gzipped(b"\n" * 2**20, 2000)),
    "a huge manifest": ("results/runs/m/i/T/manifest.json", lambda: b"[" * 30_000_000),
    "deep JSON lines": ("data/corpus.jsonl", lambda: (b"[" * 100_000 + b"\n") * 20),
}
"""File and content; every one of them has to end within a minute and 3 GB."""


def gzipped(block: bytes, times: int) -> bytes:
    out = io.BytesIO()
    with gzip.open(out, "wb", compresslevel=9) as handle:
        for _ in range(times):
            handle.write(block)
    return out.getvalue()


RUN = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_DATA, (3 * 2**30, 3 * 2**30))
from rerank_eval.cli import _run
folder = Path(sys.argv[1])
if (folder / "config.yaml").exists():
    sys.exit(_run(["plan", "--config", str(folder / "config.yaml")]))
if (folder / "data").exists():
    sys.exit(_run(["plan", "--config", sys.argv[2], "--task", str(folder / "data")]))
sys.exit(_run(["leaderboard", "--results", str(folder / "results")]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BOMBS))
def test_a_bomb_ends_in_one_line(name: str, tmp_path: Path) -> None:
    file, content = BOMBS[name]
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if file.startswith("data/"):
        samples.write_folder(tmp_path / "data")
        (tmp_path / "data" / "corpus.jsonl").unlink()
    path.write_bytes(content())
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path), str(ROOT / "configs" / "base.yaml")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in {2, 3}, done.stderr[-500:]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr


def test_random_runs_are_recorded(tmp_path: Path) -> None:
    from tests.fuzzing.run import _Session

    session = _Session("recipe", 60, tmp_path, "random", 1)
    choose = random.Random(1)
    for _ in range(20):
        session.try_one(choose.randbytes(choose.randrange(2, 60)))
    session.write(finished=True)
    told = json.loads((tmp_path / "recipe.json").read_text())
    assert told["runs"] == sum(told["ended"].values()) == 20
    assert told["violations"] == 0
