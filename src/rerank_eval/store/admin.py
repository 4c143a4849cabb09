"""The score cache for people: what is in it, whether it is sound, what can go, and a copy in one file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from rerank_eval.config.schema import StoreConfig
from rerank_eval.errors import ConfigError, DataError
from rerank_eval.files import atomic_path, load_json
from rerank_eval.names import digest, slug
from rerank_eval.store import IDENTITY, LOCK, STORE, cell_folder
from rerank_eval.store.locks import locked
from rerank_eval.store.shards import (
    SUFFIX,
    ShardError,
    as_digests,
    devices_of,
    read_owner,
    sound_shards,
    write_table,
)
from rerank_eval.tables import simple
from rerank_eval.typed import command


@dataclass
class Scored:
    """What one identity has scored: its shards with what they say, unsound files with the reason, files set aside.

    `identity` is empty where the folder's note cannot be read; `aside` holds what killed processes left, too.
    """

    folder: Path
    label: str
    digest: str
    identity: dict[str, Any]
    shards: dict[Path, dict[str, Any]] = field(default_factory=dict)
    bad: dict[Path, str] = field(default_factory=dict)
    aside: list[Path] = field(default_factory=list)

    @property
    def pairs(self) -> int:
        """Pairs in all shards."""
        return sum(int(facts["rows"]) for facts in self.shards.values())

    @property
    def cells(self) -> dict[Path, list[Path]]:
        """The shards of each cell's folder, in order."""
        found: dict[Path, list[Path]] = {}
        for path in self.shards:
            found.setdefault(path.parent, []).append(path)
        return found

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(_size(path) for path in self.shards)

    @property
    def tasks(self) -> list[str]:
        """The tasks' names."""
        return sorted({str(facts["owner"]["task"]) for facts in self.shards.values()})


def _size(path: Path) -> int:
    """Return a file's size; 0 for one that a run has renamed or removed meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def find_scored(results_dir: Path, name: str | None = None) -> list[Scored]:
    """List the identities of a results folder's score cache: all, or those that `name` (digest or model) begins.

    Raises:
        ConfigError: There is no store, or it holds nothing of that name.
    """
    root = results_dir / STORE
    if not root.is_dir():
        raise ConfigError(f"{root}: no scores are stored there; name a results folder with --results")
    found = [_read(folder) for folder in sorted(root.glob("*/*")) if folder.is_dir()]
    if name is not None:
        found = [one for one in found if one.digest.startswith(name) or one.label.lower() == name.lower()]
        if not found:
            raise ConfigError(
                f"{name!r}: nothing of that name in {root}; `{command('store', 'ls')}` lists what is there"
            )
    return found


def _read(folder: Path) -> Scored:
    try:
        identity = load_json(folder / IDENTITY)
    except (OSError, ValueError):
        identity = {}
    one = Scored(folder, folder.parent.name, folder.name, identity if isinstance(identity, dict) else {})
    try:
        sound = digest(one.identity, 12) == one.digest
    except ValueError:  # NaN, which we never write
        sound = False
    if not sound:
        one.bad[folder / IDENTITY] = "is missing or is another identity's; the next run writes it anew"
    for task in sorted(path for path in folder.iterdir() if path.is_dir()):
        _read_task(one, task)
    return one


def _read_task(one: Scored, task: Path) -> None:
    """Read what a task's folder holds; what was known of it is forgotten."""
    for known in (one.shards, one.bad):
        for path in [path for path in known if path.is_relative_to(task)]:
            del known[path]
    for path in sorted(task.glob(f"*/*{SUFFIX}")):
        if path.name.startswith("."):
            continue
        try:
            facts = read_owner(path)
            if facts["owner"].get("identity") != one.digest:
                raise ShardError("belongs to another identity")
            if _place(facts["owner"]) != (task.name, path.parent.name):
                raise ShardError("belongs to another task or subset")
            one.shards[path] = facts
        except ShardError as error:
            one.bad[path] = str(error)
    one.aside = [path for path in one.aside if not path.is_relative_to(task)]
    one.aside += [*task.glob("*/*.set-aside-*"), *task.glob(f"*/.*{SUFFIX}.*.tmp")]


def _place(owner: dict[str, Any]) -> tuple[str, str]:
    """Return the folders of task and cell that a shard's owner names."""
    task, subset, split = (str(owner.get(key)) for key in ("task", "subset", "split"))
    return slug(task), cell_folder(subset, split)


