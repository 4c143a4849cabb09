"""The tables of docs/scaling.md: `python -m rerank_bench.scaling_table DOC BENCH_FOLDER PLAN`."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank_bench.scaling_subsets import Rates, hours_of
from rerank_bench.table import put

SUITE, MODEL = "MMTEB-R", "Qwen/Qwen3-Reranker-8B"
GPUS = (1, 8, 64)
DRIVERS = (1, 4)
_HOUR = 3600.0


def to_markdown(files: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Render all tables.

    Args:
        files: `workers`, `driver` and `rates`: what `make bench-scaling` wrote.
        plan: What `rerank-eval plan --json` wrote.

    Returns:
        Markdown.
    """
    machine = files["driver"]["machine"]
    parts = [
        f"{machine['device']}, {machine['cpus']} CPUs, ray {machine['ray']}, mteb "
        f"{machine['mteb']}, datasets {machine['datasets']}, torch {machine['torch']}.",
        _workers(files["workers"]),
        _driver(files["driver"]),
        _rates(files["rates"], files["driver"]),
        _cost(plan, files["rates"], files["driver"]),
    ]
    return "\n\n".join(parts) + "\n"


def _workers(found: Mapping[str, Any]) -> str:
    both, one = found["efficiency_of_two"], found["one_worker_to_one_process"]
    lines = [
        "### Two workers against one",
        "",
        f"Preset {found['preset']}, {found['pairs']:,} pairs a turn, {len(both)} turns in alternation; results bitwise "
        f"equal: {'yes' if found['bitwise_equal'] else 'NO'}.",
        "",
        "| what | pairs/s, median | lowest to highest | share of the time with work | processor ms a pair |",
        "|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {name} | {found['median'][name]:.1f} | {min(values):.1f} to {max(values):.1f} "
        f"| {statistics.median(found['share_of_time_with_work'][name]):.0%} "
        f"| {statistics.median(found['cpu_seconds_per_pair'][name]) * 1e3:.1f} |"
        for name, values in found["pairs_per_second"].items()
    ]
    busy, cpu = found["share_of_time_with_work"], found["cpu_seconds_per_pair"]
    first, second = "1 worker(s), 1 thread each", "2 worker(s), 1 thread each"
    alone = [busy[second][turn] / busy[first][turn] * cpu[first][turn] / cpu[second][turn] for turn in range(len(both))]
    lines += [
        "",
        f"Two workers to twice one, turn by turn: by the clock {_spread(both)}; by processor time and time with work, "
        f"which is what they would do on cores of their own, {_spread(alone)}. One worker to one process, by the "
        f"clock: {_spread(one)}.",
    ]
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"median {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _driver(found: Mapping[str, Any]) -> str:
    lines = [
        "### The driver against simulated workers",
        "",
        f"Blocks of {found['block_tokens']:,.0f} tokens at most, 100 documents of 756 characters a query.",
        "",
        "| worker's speed | workers | pairs/s | of what they could do | driver's CPU, us a pair | share of a core |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['speed']}: {row['rate']:,.0f} pairs/s | {row['workers']} | {row['pairs_per_second']:,.0f} "
        f"| {row['pairs_per_second'] / row['possible_pairs_per_second']:.0%} "
        f"| {row['driver_cpu_seconds_per_pair'] * 1e6:.1f} | {row['driver_cpu_share']:.0%} |"
        for row in found["rows"]
    ]
    best = max(row["pairs_per_second"] for row in found["rows"])
    lines += [
        "",
        f"The most that came through: {best:,.0f} pairs/s, with driver, store and simulated workers on the same "
        f"{found['machine']['cpus']} cores. What it costs the driver to serve the most of the slower workers, "
        f"{1e6 / ceiling(found):.1f} us a pair, "
        f"allows {ceiling(found):,.0f} pairs/s on a core of its own; that is what is reckoned with below.",
    ]
    return "\n".join(lines)


def ceiling(found: Mapping[str, Any]) -> float:
    """Return the pairs a second that the driver's processor time allows, with the most workers simulated."""
    most = max(row["workers"] for row in found["rows"])
    seconds = [row["driver_cpu_seconds_per_pair"] for row in found["rows"] if row["workers"] == most]
    return float(1 / max(seconds))


def together(rates: Mapping[str, Any], driver: Mapping[str, Any]) -> float:
    """Return the pairs a second that one driver reads and hands out, which it does in one thread."""
    return float(1 / (1 / rates["read_pairs_per_second"] + 1 / ceiling(driver)))


