"""The scaling benchmark: its tables say what its files hold, and its parts run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerank_bench import scaling_driver, scaling_rates
from rerank_bench.scaling_subsets import Rates, hours_of
from rerank_bench.scaling_table import ceiling, shared_out, to_markdown
from rerank_bench.table import put

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "results" / "bench"


def measured() -> dict[str, Any]:
    return {part: json.loads((BENCH / f"scaling-{part}.json").read_text()) for part in ("workers", "driver", "rates")}


def plan() -> Any:
    return json.loads((ROOT / "results" / "plan" / "model-card.json").read_text())


def test_the_document_s_tables_are_those_of_the_files(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    copy = tmp_path / "scaling.md"
    copy.write_text(text, encoding="utf-8")
    put(copy, to_markdown(measured(), plan()))
    assert copy.read_text(encoding="utf-8") == text


def test_the_cost_follows_from_the_plan_and_the_rates() -> None:
    files = measured()
    work = [w for w in plan()["work"] if (w["suite"], w["model"]) == ("MMTEB-R", "Qwen/Qwen3-Reranker-8B")]
    first = [w for w in plan()["work"] if (w["suite"], w["kind"]) == ("MMTEB-R", "retriever")]
    hours = sum(w["hours"] for w in work) + sum(w["hours"] for w in first)
    speed = Rates(files["rates"]["read_pairs_per_second"], ceiling(files["driver"]))
    embed = sum(w["hours"] for w in first)
    judged = files["rates"]["judged_pairs_per_second"] * 3600
    # Four drivers: one has Belebele, and three fifths of the GPUs.
    largest = [w for w in work if w["task"] == "BelebeleRetrieval"]
    share = round(64 * largest[0]["hours"] / sum(w["hours"] for w in work))
    rows = [line for line in to_markdown(files, plan()).splitlines() if line.startswith(("| 1 | 1 |", "| 64 | 4 |"))]
    cells = [[float(cell.replace(",", "")) for cell in row.strip("| ").split(" | ")[:6]] for row in rows]
    for row, gpus, drivers, own, mine in ((cells[0], 1, 1, work, 1), (cells[1], 64, 4, largest, share)):
        scored = hours_of(own, "MMTEB-R", mine, speed) + embed / gpus
        judge = sum(w["pairs"] for w in own) / judged
        assert row == pytest.approx([gpus, drivers, hours / gpus, scored, judge, scored + judge], abs=0.03)


def test_a_driver_has_whole_tasks_and_its_share_of_the_gpus() -> None:
    work = [{"task": name, "hours": hours} for name, hours in (("a", 6.0), ("b", 1.0), ("c", 1.0), ("d", 2.0))]
    parts = shared_out(work, 10, 2)
    assert [([one["task"] for one in own], gpus) for own, gpus in parts] == [(["a"], 6), (["d", "b", "c"], 4)]
    assert sorted(gpus for _, gpus in shared_out(work[:2], 64, 4)) == [9, 55]


def test_the_ceiling_is_that_of_the_most_workers() -> None:
    rows = [
        {"workers": 8, "driver_cpu_seconds_per_pair": 1e-3},
        {"workers": 256, "driver_cpu_seconds_per_pair": 1e-5},
        {"workers": 256, "driver_cpu_seconds_per_pair": 2e-5},
    ]
    assert ceiling({"rows": rows}) == pytest.approx(50_000)


def test_reading_counts_every_pair_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scaling_rates, "QUERIES", 5)
    monkeypatch.setattr(scaling_rates, "CORPUS", 300)
    found = scaling_rates._reading(tmp_path)
    assert 400 < found["read_pairs"] <= 500  # a few documents are drawn twice
    assert found["read_pairs_per_second"] > 0


@pytest.mark.slow
def test_simulated_workers_keep_their_pace() -> None:
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        found = scaling_driver._run(2000.0, 2, 4.0)
    finally:
        ray.shutdown()
    assert found["workers"] == 2
    assert 0.3 * 4000 < found["pairs_per_second"] <= 4000 * 1.01
    assert found["pairs"] == pytest.approx(found["pairs_per_second"] * found["seconds"])
