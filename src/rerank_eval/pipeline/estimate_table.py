"""Shows an estimate: per task, per model, in total, and what it rests on."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from rerank_eval.config import LoadedConfig
from rerank_eval.config.schema import BM25
from rerank_eval.files import write_json
from rerank_eval.hub import go_offline
from rerank_eval.pipeline.estimate import Estimate, Work, estimate
from rerank_eval.pipeline.estimate_texts import GUESSED, SHARED
from rerank_eval.tables import simple
from rerank_eval.typed import started

_SUMMED = ("texts", "prompt_tokens", "computed_tokens", "flops")


def show_estimate(
    loaded: LoadedConfig,
    console: Console,
    *,
    rate: float | None = None,
    device_name: str | None = None,
    price: float | None = None,
    json: Path | None = None,
) -> None:
    """Estimate a config's work and print it.

    Args:
        loaded: The config.
        console: Where it is printed.
        rate: See `estimate`.
        device_name: See `estimate`.
        price: Of an hour, or None.
        json: Further file for everything as JSON, or None.

    Raises:
        ConfigError: A task or a file that the config names is wrong.
        DataError: Local data is malformed.
        ModelError: A folder that the config names as a model holds none that is usable.
    """
    go_offline()  # else the hub would be asked for every model's config.json
    found = estimate(loaded, rate, device_name)
    begun = time.monotonic() - started() - found.measuring  # a run reads the same packages, config and data
    console.print(f"\n{_per_task(found)}\n\n{_per_model(found, price)}\n", markup=False)
    for line in _words(found):
        console.print(line, markup=False, soft_wrap=False)
    if any(not one.done for one in found.work):
        console.print(f"starting takes {begun:.0f} s more, as it did here", markup=False)
    if json is not None:
        write_json(json, _as_data(found, price))
        console.print(f"written: {json}", markup=False)


def _as_data(found: Estimate, price: float | None) -> dict[str, Any]:
    hours = found.hours(*found.work)
    to_do = _totals([one for one in found.work if not one.done])
    return {
        "total": {
            **_totals(found.work),
            **{f"{key}_to_do": value for key, value in to_do.items()},
            "hours": hours,
            "cost": None if price is None else hours * price,
            "disk_bytes": sum(one.disk for one in found.work) + sum(found.checkpoints.values()),
        },
        "device": found.device,
        "rates": {
            name: {"flops": None if math.isnan(rate) else rate, "source": source}
            for name, (rate, source) in found.rates.items()
        },
        "servers": {
            address: None if rate is None else dataclasses.asdict(rate) for address, rate in found.servers.items()
        },
        "unknown_sizes": list(found.unknown),
        "not_here": list(found.unresolved),
        "unmeasured_tasks": list(found.unmeasured),
        "work": [{**dataclasses.asdict(one), "hours": found.hours(one)} for one in found.work],
    }


def _totals(work: Sequence[Work]) -> dict[str, float]:
    """Sum over rows and tasks: a task that six models rerank counts six times, its queries once."""
    return {
        "tasks": len({one.task for one in work}),
        "queries": sum({one.task: one.queries for one in work}.values()),
        "pairs": sum(one.pairs for one in work if one.kind == "reranker"),
        **{name: sum(getattr(one, name) for one in work) for name in _SUMMED},
    }


def _millions(number: float) -> str:
    return f"{number / 1e6:,.2f}" if number < 1e8 else f"{number / 1e6:,.0f}"  # noqa: PLR2004 - two digits say enough


def _hours(hours: float) -> str:
    if hours == 0:
        return "-"
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:,.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.1f} s"


def _per_task(found: Estimate) -> str:
    rows = []
    for task in dict.fromkeys(one.task for one in found.work):
        work = [one for one in found.work if one.task == task]
        shown = [one for one in work if one.kind == "reranker"] or work
        first = max(shown, key=lambda one: one.prompt_tokens)
        done = sum(one.done for one in work)
        rows.append(
            [
                task,
                f"{first.queries:,}",
                f"{first.pairs:,}",
                _millions(first.prompt_tokens),
                _millions(first.computed_tokens),
                _hours(found.hours(*work)),
                f"{done} of {len(work)}" if done < len(work) else "all",
                first.source,
            ]
        )
    heads = ["task", "queries", "pairs", "prompt Mtok", "computed Mtok", "all models", "done", "lengths from"]
    return simple(heads, rows, "lrrrrrrl")


def _per_model(found: Estimate, price: float | None) -> str:
    rows = []
    for kind, model, detail in dict.fromkeys((one.kind, one.model, one.detail) for one in found.work):
        work = [one for one in found.work if (one.kind, one.model, one.detail) == (kind, model, detail)]
        reranker = kind == "reranker"
        amount = sum(one.pairs if reranker else one.texts for one in work)
        flops = sum(one.left for one in work)
        rows.append(
            [
                f"+ {model}" if reranker else model,
                detail,
                f"{amount:,} {'pairs' if reranker else 'texts'}",
                f"{flops / 1e15:,.3g}" if flops else "-",
                f"{found.rates[work[0].rated][0] / 1e12:,.3g}" if flops else "-",
                *_hours_and_cost(found.hours(*work), price),
            ]
        )
    rows.append(["total", "", "", "", "", *_hours_and_cost(found.hours(*found.work), price)])
    heads = ["model", "settings", "work", "PFLOP left", "TFLOP/s", "on one device", "cost"]
    return simple(heads, rows, "llrrrrr")


def _hours_and_cost(hours: float, price: float | None) -> list[str]:
    return [_hours(hours), "-" if price is None else f"{hours * price:,.2f}"]


def _words(found: Estimate) -> list[str]:
    to_do = [one for one in found.work if not one.done]
    whole, left = _totals(found.work), _totals(to_do)
    shared = sum(one.shared * one.pairs for one in to_do)
    lines = [
        f"in all: {whole['tasks']} task(s), {whole['queries']:,} queries, {whole['pairs']:,} pairs over all rerankers, "
        f"{whole['prompt_tokens'] / 1e9:,.3g} billion tokens of prompts and texts, of which "
        f"{whole['computed_tokens'] / 1e9:,.3g} are computed",
        f"left: {left['pairs']:,} pairs, {left['texts']:,} texts to embed, "
        f"{left['computed_tokens'] / 1e9:,.3g} billion tokens, {left['flops'] / 1e18:,.3g} EFLOP",
        f"disk: results and embeddings {sum(one.disk for one in to_do) / 1e9:,.1f} GB, "
        f"checkpoints {sum(found.checkpoints.values()) / 1e9:,.1f} GB",
        f"reckoned for one device: {found.device}; another: --rate TFLOPS of useful work (half of what an H200 reaches "
        "on bfloat16 matrix products: 395), or --device-name of one that results/bench has files of",
        "hours: useful FLOP (each distinct token once, and attention) over the rate, "
        + "; ".join(dict.fromkeys(source for rate, source in found.rates.values() if not math.isnan(rate)))
        + ("; BM25 as measured now" if any(one.model == BM25 for one in found.work) else ""),
        "tokens: from characters, by script (Qwen's vocabulary, evals/characters.json; others are taken to be like "
        "it), or by the reranker's tokenizer where it is here",
        "lengths: of local data each text's, of hub tasks mteb's mean and longest, with a log-normal spread between "
        "them; candidates count as long as the corpus, while retrievers prefer some lengths, until those of local data "
        "are there",
    ]
    if shared:
        lines.append(
            f"pairs that a reranker has scored for one retriever are not scored again for another: some {shared:,.0f}; "
            f"where candidates are not here yet, two retrievers are taken to share {SHARED:.0%} of theirs"
        )
    if found.workers:
        lines.append(
            "workers: the cluster's devices are not here; each is taken to be like this machine's, and the hours are "
            "one worker's: divide by their number"
        )
    for address, rate in found.servers.items():
        if rate is None:
            lines.append(f"{address}: not measured, since every pair is paid for; its hours are left out")
        else:
            lines.append(
                f"{address}: measured now, {rate.pairs:,.0f} pairs/s on texts as long as the run's, {rate.concurrency} "
                "queries at a time"
            )
    if found.unresolved:
        lines.append(f"not here, so that what is done of them cannot be told: {', '.join(found.unresolved)}")
    if found.unknown:
        lines.append(f"of unknown size, so that their hours are left out: {', '.join(found.unknown)}")
    if found.unmeasured:
        lines.append(f"left out, neither data nor statistics are here: {', '.join(found.unmeasured)}")
    if guessed := sorted({one.task for one in found.work if one.source == "guess"}):
        lines.append(
            f"lengths from what mteb counted of some subsets, else guessed ({GUESSED[0]} characters a query, "
            f"{GUESSED[1]} a document): {', '.join(guessed)}"
        )
    return lines
