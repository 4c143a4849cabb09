"""`verify`: whether the numbers of a results folder follow from its files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from rerank_eval.analysis import render, tables
from rerank_eval.errors import ConfigError, DataError, VerificationError
from rerank_eval.files import at_home
from rerank_eval.metrics.compute import PAIRS
from rerank_eval.metrics.registry import percent
from rerank_eval.names import did_you_mean
from rerank_eval.results.frames import read_frame
from rerank_eval.results.locate import LEADERBOARDS, result_folders
from rerank_eval.results.manifest import Manifest
from rerank_eval.results.records import ResultRecord, load_manifests, of_one_revision, of_present_candidates
from rerank_eval.results.runs import Stored, find_run
from rerank_eval.results.verification import Verdict, verify_result
from rerank_eval.store.agreement import agreement
from rerank_eval.tasks.suites import suite_tasks
from rerank_eval.typed import command
from rerank_eval.visible import one_line

_MOST_CHOICES = 64
"""How many combinations of the tasks' revisions are tried as what a leaderboard was made of."""


def verify(names: Sequence[str], tasks: Sequence[str], results_dir: Path, console: Console) -> None:
    """Check results and say of each whether its number follows from the files.

    Args:
        names: Identities, models' labels, or any file or folder of results; none for every result and the leaderboard.
        tasks: Only these tasks; none for all.
        results_dir: The results folder.
        console: Where it is printed.

    Raises:
        ConfigError: There is no such result.
        VerificationError: A number does not follow from its files.
    """
    folders = _folders(names, tasks, results_dir)
    faulty = 0
    for folder in folders:
        root = folder.parents[3]  # which may be another than --results says
        verdict = verify_result(folder, root)
        _ask_store(verdict, root)
        faulty += bool(verdict.faults)
        _tell(verdict, console)
    sound = True
    boards = [path.parent for path in map(at_home, names) if path.name in LEADERBOARDS]
    for root in dict.fromkeys(boards) if names else [] if tasks else [results_dir]:
        sound = _tell_leaderboard(root, console) and sound
    where = ", ".join(names) or str(results_dir)
    if faulty:
        raise VerificationError(f"{where}: {faulty} of {len(folders)} result(s) do not follow from their files")
    if not sound:
        raise VerificationError(f"{where}: the leaderboard does not follow from its results")
    console.print(f"{len(folders)} result(s) follow from their files")


def _folders(names: Sequence[str], tasks: Sequence[str], results_dir: Path) -> list[Path]:
    # Also those whose manifest is torn or of another schema, which no row would list.
    every = [_named(name, results_dir) for name in names] if names else [result_folders(results_dir)]
    found = list(dict.fromkeys(folder for named in every for folder in named))
    known = sorted({folder.name for folder in found})
    for task in tasks:
        if Path(task).name not in known:
            raise ConfigError(f"--task {task!r}: no result there; {did_you_mean(Path(task).name, known)}")
    wanted = {Path(task).name for task in tasks}
    found = [folder for folder in found if not wanted or folder.name in wanted]
    if not found:
        raise ConfigError(
            f"{results_dir}: no results there; run `{command('eval')}` first, or name another with --results"
        )
    return found


def _named(name: str, results_dir: Path) -> list[Path]:
    path = at_home(name)
    if path.exists():
        folders = result_folders(path)
        if not folders:
            raise ConfigError(
                f"{name}: belongs to no result; verify takes identities, models' labels, results folders, and any file "
                "or folder under their runs/ and mteb/, or their leaderboard"
            )
        return folders
    rows = find_run(name, results_dir)
    return [folder for row in rows if isinstance(row, Stored) for folder in row.tasks.values()]


def _ask_store(verdict: Verdict, results_dir: Path) -> None:
    try:
        manifest = Manifest.read(verdict.folder)
        if manifest.row.kind != "reranker":
            return
        frame = read_frame(verdict.folder / PAIRS)
        found = agreement(results_dir, manifest.row.label, manifest.settings, manifest.task.name, frame)
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return  # told already
    verdict.faults += [f"score cache: {one}" for one in found.unsound]
    if found.other:
        verdict.faults.append(f"the score cache has another score for {found.other:,} of {found.pairs:,} pairs")
    if found.moved:
        verdict.notes.append(
            f"{found.moved:,} of {found.pairs:,} pairs stand in the score cache under other ids, as data that were "
            "numbered anew leave them"
        )
    if found.same:
        verdict.checks.append(f"{found.same:,} of {found.pairs:,} pairs stand in the score cache with the same score")
    elif not found.other and not found.moved:
        verdict.notes.append("the score cache holds none of its pairs")


def _tell(verdict: Verdict, console: Console) -> None:
    number = f"{verdict.measure} {percent(verdict.number)}" if verdict.measure else "no number"
    state = "does not follow" if verdict.faults else "follows"
    console.print(f"{one_line(verdict.title)}: {number} {state} from its files", markup=False)
    console.print(f"  {verdict.folder}: {len(verdict.checks)} checks hold", markup=False)
    for fault in verdict.faults:
        console.print(f"  FAULT: {one_line(fault)}", markup=False)
    for note in verdict.notes:
        console.print(f"  note: {one_line(note)}", markup=False)


def _tell_leaderboard(results_dir: Path, console: Console) -> bool:
    """Make the table again from the manifests and hold it against those that stand there, in every format."""
    found = {path: path.read_bytes() for path in render.leaderboard_files(results_dir) if path.is_file()}
    if not found:
        console.print(
            f"note: {results_dir}: no leaderboard is there; `{command('leaderboard')}` makes it", markup=False
        )
        return True
    suites = suite_tasks()
    best = dict.fromkeys(found, False)
    for records in _choices(load_manifests(results_dir)):
        rendered = render.render_all(tables.leaderboard(records, suites), results_dir)
        same = {path: rendered[path].encode() == content for path, content in found.items()}
        best = max(best, same, key=lambda one: sum(one.values()))
        if all(best.values()):
            break
    for path in found:
        if best[path]:
            console.print(f"{path}: follows from the manifests", markup=False)
        else:
            console.print(
                f"FAULT: {path} is not what these results give; `{command('leaderboard')}` makes it anew", markup=False
            )
    return all(best.values())


def _choices(records: Sequence[ResultRecord]) -> Iterator[list[ResultRecord]]:
    """Yield what a table may be made of: of each task one revision of the data, as the run that wrote it had it."""
    revisions: dict[str, dict[str, None]] = {}
    for record in sorted(records, key=lambda one: -one.finished):
        revisions.setdefault(record.task, {})[record.revision] = None
    for chosen in itertools.islice(itertools.product(*revisions.values()), _MOST_CHOICES):
        kept, _ = of_one_revision(records, dict(zip(revisions, chosen, strict=True)))
        present = of_present_candidates(kept)[0]
        yield present
        # Tables of older releases have mteb's values, rounded to five digits, as their manifests do.
        yield [replace(one, main=one.written) for one in present]
