"""`python -m rerank_demo.figures CHECKPOINT COMPARISON.json ...`: what a checkpoint gains, into its card.

The comparisons are those that `rerank-eval compare` writes, so the card's figures on the embedded tasks are the command
line's own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rerank_demo.card import model_card
from rerank_eval.errors import DataError
from rerank_eval.files import load_json, write_json, write_text
from rerank_eval.metrics.registry import shown

_KEPT = ("scope", "measure", "system", "queries", "baseline", "mean", "difference", "low", "high", "p")


def add_figures(checkpoint: Path, comparisons: Sequence[Path]) -> None:
    """Put comparisons' differences into a checkpoint's `training.json` and card, in place of those that are there.

    Args:
        checkpoint: A folder that `training.export` wrote.
        comparisons: Files that `rerank-eval compare` wrote.

    Raises:
        DataError: A file is not there or is something else.
    """
    record = _read(checkpoint / "training.json", "packages")
    record["test"] = [row for path in comparisons for row in _rows(path)]
    write_json(checkpoint / "training.json", record)
    write_text(checkpoint / "README.md", model_card(record))


def _rows(path: Path) -> list[dict[str, Any]]:
    comparison = _read(path, "differences")
    return [
        {
            **{key: one[key] for key in _KEPT},
            "measure": shown(one["measure"]),
            "baseline_name": one.get("against", comparison["baseline"]),
        }
        for one in comparison["differences"]
        if not one["suite"]
    ]


def _read(path: Path, key: str) -> dict[str, Any]:
    try:
        found = load_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__})") from None
    if not isinstance(found, dict) or key not in found:
        raise DataError(f"{path}: has no {key}; it is some other file")
    return found


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m rerank_demo.figures", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("comparisons", type=Path, nargs="+")
    options = parser.parse_args()
    try:
        add_figures(options.checkpoint, options.comparisons)
    except DataError as error:
        print(f"error: {error}")  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
