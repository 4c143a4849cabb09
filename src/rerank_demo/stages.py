"""What a run was at each of its steps: settings that changed on the way, and the runs whose weights it began with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from rerank_demo.loop import append_log, read_log
from rerank_eval.files import load_json
from rerank_eval.pipeline.provenance import environment

_STAGES = "stages.jsonl"
_BEGUN = "begun.json"


def note_stage(folder: Path, step: int, stage: Mapping[str, Any]) -> None:
    """Note from which step on a run goes by other settings or code, so that it can be done again stage by stage.

    Args:
        folder: The run's.
        step: Where it stands.
        stage: `settings`, `decay_steps` and `queries`.
    """
    before, now = read_log(folder / _STAGES), {**stage, "code": environment()["git"]}
    if not before or any(before[-1][key] != value for key, value in now.items()):
        append_log(folder / _STAGES, {"step": step, **now})


def stages(folder: Path) -> list[dict[str, Any]]:
    """Say what each stage of a run changed, the first one's settings left out."""
    found = []
    for before, after in pairwise(read_log(folder / _STAGES)):
        old, new = _flat(before["settings"]), _flat(after["settings"])
        changed = {key: [old[key], value] for key, value in new.items() if old[key] != value}
        if after["queries"] != before["queries"]:
            changed["queries"] = [before["queries"], after["queries"]]
        found.append({**{key: after[key] for key in ("step", "decay_steps", "code")}, "changed": changed})
    return found


def pairs_trained(folder: Path, steps: int, settings: Mapping[str, Any]) -> int:
    """Count the pairs of a run's first steps, stage by stage, as settings change how many a step has.

    Args:
        folder: The run's.
        steps: How many.
        settings: What it goes by where it has noted no stage.
    """
    rows = read_log(folder / _STAGES) or [{"step": 0, "settings": settings}]
    ends = [min(row["step"], steps) for row in rows[1:]] + [steps]
    return sum(
        max(0, end - row["step"]) * row["settings"]["batches"]["groups"] * (row["settings"]["batches"]["negatives"] + 1)
        for row, end in zip(rows, ends, strict=True)
    )


def note_begin(folder: Path, checkpoint: Path) -> None:
    """Note which runs an exported checkpoint comes from, the first one first."""
    record = load_json(checkpoint / "training.json")
    own = {key: record[key] for key in ("steps", "pairs", "hours", "seed", "settings", "stages")}
    (folder / _BEGUN).write_text(json.dumps([*record["begun"], own], indent=1) + "\n", encoding="utf-8")


def earlier_runs(folder: Path) -> list[dict[str, Any]]:
    """Return what `note_begin` noted; nothing of a run that began with wired weights."""
    path = folder / _BEGUN
    found: list[dict[str, Any]] = load_json(path) if path.is_file() else []
    return found


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Name nested settings as `--set` does."""
    nested = {
        f"{part}.{key}": one
        for part, value in settings.items()
        if isinstance(value, dict)
        for key, one in value.items()
    }
    return {**{key: value for key, value in settings.items() if not isinstance(value, dict)}, **nested}
