"""The folder `evals`: suites, instruction sets and published numbers, all data."""

from __future__ import annotations

import os
from pathlib import Path

from rerank_eval.errors import ConfigError


def evals_root() -> Path:
    """Return the folder `evals`.

    Returns:
        `$RERANK_EVAL_EVALS`, else the checkout's folder.

    Raises:
        ConfigError: It is not there.
    """
    given = os.environ.get("RERANK_EVAL_EVALS")
    root = Path(given) if given else Path(__file__).resolve().parents[2] / "evals"
    if not (root / "suites").is_dir():
        raise ConfigError(
            f"{root}: holds no suites; install from a checkout, or set RERANK_EVAL_EVALS to its evals folder"
        )
    return root


def instruction_set_names() -> tuple[str, ...]:
    """Return the names of the instruction sets that come with the project, sorted."""
    return tuple(sorted(path.stem for path in (evals_root() / "instructions").glob("*.yaml")))
