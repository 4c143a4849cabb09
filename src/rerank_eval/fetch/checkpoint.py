"""Which files of a model's repository its loading needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

CONFIG, MODULES = "config.json", "modules.json"
_INDEX = "model.safetensors.index.json"
_SMALL = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")
_OTHER_FORMATS = ("*.bin.index.json", "*.h5.index.json", "*.msgpack.index.json", "*.safetensors.index.*.json")
_CHAT_TEMPLATES = "additional_chat_templates/"


class CheckpointError(Exception):
    """The repository holds no checkpoint that could be loaded; the message is a clause without its name."""


def checkpoint_files(names: Iterable[str], modules: Any, *, remote_code: bool) -> list[str]:
    """Choose a repository's files that loading its model reads.

    Configuration, tokenizer and prompts as transformers and sentence-transformers save them, the weights as
    safetensors, and the folders of sentence-transformers' modules. Nothing in another format: PyTorch's pickles,
    ONNX, OpenVINO, TensorFlow, GGUF.

    Args:
        names: All files, as paths inside the repository.
        modules: What its modules.json holds, or None where there is none.
        remote_code: Whether the model may run code of its own.

    Returns:
        The files in order.

    Raises:
        CheckpointError: There is no config.json, or there are no safetensors weights.
    """
    names = sorted(names)
    if CONFIG not in names:
        raise CheckpointError(f"has no {CONFIG}")
    chosen = {name for name in names if "/" not in name and _is_small(name)} | set(_weights(names))
    chosen |= {name for name in names if name.startswith(_CHAT_TEMPLATES) and name.endswith(".jinja")}
    for folder in _module_folders(modules):
        inside = [name for name in names if name.startswith(f"{folder}/")]
        chosen |= {name for name in inside if _is_small(PurePosixPath(name).name)}
        tensors = [name for name in inside if name.endswith(".safetensors")]
        chosen |= set(tensors or [name for name in inside if name.endswith(".bin")])
    if remote_code:
        chosen |= {name for name in names if name.endswith(".py")}
    return sorted(chosen)


def _is_small(name: str) -> bool:
    return any(fnmatch(name, one) for one in _SMALL) and not any(fnmatch(name, one) for one in _OTHER_FORMATS)


def _weights(names: Sequence[str]) -> list[str]:
    """Return the root's weights: the whole file, or an index's shards, before variants of other names."""
    at_root = [name for name in names if "/" not in name and name.endswith(".safetensors")]
    if not at_root:
        raise CheckpointError("has no .safetensors weights; pickled weights are not loaded, convert them first")
    patterns = ["model.safetensors", *(["model-*-of-*.safetensors"] if _INDEX in names else [])]
    return [name for name in at_root if any(fnmatch(name, one) for one in patterns)] or at_root


def _module_folders(modules: Any) -> list[str]:
    """Return the folders that modules.json names, without the root, where most keep the transformer itself."""
    listed = modules if isinstance(modules, list) else []
    paths = [str(step.get("path") or "") for step in listed if isinstance(step, dict)]
    return [path.strip("/") for path in paths if path.strip("/") not in {"", "."}]


def code_repositories(config: Any) -> list[str]:
    """Return other repositories whose code a model runs, by its config.json's `auto_map`.

    An entry `ORG/NAME--module.Class` names a class of another repository
    (https://huggingface.co/docs/transformers/custom_models).

    Args:
        config: What its config.json holds.
    """
    auto_map = config.get("auto_map") if isinstance(config, Mapping) else None
    values = auto_map.values() if isinstance(auto_map, Mapping) else []
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return sorted({one.partition("--")[0] for one in flat if isinstance(one, str) and "--" in one})
