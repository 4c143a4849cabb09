"""A run that is killed goes on where it was, and ends with the very same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def kill(times: int, tmp_path: Path) -> str:
    # A process of its own: it forks, which one with threads of PyTorch must not.
    command = [
        sys.executable,
        "-m",
        "tests.crash.kills",
        "--kills",
        str(times),
        "--output",
        str(tmp_path / "kills.json"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_few_kills(tmp_path: Path) -> None:
    assert '"kills": 3' in kill(3, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills(tmp_path: Path) -> None:
    assert '"kills": 50' in kill(50, tmp_path)