def _rates(found: Mapping[str, Any], driver: Mapping[str, Any]) -> str:
    speeds = {row["speed"]: row["rate"] for row in driver["rows"]}
    rates = {
        "hand out blocks and take scores in": ceiling(driver),
        "read pairs, look for special tokens, look up and keep scores": found["read_pairs_per_second"],
        "**both, one after the other: the ceiling while scoring**": together(found, driver),
        "prepare and judge (mteb, before and after scoring)": found["judged_pairs_per_second"],
        "write a table of scores": found["table_pairs_per_second"],
        "write a file and wait for the disk": found["disk_bytes_per_second"] / found["table_bytes_per_pair"],
    }
    names = " | ".join(f"{name} workers at {rate:,.0f} pairs/s" for name, rate in speeds.items())
    lines = [
        "### Where one driver saturates",
        "",
        f"| what the driver does | pairs/s | {names} |",
        "|---|--:|" + "--:|" * len(speeds),
    ]
    for name, rate in rates.items():
        fed = " | ".join(f"{rate / speed:,.0f}" for speed in speeds.values())
        lines.append(f"| {name} | {rate:,.0f} | {fed} |")
    tokens = found["tokens_per_second_on_one_core"]
    lines += [
        "",
        f"Tokenising is the workers' business: {tokens:,.0f} tokens/s on one core "
        f"({found['bytes_per_token']:.2f} bytes a token). A worker computes "
        + ", ".join(f"{rate * 189:,.0f} ({name})" for name, rate in speeds.items())
        + " document tokens/s, so that it takes "
        + ", ".join(f"{rate * 189 / tokens:.2f} ({name})" for name, rate in speeds.items())
        + f" cores. The disk took {found['disk_bytes_per_second'] / 1e6:,.0f} MB/s; a pair of the results' table is "
        f"{found['table_bytes_per_pair']:.0f} bytes.",
    ]
    return "\n".join(lines)


def _cost(plan: Mapping[str, Any], rates: Mapping[str, Any], driver: Mapping[str, Any]) -> str:
    work = [one for one in plan["work"] if one["suite"] == SUITE and one["model"] == MODEL]
    first = [one for one in plan["work"] if one["suite"] == SUITE and one["kind"] == "retriever"]
    pairs = sum(one["pairs"] for one in work)
    gpu_hours = sum(one["hours"] for one in work)
    embed = sum(one["hours"] for one in first)
    rate = plan["rates"][f"{MODEL} bfloat16"]
    fed = together(rates, driver)
    lines = [
        f"### {SUITE} with {MODEL.partition('/')[2]}",
        "",
        f"{len(work)} tasks, {sum(one['queries'] for one in work):,} queries, {pairs:,} pairs, "
        f"{sum(one['computed_tokens'] for one in work):.3g} tokens computed, "
        f"{sum(one['flops'] for one in work):.3g} FLOP at {rate['flops'] / 1e12:,.0f} TFLOP/s "
        f"({rate['source']}): {gpu_hours:,.1f} GPU hours, and {embed:,.1f} more "
        f"for the retriever's embeddings. What a driver reads and hands out ({fed:,.0f} pairs/s) "
        "runs beside the GPUs; each subset's first reading and last blocks do not, nor does its judging "
        f"({rates['judged_pairs_per_second']:,.0f} pairs/s).",
        "",
        "| GPUs | drivers | GPUs at work, h | subset by subset, h | judging, h | in all, h | GPU hours paid "
        "| share at work |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    speed = Rates(rates["read_pairs_per_second"], ceiling(driver))
    for gpus in GPUS:
        for drivers in DRIVERS if gpus == max(GPUS) else DRIVERS[:1]:
            at_work = (gpu_hours + embed) / gpus
            ends = []
            for own, share in shared_out(work, gpus, drivers):
                scored = hours_of(own, SUITE, share, speed) + embed / gpus
                judge = sum(one["pairs"] for one in own) / rates["judged_pairs_per_second"] / _HOUR
                ends.append((scored + judge, scored, judge))
            total, scored, judge = max(ends)  # the driver that ends last
            lines.append(
                f"| {gpus} | {drivers} | {at_work:,.2f} | {scored:,.2f} | {judge:,.2f} | {total:,.2f} "
                f"| {total * gpus:,.0f} | {at_work / total:.0%} |"
            )
    return "\n".join(lines)


def shared_out(work: Sequence[Mapping[str, Any]], gpus: int, drivers: int) -> list[tuple[list[Mapping[str, Any]], int]]:
    """Share tasks out among drivers, which cannot part a task, and GPUs by what each driver's tasks take.

    Args:
        work: The tasks.
        gpus: All GPUs.
        drivers: How many drivers at most.

    Returns:
        Each driver's tasks and GPUs.
    """
    parts: list[list[Mapping[str, Any]]] = [[] for _ in range(drivers)]

    def hours(part: Sequence[Mapping[str, Any]]) -> float:
        return sum(float(one["hours"]) for one in part)

    for one in sorted(work, key=lambda one: -one["hours"]):
        min(parts, key=hours).append(one)
    parts = [part for part in parts if part]
    shares = [1] * len(parts)
    for _ in range(gpus - len(parts)):  # one after the other, to whom it helps most
        shares[max(range(len(parts)), key=lambda place: hours(parts[place]) / shares[place])] += 1
    return list(zip(parts, shares, strict=True))


if __name__ == "__main__":
    document, folder, planned = (Path(name) for name in sys.argv[1:4])
    read = {part: json.loads((folder / f"scaling-{part}.json").read_text()) for part in ("workers", "driver", "rates")}
    put(document, to_markdown(read, json.loads(planned.read_text(encoding="utf-8"))))
