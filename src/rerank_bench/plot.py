"""One figure of a benchmark: pairs a second by peer and workload, and cost as pairs grow."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt

from rerank_bench.workloads import WORKLOADS

# Okabe and Ito's palette, told apart by colour-blind readers and in grey.
COLOURS = ("#0072B2", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#F0E442", "#000000")


def draw(document: dict[str, Any], path: Path) -> Path:
    """Draw a benchmark's figure.

    Args:
        document: What `measure` returned.
        path: SVG file to write.

    Returns:
        The path.
    """
    names = list(document["workloads"])
    columns = len(names) + bool(document["growth"])
    with mpl.rc_context({"svg.hashsalt": "rerank-eval", "svg.fonttype": "path", "font.size": 9}):
        figure, axes = plt.subplots(1, columns, figsize=(3.1 * columns, 3.4), layout="constrained", squeeze=False)
        for axis, name in zip(axes[0], names, strict=False):
            _bars(axis, WORKLOADS[name].name, document["workloads"][name]["peers"])
        if document["growth"]:
            _growth(axes[0][-1], document["growth"])
        machine = document["machine"]
        figure.suptitle(f"{document['shape']}, {document['dtype']}, {machine['device']} (torch {machine['torch']})")
        figure.savefig(path, format="svg", metadata={"Date": None})
        plt.close(figure)
    return path


def _bars(axis: Any, title: str, peers: dict[str, Any]) -> None:
    labels = list(peers)
    rates = [peers[label]["pairs_per_second"] for label in labels]
    bars = axis.barh(labels, rates, color=[COLOURS[i % len(COLOURS)] for i in range(len(labels))])
    ratios = [peers[label]["times_as_long_as_ours"] for label in labels]
    axis.bar_label(bars, [f" {rate:.3g}/s, {ratio:.2g}x" for rate, ratio in zip(rates, ratios, strict=True)])
    axis.invert_yaxis()
    axis.set_xlim(0, max(rates) * 1.55)
    axis.set_title(title)
    axis.set_xlabel("pairs a second; time of ours = 1x")
    axis.spines[["top", "right"]].set_visible(False)


def _growth(axis: Any, rows: list[dict[str, Any]]) -> None:
    pairs = [row["pairs"] for row in rows]
    axis.plot(pairs, [row["seconds"] / row["pairs"] * 1e3 for row in rows], "o-", color=COLOURS[0], label="ms a pair")
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_title("ours, as pairs grow")
    axis.set_xlabel("pairs")
    axis.set_ylabel("ms a pair", color=COLOURS[0])
    other = axis.twinx()
    other.plot(pairs, [row["peak_bytes"] / 2**20 for row in rows], "s--", color=COLOURS[4])
    other.set_ylim(bottom=0)
    other.set_ylabel("peak memory, MB", color=COLOURS[4])


if __name__ == "__main__":
    for name in sys.argv[1:]:
        draw(json.loads(Path(name).read_text(encoding="utf-8")), Path(name).with_suffix(".svg"))
