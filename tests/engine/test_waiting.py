"""Threads that wait asleep, in a process that imported torch before anything of ours."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rerank_eval.engine.waiting import VARIABLES

TORCH_FIRST = """
import os
import time
import torch
{protect}
one = torch.ones(200_000)
one.add_(1)  # starts the team
busy = time.process_time()
for _ in range(20):
    one.add_(1)
    time.sleep(0.02)  # the team has nothing to do for 20 ms at a time
print(time.process_time() - busy)
"""


def spent(protect: str, **environment: str) -> float:
    """Seconds of processor time of a program whose threads have almost nothing to do."""
    clean = {name: value for name, value in os.environ.items() if name not in {*VARIABLES, "OMP_NUM_THREADS"}}
    done = subprocess.run(
        [sys.executable, "-c", TORCH_FIRST.format(protect=protect)],
        env=clean | {"OMP_NUM_THREADS": "2"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


PROTECTED = "from rerank_eval.engine.quiet import settle; settle()"


@pytest.mark.skipif(sys.platform != "linux" or (os.cpu_count() or 1) < 2, reason="needs GNU's OpenMP and two cores")
def test_threads_sleep_where_torch_was_imported_first() -> None:
    # GNU's OpenMP spins 300,000 turns, milliseconds each time; asleep, twenty sums of 200,000 numbers take next to
    # nothing. Other work on the machine only takes processor time away from those that spin.
    spinning, asleep = spent(""), spent(PROTECTED)
    assert asleep < spinning / 2, (asleep, spinning)


def test_a_user_who_says_how_threads_wait_is_obeyed() -> None:
    program = f"import torch, threading; {PROTECTED}; print(threading.active_count())"
    for environment, threads in (({}, 2), ({"OMP_WAIT_POLICY": "ACTIVE"}, 1)):
        clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        done = subprocess.run(
            [sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True, check=True
        )
        assert int(done.stdout) == (threads if sys.platform == "linux" else 1)


def test_before_torch_the_runtime_is_told_by_its_variable() -> None:
    program = f"import os; {PROTECTED}; print(os.environ['OMP_WAIT_POLICY'])"
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run([sys.executable, "-c", program], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "PASSIVE"


def test_the_library_protects_itself() -> None:
    """`load_reranker` in a program that imported torch first: the protection is in force when it returns."""
    program = """
import torch, threading
from rerank_eval.config import RerankerConfig
from rerank_eval.rerankers import load_reranker
load_reranker(RerankerConfig(), device="cpu")
print("openmp-waits-asleep" in {thread.name for thread in threading.enumerate()})
"""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run([sys.executable, "-c", program], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == str(sys.platform == "linux")
