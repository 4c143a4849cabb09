"""Puts what was measured of crashes, of large data and of hostile input into docs/results.md and docs/hostile-input.md.

python -m rerank_bench.results_table docs results
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank_bench.table import put


def crash_table(found: Mapping[str, Any]) -> str:
    """Render what `tests.crash.kills` wrote.

    Args:
        found: The file's content.
    """
    stages = ", ".join(f"{count} while {stage}" for stage, count in found["stages"].items())
    return (
        "| kills | runs that ended, all identical | pairs of a run | most pairs lost by a kill | scored twice though "
        "stored |\n|--:|--:|--:|--:|--:|\n"
        f"| {found['kills']} ({stages}) | {found['runs_finished_and_identical']} | {found['pairs_of_a_run']:,} "
        f"| {found['most_pairs_lost_by_a_kill']} (blocks of {found['block_pairs']}) "
        f"| {found['pairs_scored_twice_though_stored']} |\n"
    )


def large_table(found: Mapping[str, Any]) -> str:
    """Render what `bench.large` wrote.

    Args:
        found: The file's content.
    """
    lines = ["| what | seconds | peak memory, MB |", "|---|--:|--:|"]
    if "scores" in found:
        one = found["scores"]
        took = f"{one['write_seconds']:,.0f} to write, {one['read_seconds']:,.0f} to open and look each up"
        lines.append(
            f"| score cache, {one['scores']:,} scores in {one['size_mb']:,.0f} MB | {took} | {one['peak_mb']:,.0f} |"
        )
    if "pairs" in found:
        one = found["pairs"]
        for stage in ("retrieve", "rerank"):
            what = f"{stage} {one['pairs']:,} pairs ({one['queries']:,} queries, {one['documents']:,} documents)"
            lines.append(f"| {what} | {one[stage]['seconds']:,.0f} | {one[stage]['peak_mb']:,.0f} |")
    if "documents" in found:
        one = found["documents"]
        ran = one["retrieve_and_rerank"]
        what = f"search {one['documents']:,} documents by vectors of {one['dim']}, rerank what is found"
        lines.append(f"| {what} | {ran['seconds']:,.0f} | {ran['peak_mb']:,.0f} |")
    return "\n".join(lines) + "\n"


def fuzz_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Render what `tests.fuzzing.run` wrote.

    Args:
        found: The files' content, one a reader.
    """
    lines = [
        "| reader | inputs | read or set aside | refused in one line | anything else | seconds |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    rows = [(one["target"], one["runs"], one["ended"].get("ok", 0), one["violations"], one["seconds"]) for one in found]
    rows.append(("all", *(sum(row[place] for row in rows) for place in range(1, 5))))
    lines += [
        f"| {name} | {runs:,} | {ok:,} | {runs - ok - bad:,} | {bad} | {seconds:,.0f} |"
        for name, runs, ok, bad, seconds in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Insert what is there."""
    docs, results = Path(sys.argv[1]), Path(sys.argv[2])
    for name, path, render in (
        ("crash", results / "crash" / "kills.json", crash_table),
        ("large", results / "bench" / "large.json", large_table),
    ):
        if path.is_file():
            put(docs / "results.md", render(json.loads(path.read_text(encoding="utf-8"))), name)
    fuzzed = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / "fuzz").glob("*.json"))]
    if fuzzed:
        put(docs / "hostile-input.md", fuzz_table(fuzzed), "fuzz")


if __name__ == "__main__":
    main()
