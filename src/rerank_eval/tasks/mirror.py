"""The local mirror of data sets: a task's folder found, checked for all that the task reads, and read instead."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rerank_eval.downloads import DownloadError, files_in, verify
from rerank_eval.errors import DataError
from rerank_eval.files import at_home
from rerank_eval.names import digest
from rerank_eval.tasks.layout import CARD, LayoutError, files_of, wanted
from rerank_eval.typed import command


@dataclass(frozen=True)
class MirrorFolder:
    """A data set in the mirror, whole and of the pinned revision.

    Attributes:
        path: Its folder.
        dataset: Its name on the hub.
        commit: The commit that its files are of.
        state: Digest of files and hashes: changes whenever the folder's content does.
    """

    path: Path
    dataset: str
    commit: str
    state: str


def find(task: Any, root: Path) -> MirrorFolder:
    """Find a task's data set in the mirror and check that all it reads is there, of the revision that mteb pins.

    Args:
        task: An mteb task, not pointed at the mirror yet.
        root: The mirror (`data_root`).

    Returns:
        The folder.

    Raises:
        DataError: Folder, configuration or file is missing, torn or of another revision.
    """
    name, revision = str(task.metadata.dataset["path"]), task.metadata.dataset.get("revision")
    folder = at_home(root) / name
    try:
        if not folder.is_dir():
            raise DownloadError("no such folder")
        files = _task_files(task, folder)
        commit, etags = verify(folder, files, revision)
    except DownloadError as error:
        fetch = command("fetch", "--task", task.metadata.name, "--data-root", root)
        raise DataError(
            f"data_root: {folder}: {error} ({task.metadata.name} reads {name}, revision {revision}); run "
            f"`{fetch}` where there is a network",
            lacking=f"{folder} ({error}; {task.metadata.name} reads it)",
        ) from None
    return MirrorFolder(folder, name, commit, digest([[file, etags[file]] for file in files]))


def _task_files(task: Any, folder: Path) -> list[str]:
    from huggingface_hub import metadata_load

    names = files_in(folder)
    try:
        card = metadata_load(folder / CARD) if CARD in names else None
        return files_of(wanted(task), card or {}, names)
    except LayoutError as error:
        raise DownloadError(str(error)) from None
    except FileNotFoundError:
        raise DownloadError(f"{CARD} is missing") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DownloadError(f"{CARD} cannot be read ({' '.join(str(error).split())[:120]})") from None


def localize(task: Any, folder: MirrorFolder) -> None:
    """Point a task that is not loaded at the mirror. It gets metadata of its own; its class keeps the hub's."""
    task.mirror = folder
    dataset = {**task.metadata.dataset, "path": str(folder.path.resolve())}
    task.metadata = task.metadata.model_copy(update={"dataset": dataset})


def use_datasets_cache(folder: MirrorFolder | None) -> None:
    """Give the mirror's state a cache of its own in `datasets`, which knows a local file by path and time alone.

    Args:
        folder: The data set about to be loaded, or None for the usual cache.
    """
    import datasets

    usual = _usual_cache()
    datasets.config.HF_DATASETS_CACHE = usual if folder is None else usual / "mirror" / folder.state


@contextmanager
def cards_parsed_once() -> Iterator[None]:
    """Let `datasets` read each folder's front matter once while a task loads, and not seven times a cell.

    MLQARetrieval has 98 cells in a folder of 147 configurations: loading it 71 s, or 4 s with this, for each row.
    """
    from datasets import load as library

    factory: Any = library.LocalDatasetModuleFactory
    original = factory.get_module
    seen: dict[tuple[str, str, str], Any] = {}

    def get_module(self: Any) -> Any:
        key = (self.path, repr(self.data_dir), repr(self.data_files))
        if key not in seen:
            seen[key] = original(self)
        # The caller takes entries out of builder_kwargs.
        return replace(seen[key], builder_kwargs=dict(seen[key].builder_kwargs))

    factory.get_module = get_module
    try:
        yield
    finally:
        factory.get_module = original


@functools.cache
def _usual_cache() -> Path:
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE)
