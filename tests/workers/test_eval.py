"""The command with `workers`: the files of one process, Ctrl-C, and what a user can get wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from rerank_eval.engine.loading import device_name
from rerank_eval.models.resolve import resolve_model
from tests.pipeline.folders import write_beir_folder
from tests.tiny_embedding import write_qwen3_embedding

pytestmark = pytest.mark.slow

CONFIG = """\
tasks: [./tools]
retriever: {model: ./tiny, top_k: 20}
reranker: {model: "demo:qwen3-random"}
"""
WORKERS = "workers={address: local, num_workers: 2, block_tokens: 1000}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_qwen3_embedding(folder / "tiny", Path(resolve_model("demo:qwen3-random", None, "").source))
    write_beir_folder(folder / "tools", queries=40)
    (folder / "run.yaml").write_text(CONFIG)
    return folder


def command(*options: str) -> list[str]:
    parts = [sys.executable, "-m", "rerank_eval", "eval", "--config", "run.yaml"]
    return parts + [part for option in options for part in ("--set", option)]


def evaluate(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*options), cwd=project, capture_output=True, text=True, check=False)


def test_the_files_are_those_of_one_process(project: Path) -> None:
    assert evaluate(project, "results_dir=alone").returncode == 0
    done = evaluate(project, "results_dir=many", WORKERS)
    assert done.returncode == 0, done.stderr
    alone = sorted(path.relative_to(project / "alone") for path in (project / "alone").rglob("scores.parquet"))
    assert len(alone) == 2
    assert alone == sorted(path.relative_to(project / "many") for path in (project / "many").rglob("scores.parquet"))
    for name in alone:
        one, other = (pd.read_parquet(project / folder / name) for folder in ("alone", "many"))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
        mine, theirs = (
            json.loads((project / folder / name.parent / "manifest.json").read_text()) for folder in ("alone", "many")
        )
        for key in ("identity", "scores", "digest", "counts", "config", "inputs"):
            assert mine[key] == theirs[key]
        told = theirs["environment"]["workers"]  # two at most: who comes late may find everything done
        assert [(one["device"], one["workers"] in {1, 2}) for one in told] == [(device_name("cpu"), True)]
        if "scores_made_by" in mine["environment"]:  # one maker, so that a run that goes from one to the other has one
            assert mine["environment"]["scores_made_by"] == theirs["environment"]["scores_made_by"]
        assert "workers" not in mine["environment"]
    (log,) = (project / "many" / "logs").glob("*.log")
    assert re.search(r"[12] of 2 workers: worker [01] \(.*items", log.read_text())
    again = evaluate(project, "results_dir=alone", WORKERS)  # nothing to do: no worker is started
    assert "computed 0, done before 2" in again.stdout


@pytest.mark.parametrize(
    ("send", "number", "codes"),
    [
        (os.killpg, signal.SIGINT, {130}),
        (os.kill, signal.SIGTERM, {143}),
        # The run's own cluster goes down as well; Ray ends a driver whose node is gone.
        (os.killpg, signal.SIGTERM, {143, 1}),
    ],
)
def test_a_signal_ends_the_run_and_its_workers(
    project: Path, send: Callable[[int, int], None], number: signal.Signals, codes: set[int]
) -> None:
    folder = project / f"interrupted-{send.__name__}-{number}"
    running = subprocess.Popen(
        command(f"results_dir={folder.name}", "tasks=[Embedded]", "retriever.model=bm25", WORKERS),
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not (ready := _logged(folder, "ready in")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ready
    pids = [int(line.split("process ")[1].split(",")[0]) for line in ready]
    send(running.pid, number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode in codes, errors
    assert "Traceback" not in errors
    assert "*** SIGTERM" not in errors
    assert running.returncode == 1 or "what was scored is kept; the same command goes on" in errors
    deadline = time.monotonic() + 30
    while any(map(_runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # ended, though nobody asked how


def _logged(folder: Path, text: str) -> list[str]:
    lines = [line for path in folder.glob("logs/*.log") for line in path.read_text().splitlines()]
    return [line for line in lines if text in line]


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        ("workers=rey", 2, "workers.backend: unknown value 'rey'"),
        ("workers.num_worker=2", 2, "workers.num_worker: unknown key; did you mean 'num_workers'"),
        ("workers.address=127.0.0.1:1", 2, "workers.address: no cluster at '127.0.0.1:1'; start one with"),
        ("workers.address=nonsense", 2, "workers.address: no cluster at 'nonsense'"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(project: Path, option: str, code: int, message: str) -> None:
    done = evaluate(project, f"results_dir=wrong-{code}", option)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_device_that_the_cluster_has_not_is_one_line(project: Path) -> None:
    done = evaluate(project, "results_dir=no-gpu", "device=cuda", "workers={address: local}")
    assert done.returncode == 7
    assert "workers: the cluster has 0 GPU(s)" in done.stderr
    assert "Traceback" not in done.stderr
