"""Runs the command line on a mirror in a process of its own, and reads what it left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

Cells = dict[tuple[str, str], float]
"""(subset, split) -> main score"""


def write_config(folder: Path, root: Path, tasks: Sequence[str], **changes: Any) -> Path:
    """Write a config of tiny models: BM25, and the reranker with random weights on short prompts."""
    config = {
        "tasks": list(tasks),
        "data_root": str(root),
        "results_dir": str(folder / "results"),
        "retriever": {"model": "bm25", "top_k": 5},
        "reranker": {"model": "demo:qwen3-random", "max_length": 128},
    }
    path = folder / "mirror.yaml"
    path.write_text(yaml.safe_dump(config | changes), encoding="utf-8")
    return path


def run_eval(folder: Path, config: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `rerank-eval eval` with a hub cache of its own, which is empty at first."""
    return subprocess.run(
        [sys.executable, "-m", "rerank_eval", "eval", "--config", str(config)],
        cwd=folder,
        env={**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def manifests(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Return task -> manifest of the rows of a kind, `retriever` or `reranker`."""
    found = [json.loads(path.read_text()) for path in (folder / "results").glob("runs/*/*/*/manifest.json")]
    return {manifest["task"]["name"]: manifest for manifest in found if manifest["row"]["kind"] == kind}


def cells_of(manifest: dict[str, Any]) -> Cells:
    """Return a manifest's cells."""
    return {(cell["subset"], cell["split"]): cell["main"] for cell in manifest["scores"]["cells"]}


def mteb_cells(folder: Path, manifest: dict[str, Any]) -> Cells:
    """Return the cells as mteb's own result file has them."""
    content = json.loads((folder / "results" / manifest["mteb_result"]).read_text())
    return {
        (entry["hf_subset"], split): entry["main_score"]
        for split, entries in content["scores"].items()
        for entry in entries
    }


def leaderboard_row(folder: Path, kind: str) -> pd.Series:
    """Return the only row of a kind in leaderboard.csv."""
    frame = pd.read_csv(folder / "results" / "leaderboard.csv")
    [row] = [row for _, row in frame.iterrows() if row["kind"] == kind]
    return row
