"""Where a number came from: packages, device, commit, command line."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rerank_eval.engine.loading import device_name, hardware_name, resolve_device
from rerank_eval.shipped import checkout

PACKAGES = (
    "rerank-eval",
    "mteb",
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "datasets",
    "bm25s",
    "pytrec_eval-terrier",
    "numpy",
    "pandas",
    "pyarrow",
)
"""Packages whose version can change a number."""


@functools.cache
def environment() -> dict[str, Any]:
    """Describe this process's surroundings for a manifest: nothing here is part of a result's identity."""
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "device": _device(),
        "cpus": os.cpu_count(),
        "git": _git(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def computed_on(device: str, workers: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Say what computes scores, in a line for each kind of device: shards keep it, so that a result can tell.

    Args:
        device: The config's, as this process uses it.
        workers: Workers' hosts and devices; none where this process computes.
    """
    devices = {str(one["device"]) for one in workers} or {device_name(device)}
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "transformers", "rerank-eval"))
    return sorted(f"{device}, {versions}" for device in devices)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> dict[str, Any]:
    chosen = resolve_device("auto")
    counts = {"cuda": {"count": torch.cuda.device_count()}, "cpu": {"threads": torch.get_num_threads()}}
    return {"kind": chosen.type, "name": hardware_name(chosen), **counts.get(chosen.type, {})}


def _git() -> dict[str, Any] | None:
    """The harness's own commit, when it runs from a checkout; else what a container's build says that it holds."""
    folder = checkout()  # an environment may lie in another project's repository, whose commit is none of ours
    if folder is not None and (commit := _ask_git(folder, "rev-parse", "HEAD")) is not None:
        return {"commit": commit, "dirty": bool(_ask_git(folder, "status", "--porcelain"))}
    commit = os.environ.get("RERANK_EVAL_COMMIT")
    return {"commit": commit, "dirty": False} if commit else None


def _ask_git(folder: Path, *arguments: str) -> str | None:
    command = ["git", *arguments]  # whichever git the user has
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
