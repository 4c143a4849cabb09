"""Which results a file or a folder belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rerank_eval.metrics.compute import CHANGED, P_MRR, PAIRS, PER_QUERY, QRELS
from rerank_eval.results.manifest import MANIFEST, Manifest

RUNS = "runs"
LEADERBOARDS = ("leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.html")
_MTEB = "mteb"
_OWN = {MANIFEST, PAIRS, PER_QUERY, QRELS, P_MRR, CHANGED}
_BENEATH = (MANIFEST, f"*/{MANIFEST}", f"*/*/{MANIFEST}", f"*/*/*/{MANIFEST}")
"""Below a task's folder, a row's, a model's, and `runs`."""


def result_folders(path: Path) -> list[Path]:
    """Find the results that a file or a folder belongs to.

    Args:
        path: A result's own file, mteb's file of it, a leaderboard, or a folder that holds results: a task's, a row's,
            a model's, `runs`, a results folder, or one of mteb's in it.

    Returns:
        Folders `results/runs/<model>/<identity>/<task>` with a manifest, whole or not; empty where it belongs to none.
    """
    if path.is_dir():
        found = _beneath(path / RUNS) if (path / RUNS).is_dir() else _beneath(path)
        return found or _of_mteb(path)
    if _is_of_a_result(path):
        return [path.parent]
    if path.name in LEADERBOARDS and (path.parent / RUNS).is_dir():
        return _beneath(path.parent / RUNS)
    return _of_mteb(path)


def results_root(path: Path) -> Path | None:
    """Return the results folder that a file or a folder stands in, or None where it stands in none."""
    for one in (path, path.absolute()):
        for folder in (one, *one.parents):
            if (folder / RUNS).is_dir():
                return folder
    return None


def _beneath(folder: Path) -> list[Path]:
    for pattern in _BENEATH:
        found = sorted(path.parent for path in folder.glob(pattern))
        if found:
            return found
    return []


def _is_of_a_result(path: Path) -> bool:
    manifest = path.with_name(MANIFEST)
    if not manifest.is_file():
        return False
    if path.name in _OWN:
        return True
    found = Manifest.find(manifest)
    return path.suffix == ".trec" if found is None or found.files is None else path.name in found.files


def _of_mteb(path: Path) -> list[Path]:
    """Find the results whose file of mteb's this is, or stands in this folder or beside this file."""
    root = results_root(path)
    if root is None:
        return []
    resolved = path.resolve()
    if not resolved.is_relative_to((root / _MTEB).resolve()):
        return []
    files = {folder: file for folder, file, _ in mteb_files(root)}
    exact = [folder for folder, file in files.items() if file == resolved]
    around = resolved if path.is_dir() else resolved.parent
    return exact or [folder for folder, file in files.items() if file.is_relative_to(around)]


def mteb_files(root: Path) -> Iterator[tuple[Path, Path, Manifest]]:
    """Yield each result of a results folder with mteb's file of it, and its manifest."""
    for folder in _beneath(root / RUNS):
        manifest = Manifest.find(folder)
        if manifest is not None and manifest.mteb_result:
            yield folder, (root / manifest.mteb_result).resolve(), manifest