def show(results_dir: Path, name: str | None, console: Console) -> None:
    """Print what is stored, of one identity or of all; see `find_scored`."""
    found = find_scored(results_dir, name)
    rows = []
    for one in found:
        counts = [f"{count:,}" for count in (len(one.tasks), len(one.shards), one.pairs)]
        rows.append([one.digest, one.label, _settings(one.identity), *counts, _megabytes(one.size)])
    heads = ["identity", "model", "settings", "tasks", "shards", "pairs", "MB"]
    console.print(simple(heads, rows, "lllrrrr"), markup=False)
    aside, bad = sum(len(one.aside) for one in found), sum(len(one.bad) for one in found)
    if aside or bad:
        console.print(
            f"{bad} unsound and {aside} set-aside or temporary file(s); see `{command('store', 'verify')}`, `gc`"
        )
    console.print(f"{sum(one.pairs for one in found):,} pairs, {_megabytes(sum(one.size for one in found))} MB")


def _settings(identity: dict[str, Any]) -> str:
    return ", ".join(
        f"{key}={value}" for key, value in identity.items() if key not in {"model", "revision"} and value is not None
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def verify(results_dir: Path, name: str | None, console: Console) -> None:
    """Read every shard whole and check it.

    Raises:
        ConfigError: There is nothing to check.
        DataError: Something is unsound.
    """
    found = find_scored(results_dir, name)
    sound = pairs = 0
    for one in found:
        twice = 0
        for paths in one.cells.values():
            keys = [_keys(table) for _, table in sound_shards(paths, one.bad)]
            sound, pairs = sound + len(keys), pairs + sum(map(len, keys))
            twice += _repeats(keys)
        if twice:
            console.print(f"{one.label} {one.digest}: {twice:,} pair(s) stand twice; `gc` drops one of each")
        for path, why in one.bad.items():
            console.print(f"unsound: {path} {why}", markup=False)
    console.print(f"{sound:,} shard(s) with {pairs:,} pairs are sound")
    unsound = sum(len(one.bad) for one in found)
    if unsound:
        raise DataError(
            f"{results_dir / STORE}: {unsound} unsound file(s); a run sets them aside and scores them again"
        )


def _repeats(keys: list[NDArray[np.uint64]]) -> int:
    """Count the pairs of a cell that are there already."""
    joined = np.concatenate([np.zeros(0, np.uint64), *keys])
    return len(joined) - len(np.unique(joined))


def _keys(table: pa.Table) -> NDArray[np.uint64]:
    """Return 8 bytes that stand for each pair: ten million of them fit in memory, and two rarely come to the same."""
    halves = [
        as_digests(table.column(name)).view(np.uint64).reshape(-1, 2)[:, 0]
        for name in ("query_digest", "document_digest")
    ]
    return np.asarray(halves[0] * np.uint64(0x9E3779B97F4A7C15) ^ halves[1])


def collect(results_dir: Path, name: str | None, console: Console, *, dry_run: bool = False) -> None:
    """Drop what nothing needs: set-aside and temporary files, pairs that stand twice; join small shards.

    A dry run only says what would be done.

    Raises:
        ConfigError: There is nothing.
        StorageError: The folder cannot be written.
    """
    before = after = dropped = 0
    for one in find_scored(results_dir, name):
        for task in sorted(path for path in one.folder.iterdir() if path.is_dir()):
            # A run's files lie there too, half-written ones among them: not under its hands.
            with _free(task, dry_run=dry_run) as free:
                if not free:
                    console.print(f"{task}: in use, left alone", markup=False)
                    continue
                _read_task(one, task)
                for path in [path for path in one.aside if path.is_relative_to(task)]:
                    before += _size(path)
                    dropped += 1
                    if not dry_run:
                        path.unlink(missing_ok=True)
                for folder, paths in [(cell, paths) for cell, paths in one.cells.items() if cell.parent == task]:
                    size = sum(_size(path) for path in paths)
                    before += size
                    small = sum(one.shards[path]["rows"] < StoreConfig().block_pairs // 2 for path in paths)
                    if dry_run or (small <= 1 and not _repeats([_keys(table) for _, table in sound_shards(paths, {})])):
                        after += size
                        dropped += max(0, small - 1) if dry_run else 0
                        continue
                    left = _join(folder, one.shards, paths, console)
                    dropped += len(paths) - len(left)
                    after += sum(_size(path) for path in left)
    verb = "would be dropped or joined" if dry_run else "dropped or joined"
    console.print(f"{dropped} file(s) {verb}; {_megabytes(before)} MB before, {_megabytes(after)} MB after")


@contextmanager
def _free(task: Path, *, dry_run: bool) -> Iterator[bool]:
    """Hold a task's lock if it is free, and say whether it is; a dry run, which writes nothing, needs none."""
    if dry_run:
        yield True
        return
    with locked(task / LOCK, wait=False) as lock:
        yield lock is not None


def _join(folder: Path, shards: dict[Path, dict[str, Any]], paths: list[Path], console: Console) -> list[Path]:
    """Write a cell's shards anew in full blocks; the old ones go when the new ones stand. Say which are left."""
    number = 1 + max((int(path.name[:6]) for path in paths if path.name[:6].isdecimal()), default=-1)
    seen = np.zeros(0, np.uint64)
    waiting: list[pa.Table] = []
    written: list[Path] = []
    read: list[Path] = []
    devices: set[str] = set()

    def write() -> None:
        nonlocal number
        if waiting:
            written.append(write_table(folder, number, shards[paths[0]]["owner"], pa.concat_tables(waiting), devices))
            number += 1
            waiting.clear()
            devices.clear()

    bad: dict[Path, str] = {}
    for path, table in sound_shards(paths, bad):
        read.append(path)
        keys = _keys(table)
        keep = np.zeros(len(keys), bool)
        keep[np.unique(keys, return_index=True)[1]] = True
        keep &= ~np.isin(keys, seen)
        seen = np.concatenate([seen, keys])
        if keep.any():
            waiting.append(table.filter(pa.array(keep)))
            devices |= devices_of(shards[path])
        if sum(one.num_rows for one in waiting) >= StoreConfig().block_pairs:
            write()
    write()
    for path, why in bad.items():
        console.print(f"unsound: {path} {why}", markup=False)
    for path in read:
        if path not in written:
            path.unlink()
    return [*written, *(path for path in paths if path not in read)]


def export(results_dir: Path, name: str | None, output: Path, console: Console) -> None:
    """Write stored scores to one file, with their model, task, subset and split.

    Raises:
        ConfigError: The file's ending is neither .parquet nor .csv, or there is nothing.
        StorageError: The file cannot be written.
    """
    if output.suffix not in {".parquet", ".csv"}:
        raise ConfigError(f"--output {output}: end it in .parquet or .csv")
    pairs = 0
    with atomic_path(output) as temporary, _writer(temporary, output.suffix) as writer:
        for one in find_scored(results_dir, name):
            bad: dict[Path, str] = {}
            for path, table in sound_shards(one.shards, bad):
                writer.write(_labelled(table, one, one.shards[path]["owner"]))
                pairs += table.num_rows
            for path, why in bad.items():
                console.print(f"left out: {path} {why}", markup=False)
    console.print(f"written: {output}, {pairs:,} pairs", markup=False)


_OWNER = ("identity", "model", "task", "subset", "split")
_EXPORTED = {
    "query_id": pa.string(),
    "doc_id": pa.string(),
    "score": pa.float64(),
    "margin": pa.float64(),
    "truncated": pa.bool_(),
    "tokens": pa.int32(),
}
_EXPORT_SCHEMA = pa.schema([*((name, pa.string()) for name in _OWNER), *_EXPORTED.items()])


def _writer(path: Path, suffix: str) -> Any:
    if suffix == ".parquet":
        return pq.ParquetWriter(path, _EXPORT_SCHEMA, compression="zstd")
    from pyarrow import csv

    return csv.CSVWriter(path, _EXPORT_SCHEMA)


def _labelled(table: pa.Table, one: Scored, owner: dict[str, Any]) -> pa.Table:
    values = [one.digest, str(one.identity.get("model", one.label)), owner["task"], owner["subset"], owner["split"]]
    constant = [pa.array([value] * table.num_rows, pa.string()) for value in values]
    return pa.table([*constant, *(table.column(name) for name in _EXPORTED)], schema=_EXPORT_SCHEMA)
