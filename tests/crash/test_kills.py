"""A run that is killed goes on where it was, and ends with the very same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rerank_eval.files import write_json
from tests.crash.kills import FEWER, TASKS, torture
from tests.processes import Forked


def tortured(folder: Path, kills: int, seed: int, queries: Mapping[str, int], report: Path) -> None:
    write_json(report, torture(folder, kills, seed, queries))


def kill(times: int, seed: int, tmp_path: Path, queries: Mapping[str, int]) -> dict[str, Any]:
    # A process of its own: it forks, which one with threads of PyTorch must not.
    (tmp_path / "runs").mkdir()
    with Forked(tortured, tmp_path / "runs", times, seed, queries, tmp_path / "kills.json") as process:
        said = process.communicate(timeout=3500)
        assert process.returncode == 0, said
    found: dict[str, Any] = json.loads((tmp_path / "kills.json").read_text())
    return found


def test_a_few_kills(tmp_path: Path) -> None:
    """With this seed the kills fall where pairs are stored already, by the clock and at renamings."""
    found = kill(3, 162_396, tmp_path, FEWER)
    assert found["kills"] == 3
    assert found["runs_finished_and_identical"] >= 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills(tmp_path: Path) -> None:
    found = kill(50, 20_261_123, tmp_path, TASKS)
    assert found["kills"] == 50
    assert found["runs_finished_and_identical"] >= 1
