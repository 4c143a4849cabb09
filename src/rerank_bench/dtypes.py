"""What each dtype does to scores: against float32 on the same pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer

from rerank_bench.workloads import WORKLOADS, Texts
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.loading import DtypeName, load_engine

GROUPS = 3
DOCUMENTS = 50


def kendall_tau(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Kendall's tau-a over all pairs of documents; ties count as neither.

    Args:
        first: (n,) scores.
        second: (n,) scores.

    Returns:
        (concordant - discordant) / (n (n - 1) / 2), from Kendall (1938).
    """
    a, b = (np.sign(scores[:, None] - scores[None, :]) for scores in (first, second))
    number = len(first)
    return float((a * b).sum() / (number * (number - 1)))


def effects(folder: Path, device: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Score the same pairs in every dtype that runs here.

    Args:
        folder: The checkpoint.
        device: Torch device.
        say: Told of each dtype.

    Returns:
        dtype -> largest and root-mean-square difference of margins from float32, Kendall's tau (mean and least over
        queries), how many distinct margins a query has, the largest difference between a pair scored alone and in its
        group; or why the dtype does not run.
    """
    texts = Texts(AutoTokenizer.from_pretrained(folder), WORKLOADS["short"], DOCUMENTS)
    groups = list(texts.groups(0, GROUPS))
    found: dict[str, Any] = {}
    exact: list[NDArray[np.float64]] = []
    for dtype in get_args(DtypeName):
        try:
            engine = load_engine(folder, recipe="card", dtype=dtype, device=device)
        except EngineError as error:
            found[dtype] = {"not run": str(error)}
            say(f"  {dtype}: not run: {error}")
            continue
        margins = [scores.margins for scores in engine.score_groups(groups)]
        exact = exact or margins
        alone = [
            engine.score(QueryGroup(groups[0].query, groups[0].instruction, [document])).margins[0]
            for document in groups[0].documents
        ]
        differences = np.concatenate([a - b for a, b in zip(margins, exact, strict=True)])
        taus = [kendall_tau(a, b) for a, b in zip(margins, exact, strict=True)]
        found[dtype] = {
            "largest_margin_difference": float(np.abs(differences).max()),
            "rms_margin_difference": float(np.sqrt((differences**2).mean())),
            "spread_of_margins": float(np.concatenate(exact).std()),
            "kendall_tau_mean": float(np.mean(taus)),
            "kendall_tau_least": min(taus),
            "distinct_margins": [len(set(scores.tolist())) for scores in margins],
            "largest_difference_alone": float(np.abs(np.array(alone) - margins[0]).max()),
            "settings": {key: value for key, value in engine.settings.items() if key != "model"},
        }
        row = found[dtype]
        say(
            f"  {dtype}: margins within {row['largest_margin_difference']:.2g} of float32, "
            f"tau {row['kendall_tau_mean']:.4f}, alone against packed {row['largest_difference_alone']:.2g}"
        )
    return found
