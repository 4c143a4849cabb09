"""A resolved model's files: single ones before anything is loaded, and the folder that a loader reads."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerank_eval.downloads import DownloadError, files_in, verify
from rerank_eval.errors import ModelError, OfflineError
from rerank_eval.files import load_json
from rerank_eval.hub import go_offline_if_unreachable, why_unreachable
from rerank_eval.models.contents import MODULES, ContentsError, named_modules, read_folder
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.resolve import hub_contents
from rerank_eval.typed import command


def read_json(ref: ModelRef, name: str) -> Any:
    """Read one of a checkpoint's JSON files.

    Returns:
        Its content; None where there is no such file.

    Raises:
        ModelError: What is there is no JSON: what it says would be passed over.
    """
    path = _file(ref, name)
    try:
        return None if path is None else load_json(path)
    except OSError:
        return None
    except ValueError as error:
        raise ModelError(f"{ref.name}: its {name} is no JSON file ({error}); fetch it again") from None


def read_mapping(ref: ModelRef, name: str) -> dict[str, Any]:
    """Read one of a checkpoint's JSON files that hold an object.

    Returns:
        Its content; empty where there is no such file.

    Raises:
        ModelError: What is there is no JSON object.
    """
    found = read_json(ref, name)
    if found is not None and not isinstance(found, dict):
        raise ModelError(f"{ref.name}: its {name} holds a {type(found).__name__}, not an object; fetch it again")
    return found or {}


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return what a file holds where it should hold an object; empty where it holds anything else."""
    return value if isinstance(value, Mapping) else {}


def modules(ref: ModelRef) -> list[tuple[str, str]]:
    """Return class and folder of each of sentence-transformers' modules; empty where the checkpoint names none."""
    try:
        return named_modules(read_json(ref, MODULES))
    except ContentsError as error:
        raise ModelError(f"{ref.name}: {error}") from None


def read_text(ref: ModelRef, name: str) -> str | None:
    """Read one of a checkpoint's text files.

    Returns:
        Its content; None where there is no such file.

    Raises:
        ModelError: It cannot be read.
    """
    path = _file(ref, name)
    try:
        return None if path is None or not path.is_file() else path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"{ref.name}: its {name} cannot be read ({type(error).__name__})") from None


def _file(ref: ModelRef, name: str) -> Path | None:
    if ref.origin != "hub":
        return Path(ref.source) / name
    try:
        found = hub_contents(ref.source, ref.revision)
    except ContentsError:
        found = None
    return None if found is not None and name not in found.loaded else _hub_file(ref, name)


def _hub_file(ref: ModelRef, name: str) -> Path | None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    cached = try_to_load_from_cache(ref.source, name, revision=ref.revision)
    if isinstance(cached, str):
        return Path(cached)
    if cached is not None or go_offline_if_unreachable():  # known not to exist, or not to be asked for
        return None
    try:
        return Path(hf_hub_download(ref.source, name, revision=ref.revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError):
        return None


def checkpoint_folder(ref: ModelRef, where: str) -> Path:
    """Return a folder with a model's files, all of its revision; what the hub's cache lacks is downloaded.

    Args:
        ref: The model, resolved.
        where: Config key for error messages, such as `reranker.model`.

    Raises:
        OfflineError: A file has to come from the hub and the hub cannot be reached.
        ModelError: The hub has no such revision, or no checkpoint that could be loaded in one way.
    """
    if ref.origin != "hub":
        return Path(ref.source)
    try:
        found = hub_contents(ref.source, ref.revision)
    except ContentsError as error:
        raise ModelError(f"{where}: {ref.name}: {error}") from None
    patterns = None if found is None else [_literal(name) for name in (*found.loaded, *found.code)]
    return _snapshot(ref.source, ref.revision, where, patterns)


def weight_files(ref: ModelRef, where: str) -> list[Path]:
    """Return the files of a model's weights that a loader opens, in order, of a model whose files are here.

    Raises:
        OfflineError: See `checkpoint_folder`.
        ModelError: See `checkpoint_folder`.
    """
    folder = checkpoint_folder(ref, where)
    try:
        return [folder / name for name in read_folder(folder, pinned=ref.published).weights]
    except ContentsError as error:
        raise ModelError(f"{where}: {folder}: {error}") from None


def _literal(name: str) -> str:
    """Write a file's name as a pattern of huggingface_hub that matches nothing else."""
    return "".join(f"[{one}]" if one in "*?[" else one for one in name)


def code_folder(ref: ModelRef, repository: str, revision: str, where: str) -> Path:
    """Return a folder with the Python files of another repository, all of one commit.

    Args:
        ref: The model whose code it is; that of a mirrored model is read from the same mirror.
        repository: `org/name` on the hub.
        revision: The commit.
        where: Config key for error messages.

    Raises:
        OfflineError: A file has to come from the hub and the hub cannot be reached.
        ModelError: The hub has no such revision, or the mirror's copy is missing, torn or of another one.
    """
    if ref.origin != "mirror":
        return _snapshot(repository, revision, where, ["*.py"])
    folder = Path(ref.source).parents[ref.name.count("/")] / repository
    try:
        if not folder.is_dir():
            raise DownloadError("no such folder")
        verify(folder, files_in(folder), revision)
    except DownloadError as error:
        raise ModelError(
            f"{where}: {folder}: {error}; {ref.name} has its Python code there; run "
            f"`{command('fetch', '--config', 'FILE')}` with this run's config where there is a network"
        ) from None
    return folder


def _snapshot(name: str, revision: str, where: str, patterns: list[str] | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    offline = go_offline_if_unreachable()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=offline))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError) as error:
        raise OfflineError(
            f"{where}: {name} at {revision} is not in the hub cache and {why_unreachable()}; run "
            f"`hf download {name} --revision {revision}` where there is a network"
        ) from error
    except HfHubHTTPError as error:
        raise ModelError(f"{where}: the hub has no {name} at {revision} that you may read") from error


@functools.lru_cache(maxsize=4)
def load_tokenizer(ref: ModelRef, *, trust_remote_code: bool = False, local: bool = False) -> Any:
    """Load a checkpoint's tokenizer, once.

    Raises:
        ModelError: It cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            ref.source, revision=ref.load_revision, trust_remote_code=trust_remote_code, local_files_only=local
        )
    except Exception as error:  # tokenizers raises classes of its own, straight from Exception
        raise ModelError(
            f"reranker.model: {ref.name}: its tokenizer cannot be loaded ({type(error).__name__})"
        ) from error
