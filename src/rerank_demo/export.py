"""From a run's averaged weights to a checkpoint in the hub's layout, with the card that the run writes."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from rerank_demo.card import model_card
from rerank_demo.corpus import Package

MAX_BYTES = 16_000_000


def export(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    record: Mapping[str, Any],
    listed: Sequence[Package],
) -> Path:
    """Write a checkpoint.

    Args:
        model: The network with the weights to ship; not changed.
        tokenizer: Its tokenizer.
        folder: Replaced when it exists.
        record: What the run knows about itself, for the card and `training.json`.
        listed: Packages trained on, for the card.

    Returns:
        The folder.

    Raises:
        ValueError: The weights are larger than 16 MB.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    small = copy.deepcopy(model).to(torch.bfloat16)
    small.config.dtype = torch.bfloat16
    small.save_pretrained(temporary)
    # Nothing is generated with it, and a loader reads the file where it stands.
    (temporary / "generation_config.json").unlink(missing_ok=True)
    tokenizer.save_pretrained(temporary)
    size = (temporary / "model.safetensors").stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"model.safetensors has {size:,} bytes, more than {MAX_BYTES:,}")
    (temporary / "model.safetensors").chmod(0o644)
    rows = {**record, "bytes": size, "packages": [asdict(package) for package in listed]}
    (temporary / "training.json").write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (temporary / "README.md").write_text(model_card(rows), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    return folder
