"""What an engine computed, for a manifest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rerank_eval.engine.interface import Engine, EngineStats, reads_lists


def work_of(engine: Engine, stats: EngineStats, latencies: Sequence[float] = ()) -> dict[str, float]:
    """Return what an engine computed, for a manifest: tokens by kind, and the share wasted.

    Args:
        engine: The engine.
        stats: What it did, such as the difference of two readings of its `stats`.
        latencies: Seconds that each query took at a server.

    Returns:
        `saved`, which causal rerankers alone have, is the share of the prompts' tokens that sharing made superfluous.
    """
    computed, padding, prompt = stats.computed_tokens, stats.padding_tokens, stats.prompt_tokens
    work: dict[str, float] = {
        "prompt_tokens": prompt,
        "computed_tokens": computed,
        "padding_tokens": padding,
        "padding": padding / computed if computed else 0.0,
        "tokenize_seconds": stats.tokenize_seconds,
    }
    if engine.causal:
        work["saved"] = 1 - (computed - padding) / prompt if prompt else 0.0
    if reads_lists(engine):
        work |= {"windows": stats.windows, "repaired_windows": stats.repaired_windows}
    if latencies:
        half, most = np.percentile(latencies, [50, 99])
        work |= {"latency_p50": float(half), "latency_p99": float(most)}
        work |= {"retries": stats.retries, "served_tokens": stats.served_tokens}
        work["concurrency"] = float(engine.settings["concurrency"])
    return work
