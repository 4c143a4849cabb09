"""The command `fetch`: what is needed, how much it is, whether it fits, and bringing it."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rerank_eval.config import LoadedConfig, load_config
from rerank_eval.downloads import DownloadError, files_in, verify
from rerank_eval.errors import ConfigError, DataError, ModelError, StorageError
from rerank_eval.fetch.needs import DataNeed, ModelNeed, Need, data_needs, model_needs
from rerank_eval.fetch.repository import Kind, Repository, look_up
from rerank_eval.files import at_home
from rerank_eval.tables import simple
from rerank_eval.tasks.registry import resolve

DATA_ROOT, MODEL_ROOT = Path("mirror", "data"), Path("mirror", "models")
_THOUSAND = 1000.0


@dataclass(frozen=True)
class FetchRequest:
    """What the command line asks for.

    Attributes:
        tasks: Suites and tasks; they replace the config's.
        models: Models, `ORG/NAME` or `ORG/NAME@REVISION`; they replace the config's.
        config: A config, or None to fetch only what is named.
        overrides: `--set` arguments.
        data_root: Folder for data sets; None takes the config's `data_root`, else `mirror/data`.
        model_root: Folder for models; None takes the config's `model_root`, else `mirror/models`.
        dry_run: Only tell what would be fetched.
    """

    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    data_root: Path | None = None
    model_root: Path | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Share:
    """What one repository gives.

    Attributes:
        repository: The repository.
        files: The files that are needed.
        missing: Those of them that are not in the folder.
    """

    repository: Repository
    files: tuple[str, ...]
    missing: tuple[str, ...]

    def size(self, files: Sequence[str]) -> int:
        """Return the bytes of some of its files."""
        return sum(self.repository.files[file].size for file in files)


def fetch(request: FetchRequest, console: Console) -> None:
    """Bring all that a run reads from the hub into folders, and check that it is whole.

    Raises:
        ConfigError: Nothing is named, or a name is unknown.
        OfflineError: The hub cannot be reached; what came is kept.
        StorageError: It does not fit on the disk; told before anything large is downloaded.
        DataError: A data set may not be read, lacks what a task reads, or came damaged; ModelError for a model.
    """
    # huggingface_hub would tell of every connection that it takes up again.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    loaded = _config(request)
    data_root, model_root = _roots(request, loaded)
    needs = _needs(request, loaded)
    if not needs:
        console.print("nothing to fetch: embedded tasks, folders and built-in models need no hub")
        return
    with ExitStack() as stack:
        # A dry run leaves nothing behind, not even the small files that tell which others are needed.
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory())) if request.dry_run else None
        shares = _shares(needs, data_root, model_root, scratch)
    _show(shares, console)
    _check_space(shares, console)
    if request.dry_run:
        return
    _download(shares, console)
    for share in shares:
        _verify(share)
    size = sum(share.size(share.files) for share in shares)
    console.print(f"complete: {_count(len(shares), 'repository', 'repositories')}, {_bytes(size)}", markup=False)
    settings = [("data_root", data_root)] if any(isinstance(need, DataNeed) for need in needs) else []
    settings += [("model_root", model_root)] if any(isinstance(need, ModelNeed) for need in needs) else []
    console.print("read it by: " + " ".join(f"--set {key}={path}" for key, path in settings), markup=False)


def _config(request: FetchRequest) -> LoadedConfig | None:
    if request.config is not None:
        return load_config(request.config, request.overrides, {"tasks": list(request.tasks)} if request.tasks else None)
    if request.overrides:
        raise ConfigError("--set changes a config; name the config with --config")
    return None


def _roots(request: FetchRequest, loaded: LoadedConfig | None) -> tuple[Path, Path]:
    base = None if loaded is None else loaded.base
    data = request.data_root or (base.data_folder if base is not None else None) or DATA_ROOT
    models = request.model_root or (base.model_folder if base is not None else None) or MODEL_ROOT
    return at_home(data), at_home(models)


def _needs(request: FetchRequest, loaded: LoadedConfig | None) -> list[Need]:
    tasks = list(request.tasks) if loaded is None else loaded.base.tasks
    where = "--task" if loaded is None else f"{loaded.path}: tasks"
    runs = () if loaded is None else loaded.runs
    models = model_needs(runs, request.models, "" if loaded is None else str(loaded.path))
    return [*data_needs(resolve(tasks, where=where)), *models]


def _shares(needs: Sequence[Need], data_root: Path, model_root: Path, scratch: Path | None) -> list[Share]:
    found: dict[tuple[str, str], Share] = {}
    waiting = list(needs)
    while waiting:
        need = waiting.pop(0)
        kind: Kind = "dataset" if isinstance(need, DataNeed) else "model"
        root = data_root if isinstance(need, DataNeed) else model_root
        if (kind, need.name) in found:  # code that two models run, or a model that is code of another
            continue
        repository = look_up(kind, need.name, need.revision, root / need.name)
        read: dict[str, Path] = {}
        for file in need.first(repository):
            if file in repository.files:
                aside = None if scratch is None or repository.is_whole(file) else scratch / kind / need.name
                read[file] = repository.download(file, aside)
        files = tuple(need.files(repository, read))
        missing = tuple(file for file in files if not repository.is_whole(file))
        found[kind, need.name] = Share(repository, files, missing)
        if isinstance(need, ModelNeed):
            waiting += need.more(read)
    return list(found.values())


def _show(shares: Sequence[Share], console: Console) -> None:
    lines = [
        [
            share.repository.kind,
            share.repository.name,
            share.repository.commit[:8],
            len(share.files),
            _bytes(share.size(share.files)),
            _bytes(share.size(share.missing)) if share.missing else "here",
        ]
        for share in shares
    ]
    total = sum(share.size(share.files) for share in shares)
    lacking = sum(share.size(share.missing) for share in shares)
    lines.append(["total", "", "", sum(len(share.files) for share in shares), _bytes(total), _bytes(lacking)])
    heads = ["", "repository", "revision", "files", "size", "to fetch"]
    console.print(simple(heads, lines, "lllrrr"), markup=False)


def _check_space(shares: Sequence[Share], console: Console) -> None:
    """Compare what is missing with the free space of each disk: data sets and models may be on two."""
    asked: dict[int, tuple[Path, int]] = {}
    for share in shares:
        root = share.repository.folder.parents[share.repository.name.count("/")]
        place = _existing(root)
        first, size = asked.get(place.stat().st_dev, (root, 0))
        asked[place.stat().st_dev] = (first, size + share.size(share.missing))
    for root, size in asked.values():
        free = shutil.disk_usage(_existing(root)).free
        console.print(f"free on the disk of {root}: {_bytes(free)}", markup=False)
        if size > free:
            raise StorageError(
                f"{root}: {_bytes(size)} are to be fetched and {_bytes(free)} are free; free some, or choose another "
                "disk with --data-root and --model-root"
            )


def _existing(folder: Path) -> Path:
    return next(one for one in (folder, *folder.absolute().parents) if one.exists())


def _download(shares: Sequence[Share], console: Console) -> None:
    todo = [share for share in shares if share.missing]
    if not todo:
        console.print("nothing to download: everything is here already")
    for number, share in enumerate(todo, 1):
        size = _bytes(share.size(share.missing))
        count = _count(len(share.missing), "file", "files")
        console.print(f"[{number}/{len(todo)}] {share.repository.name}: {count}, {size}", markup=False)
        for file in share.missing:
            share.repository.download(file)


def _verify(share: Share) -> None:
    """Check the folder as a run will, which knows nothing of what the hub lists."""
    repository = share.repository
    try:
        # A run takes all that is in a model's folder: what another revision left there would stop it.
        files = share.files if repository.kind == "dataset" else files_in(repository.folder)
        verify(repository.folder, files, repository.commit)
    except DownloadError as error:
        problem = DataError if repository.kind == "dataset" else ModelError
        raise problem(f"{repository.folder}: {error}; run the same command again") from None


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < _THOUSAND:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _THOUSAND
    return f"{size:,.1f} TB"
