"""Benchmarks as Markdown, put into a document between two markers: `python -m rerank_bench.table DOC FILE...`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rerank_bench.workloads import WORKLOADS


def to_markdown(document: dict[str, Any]) -> str:
    """Render one benchmark.

    Args:
        document: What `make bench` wrote.

    Returns:
        A heading, what it was measured on, and tables: peers, growth, dtypes.
    """
    machine = document["machine"]
    lines = [
        f"### {document['shape']}, {document['dtype']}, {document['device']}",
        "",
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}, transformers "
        f"{machine['transformers']}; matrix products at {document['matmul_flops'] / 1e9:,.0f} GFLOP/s.",
    ]
    if document["workloads"]:
        lines += [
            "",
            "| workload | engine | pairs/s | tokens/s | useful share of matmul rate | peak memory, MB "
            "| times as long |",
            "|---|---|--:|--:|--:|--:|--:|",
        ]
    for name, workload in document["workloads"].items():
        for label, row in workload["peers"].items():
            low, high = row["times_as_long_range"]
            engine, speed = f"{label} {row.get('version', '')}".strip(), row["pairs_per_second"]
            ratio = "1" if label == "ours" else f"{row['times_as_long_as_ours']:.1f} ({low:.1f} to {high:.1f})"
            lines.append(
                f"| {WORKLOADS[name].name} | {engine} | {speed:.1f} | {row['tokens_per_second']:,.0f} "
                f"| {row['share_of_matmul_rate']:.0%} | {row['peak_bytes'] / 2**20:,.0f} | {ratio} |"
            )
    if document["growth"]:
        lines += ["", "| pairs, streamed | ms a pair | peak memory above the model, MB |", "|--:|--:|--:|"]
        lines += [
            f"| {row['pairs']:,} | {row['seconds'] / row['pairs'] * 1e3:.2f} | {row['peak_bytes'] / 2**20:,.0f} |"
            for row in document["growth"]
        ]
    if document["dtypes"]:
        lines += [
            "",
            "| dtype | largest margin difference from float32 | Kendall's tau | alone against packed, largest |",
            "|---|--:|--:|--:|",
        ]
    for dtype, row in document["dtypes"].items():
        if "not run" in row:
            lines.append(f"| {dtype} | not run: {row['not run']} | | |")
            continue
        lines.append(
            f"| {dtype} | {row['largest_margin_difference']:.2g} | {row['kendall_tau_mean']:.4f} "
            f"| {row['largest_difference_alone']:.2g} |"
        )
    return "\n".join(lines) + "\n"


def insert(path: Path, documents: Sequence[dict[str, Any]]) -> None:
    """Put benchmarks between a file's markers.

    Args:
        path: A Markdown file with the markers of `bench`.
        documents: The benchmarks.

    Raises:
        ValueError: The file has no markers.
    """
    put(path, "\n".join(to_markdown(document) for document in documents))


def put(path: Path, tables: str, name: str = "bench") -> None:
    """Replace what stands between a file's markers.

    Args:
        path: A Markdown file with `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
        tables: What shall stand there.
        name: The markers' name.

    Raises:
        ValueError: The file has no markers.
    """
    first, last = (f"<!-- {name}:{place} -->" for place in ("begin", "end"))
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{path}: no {first} and {last}")
    path.write_text(f"{before}{first}\n\n{tables}\n{last}{after}", encoding="utf-8")


if __name__ == "__main__":
    read = [json.loads(Path(name).read_text(encoding="utf-8")) for name in sorted(sys.argv[2:])]
    insert(Path(sys.argv[1]), read)
