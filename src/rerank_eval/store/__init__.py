"""The score cache: every pair that was ever scored, under what it was scored with, so that none is scored twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rerank_eval.names import digest, slug

STORE = "scores"
"""The store's folder among the results: `scores/<model>/<identity>/<task>/<subset and split>/<shard>.parquet`."""

IDENTITY = "identity.json"
"""What an identity's digest stands for, beside its tasks."""

LOCK = ".lock"
"""Held by the one process that works on a task under an identity."""

_IN_A_PAIR = {"stage", "candidates", "instruction"}


def score_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what scores are kept under: a reranker's identity less what a pair's own texts say.

    The instruction's text is in each pair's digest, and which candidates a pair stands among changes no score, so runs
    that differ in these alone share what they have in common. A listwise reranker's digests are of the whole list.
    """
    return {key: value for key, value in identity.items() if key not in _IN_A_PAIR}


def cell_folder(subset: str, split: str) -> str:
    """Return the name of a cell's folder; a digest keeps apart cells whose names come to one file name."""
    return f"{slug(f'{subset}.{split}')}-{digest([subset, split], 6)}"
