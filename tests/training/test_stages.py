"""What a run notes about its stages."""

from __future__ import annotations

from pathlib import Path

from rerank_demo.stages import note_stage, pairs_trained, stages


def _stage(groups: int, decay: int | None = None) -> dict[str, object]:
    return {"settings": {"seed": 0, "batches": {"groups": groups, "negatives": 11}}, "decay_steps": decay, "queries": 9}


def test_pairs_are_counted_stage_by_stage(tmp_path: Path) -> None:
    for step, groups in ((0, 8), (100, 4), (150, 4), (300, 8)):
        note_stage(tmp_path, step, _stage(groups))
    assert [(one["step"], one["changed"]) for one in stages(tmp_path)] == [
        (100, {"batches.groups": [8, 4]}),
        (300, {"batches.groups": [4, 8]}),
    ]
    assert pairs_trained(tmp_path, 350, {}) == (100 * 8 + 200 * 4 + 50 * 8) * 12
    assert pairs_trained(tmp_path, 200, {}) == (100 * 8 + 100 * 4) * 12
    assert pairs_trained(tmp_path, 50, {}) == 50 * 8 * 12
    assert pairs_trained(tmp_path / "none", 50, {"batches": {"groups": 2, "negatives": 3}}) == 50 * 2 * 4
