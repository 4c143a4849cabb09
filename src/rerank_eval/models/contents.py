"""Which files a checkpoint consists of: one answer for the loaders, the identity's digest, `doctor` and `fetch`.

The rules are those of transformers 5 (`_get_resolved_checkpoint_files`) with `use_safetensors=True` and of
sentence-transformers 6, so that what is listed here is what is opened. A folder that can be read in two ways is
refused.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from rerank_eval.files import load_json

CONFIG, MODULES = "config.json", "modules.json"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ROUTER, ADAPTER = "router_config.json", "adapter_config.json"
TELLING = (CONFIG, MODULES, INDEX, ROUTER, ADAPTER)
"""Files at the root that tell which others are needed."""

_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_TEXT = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.codes", "*.spm", "*.tokenizer")
"""Configuration, templates, and every name that transformers' tokenizers keep their vocabulary under."""
_OTHER_FORMATS = ("*.bin.index.json", "*.h5.index.json", "*.msgpack.index.json", "*.safetensors.index.*.json")
_CHAT_TEMPLATES = "additional_chat_templates/"
_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a pointer file begins (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""
ROOT = "."
"""Folder of a module that lies at the checkpoint's root, where most keep the transformer itself."""
_SHOWN = 80

Read = Callable[[str], Any]
"""A file's name to its JSON content; None where there is no such file. ValueError where it is no JSON."""


class ContentsError(Exception):
    """What is there is no checkpoint that could be loaded in one way; the message is a clause without its name."""


class IncompleteError(ContentsError):
    """Files are missing that a download may bring."""


@dataclass(frozen=True)
class Contents:
    """The files that a checkpoint consists of, as paths inside it.

    Attributes:
        weights: The transformer's, at the root: the whole file or the shards, in order.
        parts: Weights of sentence-transformers' modules in folders of their own.
        texts: Configuration, tokenizer, prompts and templates, at the root and in the modules' folders.
        code: Python files; they run only where a config lets them.
        note: What a reader has to know of how the weights were chosen; empty where there is nothing.
    """

    weights: tuple[str, ...]
    parts: tuple[str, ...]
    texts: tuple[str, ...]
    code: tuple[str, ...]
    note: str = ""

    @property
    def loaded(self) -> list[str]:
        """Everything but code, in order."""
        return sorted({*self.weights, *self.parts, *self.texts})


def contents(names: Iterable[str], read: Read, *, pinned: bool = False) -> Contents:
    """Choose the files that loading a checkpoint opens.

    Nothing in another format: PyTorch's pickles at the root, ONNX, OpenVINO, TensorFlow, GGUF.

    Args:
        names: All files that are there, as paths inside the checkpoint.
        read: Reads one of them.
        pinned: The files are all of one commit that is known, so that its identity covers whichever of two readings
            transformers takes: it is told instead of refused.

    Raises:
        ContentsError: There is an adapter; the weights can be read in two ways; there are none that would be opened; or
            a file that tells which others are needed cannot be read.
        IncompleteError: config.json, the weights or a shard are missing.
    """
    there = set(names)
    folders = {folder for _, folder in named_modules(_json(read, MODULES) if MODULES in there else None)} - {ROOT}
    folders |= {*_routed(there, read), *(name.partition("/")[0] for name in there if _is_score(name))}
    _refuse_adapters(there, folders, read)
    if CONFIG not in there and ROUTER in there:
        raise ContentsError(
            f"sends texts to several networks by its {ROUTER}, and has no {CONFIG}; it is not loaded here"
        )
    if CONFIG not in there:
        raise IncompleteError(f"has no {CONFIG}")
    weights, note = _weights(there, read, pinned=pinned)
    inside = [name for name in sorted(there) if any(name.startswith(f"{folder}/") for folder in folders)]
    texts = [name for name in there if "/" not in name and _is_text(name)]
    texts += [name for name in there if name.startswith(_CHAT_TEMPLATES) and name.endswith(".jinja")]
    texts += [name for name in inside if _is_text(PurePosixPath(name).name)]
    code = sorted(name for name in there if name.endswith(".py"))
    return Contents(weights, tuple(_tensors(inside)), tuple(sorted(texts)), tuple(code), note)


def read_folder(folder: Path, *, pinned: bool = False) -> Contents:
    """Say which files of a folder a checkpoint consists of; see `contents`."""
    found = contents(files_below(folder), lambda name: _load(folder / name), pinned=pinned)
    for name in found.loaded:
        with (folder / name).open("rb") as handle:
            if handle.read(len(_POINTER)) == _POINTER:
                raise IncompleteError(f"{name} is a pointer of Git LFS and not the file; run `git lfs pull` there")
    return found


def files_below(folder: Path) -> list[str]:
    """List a folder's files as paths inside it, without hidden folders such as `.cache` and `.git`."""
    found: list[str] = []
    seen: set[str] = set()
    for path, folders, files in os.walk(folder, followlinks=True):  # as loaders do
        real = os.path.realpath(path)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        seen.add(real)
        inside = Path(path).relative_to(folder)
        found += [(inside / name).as_posix() for name in files if (Path(path) / name).is_file()]
    return found


def _load(path: Path) -> Any:
    try:
        return load_json(path)
    except OSError:
        return None


def _json(read: Read, name: str) -> Any:
    try:
        return read(name)
    except ValueError:
        raise ContentsError(f"its {name} is no JSON file") from None


def _is_score(name: str) -> bool:
    """Recognise a reranker's answers, which count even where modules.json was left behind."""
    return fnmatch(name, "*_LogitScore/config.json") and name.count("/") == 1


def _is_text(name: str) -> bool:
    return any(fnmatch(name, one) for one in _TEXT) and not any(fnmatch(name, one) for one in _OTHER_FORMATS)


def _refuse_adapters(there: Collection[str], folders: Iterable[str], read: Read) -> None:
    """Refuse LoRA and its kin: whether they are applied hangs on which packages are installed."""
    for prefix in ("", *(f"{folder}/" for folder in sorted(folders))):
        found = [name for name in (ADAPTER, *_ADAPTER_WEIGHTS) if prefix + name in there]
        if not found:
            continue
        content = _json(read, prefix + ADAPTER) if ADAPTER in found else None
        base = content.get("base_model_name_or_path") if isinstance(content, Mapping) else None
        base = f" of {str(base)[:_SHOWN]}" if base else ""
        remedy = "merge it first (peft: load it, merge_and_unload(), save_pretrained()) and name that folder"
        if prefix + CONFIG in there and {prefix + WHOLE, prefix + INDEX} & set(there):
            raise ContentsError(
                f"holds an adapter (LoRA){base}, {prefix}{found[0]}, beside a whole model, {prefix}{CONFIG}: it can be "
                f"read with the adapter or without; {remedy}, or take the adapter's files away"
            )
        raise ContentsError(f"is an adapter (LoRA){base}, {prefix}{found[0]}, without its model; {remedy}")


def _weights(there: Collection[str], read: Read, *, pinned: bool) -> tuple[tuple[str, ...], str]:
    """Return the root's weights in the order in which transformers looks for them."""
    config = _json(read, CONFIG)
    named = config.get("transformers_weights") if isinstance(config, Mapping) else None
    if named is not None:
        if not isinstance(named, str) or named not in there or "/" in named:
            raise IncompleteError(f"its {CONFIG} names weights that are not there: {str(named)[:_SHOWN]}")
        return (_shards(named, there, read) if named.endswith(".json") else (named,)), ""
    shards = _shards(INDEX, there, read) if INDEX in there and (WHOLE not in there or not pinned) else ()
    if WHOLE in there:
        if INDEX not in there or shards == (WHOLE,):
            return (WHOLE,), ""
        if pinned:
            return (WHOLE,), f"{WHOLE} was loaded, as transformers does, and not the shards of {INDEX}"
        raise ContentsError(
            f"holds {WHOLE} as well as {INDEX} ({len(shards)} shard(s)), which can be read in two ways; take one of "
            "them away"
        )
    if shards:
        return shards, ""
    others = sorted(name for name in there if "/" not in name and name.endswith(".safetensors"))
    if others:
        raise ContentsError(
            f"has no {WHOLE} and no {INDEX}, which are what loaders open, but {others[0][:_SHOWN]}; rename it if it is "
            "the whole model"
        )
    raise IncompleteError("no .safetensors weights there; pickled weights are not loaded, convert them first")


def _shards(index: str, there: Collection[str], read: Read) -> tuple[str, ...]:
    content = _json(read, index)
    named = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(named, Mapping) or not named:
        raise ContentsError(f"{index} is not a safetensors index")
    names = sorted({str(name) for name in named.values()})
    unsafe = [name for name in names if "/" in name or "\\" in name or not name.endswith(".safetensors")]
    if unsafe:
        raise ContentsError(f"{index} names {unsafe[0][:_SHOWN]!r}, which is no safetensors file beside it")
    missing = [name for name in names if name not in there]
    if missing:
        raise IncompleteError(f"shard {missing[0][:_SHOWN]} is missing ({len(missing)} in all); download it again")
    return tuple(names)


def _tensors(inside: Sequence[str]) -> list[str]:
    """Return the modules' weights; sentence-transformers takes a pickle where a module has no safetensors."""
    chosen = [name for name in inside if name.endswith(".safetensors")]
    with_tensors = {PurePosixPath(name).parent for name in chosen}
    pickles = [name for name in inside if name.endswith(".bin") and PurePosixPath(name).parent not in with_tensors]
    return sorted([*chosen, *pickles])


def named_modules(modules: Any) -> list[tuple[str, str]]:
    """Return class, without its package, and folder of each module in sentence-transformers' modules.json.

    `modules` is what the file holds, None where there is none.

    Raises:
        ContentsError: It is no list of modules, or names a folder that lies elsewhere.
    """
    listed = [] if modules is None else modules
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) and one.get("type") for one in listed):
        raise ContentsError(f"its {MODULES} is not a list of modules, each with a type and a path")
    return [(str(one["type"]).rsplit(".", 1)[-1], _plain(str(one.get("path") or ""))) for one in listed]


def _plain(path: str) -> str:
    """Write a folder's path as it stands in the names of files; `./2_Dense` is loaded like `2_Dense`."""
    plain = posixpath.normpath(path.strip("/") or ROOT)
    if plain.startswith(".."):
        raise ContentsError(f"its {MODULES} names {path[:_SHOWN]!r}, which leads out of its folder")
    return plain


def _routed(there: Collection[str], read: Read) -> list[str]:
    """Return the folders of a router's modules, which stand beside its configuration."""
    if ROUTER not in there:
        return []
    content = _json(read, ROUTER)
    types = content.get("types") if isinstance(content, Mapping) else None
    return [_plain(str(name)) for name in types] if isinstance(types, Mapping) else []


def code_repositories(config: Any) -> list[str]:
    """Return other repositories whose code a model runs, by the `auto_map` of its config.json.

    An entry `ORG/NAME--module.Class` names a class of another repository
    (https://huggingface.co/docs/transformers/custom_models).
    """
    auto_map = config.get("auto_map") if isinstance(config, Mapping) else None
    values = auto_map.values() if isinstance(auto_map, Mapping) else []
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return sorted({one.partition("--")[0] for one in flat if isinstance(one, str) and "--" in one})
