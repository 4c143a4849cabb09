"""Shows an estimate: per task, per model, in total, and what it rests on."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from rerank_eval.config import LoadedConfig
from rerank_eval.config.schema import BM25
from rerank_eval.files import write_json
from rerank_eval.hub import go_offline
from rerank_eval.pipeline.estimate import estimate
from rerank_eval.pipeline.estimate_texts import GUESSED, SHARED
from rerank_eval.pipeline.estimate_work import Estimate, Work
from rerank_eval.tables import simple
from rerank_eval.typed import started


def show_estimate(loaded: LoadedConfig, console: Console, **options: Any) -> None:
    """Estimate a config's work and print it.

    Args:
        loaded: The config.
        console: Where it is printed.
        **options: `rate` in FLOP/s, `device_name`, `price` of an hour, `json`: a file; each may be None.

    Raises:
        ConfigError: A task or a file that the config names is wrong.
        DataError: Local data is malformed.
        ModelError: A folder that the config names as a model holds none that is usable.
    """
    go_offline()  # else the hub would be asked for every model's config.json
    found = estimate(loaded, options.get("rate"), options.get("device_name"))
    begun = time.monotonic() - started() - found.measuring  # a run reads the same packages, config and data
    price = options.get("price")
    console.print()
    console.print(_per_task(found), markup=False)
    console.print()
    console.print(_per_model(found, price), markup=False)
    console.print()
    for line in _words(found):
        console.print(line, markup=False, soft_wrap=False)
    if any(not one.done for one in found.work):
        console.print(f"starting takes {begun:.0f} s more, as it did here", markup=False)
    if options.get("json") is not None:
        write_json(options["json"], as_data(found, price))
        console.print(f"written: {options['json']}", markup=False)


def as_data(found: Estimate, price: float | None = None) -> dict[str, Any]:
    """Return everything for JSON.

    Args:
        found: The estimate.
        price: Of an hour, or None.
    """
    work = [{**dataclasses.asdict(one), "hours": found.hours(one)} for one in found.work]
    hours = sum(found.hours(one) for one in found.work)
    return {
        "total": {
            **_totals(found.work),
            **{f"{key}_to_do": value for key, value in _totals([one for one in found.work if not one.done]).items()},
            "hours": hours,
            "cost": None if price is None else hours * price,
            "disk_bytes": sum(one.disk for one in found.work) + sum(found.checkpoints.values()),
        },
        "device": found.device,
        "rates": {
            name: {"flops": None if math.isnan(rate) else rate, "source": source}
            for name, (rate, source) in found.rates.items()
        },
        "unknown_sizes": list(found.unknown),
        "not_here": list(found.unresolved),
        "unmeasured_tasks": list(found.unmeasured),
        "work": work,
    }


def _totals(work: Sequence[Work]) -> dict[str, float]:
    """Sum over rows and tasks: a task that six models rerank counts six times, its queries once."""
    rerankers = [one for one in work if one.kind == "reranker"]
    return {
        "tasks": len({one.task for one in work}),
        "queries": sum({one.task: one.queries for one in work}.values()),
        "pairs": sum(one.pairs for one in rerankers),
        "texts": sum(one.texts for one in work),
        "prompt_tokens": sum(one.prompt_tokens for one in work),
        "computed_tokens": sum(one.computed_tokens for one in work),
        "flops": sum(one.flops for one in work),
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
        own = [one for one in found.work if one.task == task]
        rerankers = [one for one in own if one.kind == "reranker"]
        shown = rerankers or own
        first = max(shown, key=lambda one: one.prompt_tokens)
        todo = sum(not one.done for one in own)
        rows.append(
            [
                task,
                f"{first.queries:,}",
                f"{first.pairs:,}",
                _millions(first.prompt_tokens),
                _millions(first.computed_tokens),
                _hours(sum(found.hours(one) for one in own)),
                f"{len(own) - todo} of {len(own)}" if todo else "all",
                first.source,
            ]
        )
    heads = ["task", "queries", "pairs", "prompt Mtok", "computed Mtok", "all models", "done", "lengths from"]
    return simple(heads, rows, "lrrrrrrl")


def _per_model(found: Estimate, price: float | None) -> str:
    rows = []
    keys = dict.fromkeys((one.kind, one.model, one.detail) for one in found.work)
    total = 0.0
    for kind, model, detail in keys:
        own = [one for one in found.work if (one.kind, one.model, one.detail) == (kind, model, detail)]
        hours = sum(found.hours(one) for one in own)
        total += hours
        amount = sum(one.pairs for one in own) if kind == "reranker" else sum(one.texts for one in own)
        flops = sum(one.left for one in own)
        rate = found.rates[own[0].rated][0] if flops else math.nan
        rows.append(
            [
                model if kind == "retriever" else f"+ {model}",
                detail,
                f"{amount:,} {'pairs' if kind == 'reranker' else 'texts'}",
                f"{flops / 1e15:,.3g}" if flops else "-",
                f"{rate / 1e12:,.3g}" if flops else "-",
                _hours(hours),
                "-" if price is None else f"{hours * price:,.2f}",
            ]
        )
    rows.append(["total", "", "", "", "", _hours(total), "-" if price is None else f"{total * price:,.2f}"])
    heads = ["model", "settings", "work", "PFLOP left", "TFLOP/s", "on one device", "cost"]
    return simple(heads, rows, "llrrrrr")


def _words(found: Estimate) -> list[str]:
    disk = sum(one.disk for one in found.work if not one.done)
    whole, left = _totals(found.work), _totals([one for one in found.work if not one.done])
    shared = sum(one.shared * one.pairs for one in found.work if not one.done)
    lines = [
        f"in all: {whole['tasks']} task(s), {whole['queries']:,} queries, {whole['pairs']:,} pairs over all rerankers, "
        f"{whole['prompt_tokens'] / 1e9:,.3g} billion tokens of prompts and texts, of which "
        f"{whole['computed_tokens'] / 1e9:,.3g} are computed",
        f"left: {left['pairs']:,} pairs, {left['texts']:,} texts to embed, "
        f"{left['computed_tokens'] / 1e9:,.3g} billion tokens, {left['flops'] / 1e18:,.3g} EFLOP",
        f"disk: results and embeddings {disk / 1e9:,.1f} GB, "
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
