"""A checkpoint's files: where they lie, whether its weights are whole, how much memory they take. Nothing is loaded."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank_eval.config import RerankerConfig, RetrieverConfig
from rerank_eval.config.schema import BM25
from rerank_eval.engine.quantize import weights_dtype
from rerank_eval.errors import ModelError
from rerank_eval.files import load_json
from rerank_eval.models.contents import ContentsError, IncompleteError, read_folder
from rerank_eval.models.resolve import ModelRef

_LENGTH = 8
"""Bytes in which a safetensors file says how long its header is (https://github.com/huggingface/safetensors)."""
_LONGEST_HEADER = 100_000_000
"""Bytes of a header that safetensors itself accepts at most."""


@dataclass(frozen=True)
class Subject:
    """A model of the config in the role that it has there.

    Attributes:
        role: `retriever` or `reranker`, as in the config's keys.
        config: Its section.
        ref: The model, resolved.
        folder: Where its files lie; None for BM25, and for a hub model that is not in the cache.
    """

    role: str
    config: RetrieverConfig | RerankerConfig
    ref: ModelRef
    folder: Path | None

    @property
    def label(self) -> str:
        """What the report calls it."""
        return f"{self.role} {self.ref.label}"


def folder_of(ref: ModelRef) -> Path | None:
    """Find the folder that holds a model's files.

    Args:
        ref: The model, resolved.

    Returns:
        The folder, a snapshot of the hub's cache among them; None for BM25 and for what is not in the cache.
    """
    if ref.source == BM25:
        return None
    if ref.origin != "hub":
        return Path(ref.source)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(ref.source, "config.json", revision=ref.revision)
    return Path(found).parent if isinstance(found, str) else None


def count_parameters(folder: Path, where: str, *, pinned: bool = False) -> int | None:
    """Read the headers of a checkpoint's weights, and hold the files' sizes against them.

    Args:
        folder: The checkpoint's folder.
        where: Config key for error messages.
        pinned: See `contents`.

    Returns:
        Number of weights, those of sentence-transformers' modules among them; None where no weights are there at all.

    Raises:
        ModelError: The folder is no checkpoint that could be loaded in one way, or a file is missing, cut short or no
            safetensors file.
    """
    if not any(folder.glob("*.safetensors*")):
        return None
    try:
        found = read_folder(folder, pinned=pinned)
    except ContentsError as error:
        raise ModelError(f"{where}: {folder}: {error}") from None
    tensors = [name for name in (*found.weights, *found.parts) if name.endswith(".safetensors")]
    return sum(_parameters_in(folder / name, where) for name in tensors)


def lacks_files(folder: Path) -> bool:
    """Tell whether files of a checkpoint are missing that a download would bring."""
    try:
        read_folder(folder, pinned=True)
    except ContentsError as error:
        return isinstance(error, IncompleteError)
    return False


def _parameters_in(shard: Path, where: str) -> int:
    size = shard.stat().st_size
    with shard.open("rb") as handle:
        length = int.from_bytes(handle.read(_LENGTH), "little")
        if size < _LENGTH or length > min(_LONGEST_HEADER, size - _LENGTH):
            raise ModelError(f"{where}: {shard}: cut short, or no safetensors file ({size:,} bytes); fetch it again")
        try:
            header = json.loads(handle.read(length))
            entries = [entry for name, entry in header.items() if name != "__metadata__"]
            wanted = _LENGTH + length + max((int(entry["data_offsets"][1]) for entry in entries), default=0)
            parameters = sum(int(math.prod(entry["shape"])) for entry in entries)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise ModelError(f"{where}: {shard}: its header is damaged; fetch it again") from None
    if size != wanted:
        raise ModelError(
            f"{where}: {shard}: holds {size:,} bytes of {wanted:,}; the download broke off, fetch it again"
        )
    return parameters


def bytes_needed(parameters: int, dtype: str) -> int:
    """Estimate the memory that weights take.

    Args:
        parameters: Number of weights.
        dtype: As in a config; quantised weights are loaded in bfloat16 first.

    Returns:
        Bytes.
    """
    return parameters * weights_dtype(dtype).itemsize


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read one of a checkpoint's JSON files; empty where it is missing or no object."""
    try:
        value = load_json(folder / name)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def heads_of(folder: Path | None) -> tuple[int, int, int] | None:
    """Return query heads, key and value heads, and head_dim from config.json, or None where it has none."""
    config = read_json(folder, "config.json") if folder is not None else {}
    try:
        queries = int(config["num_attention_heads"])
        keys = int(config.get("num_key_value_heads") or queries)
        return queries, keys, int(config.get("head_dim") or int(config["hidden_size"]) // queries)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
