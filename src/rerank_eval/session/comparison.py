"""The command `compare`: finds what names stand for, runs what is missing if asked to, compares, prints and writes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rerank_eval.analysis import compare_render
from rerank_eval.analysis.alignment import INTERSECTION, ZERO
from rerank_eval.analysis.compare import SEED, Comparison, compare
from rerank_eval.analysis.loading import load_runs, measure_named
from rerank_eval.config import LoadedConfig
from rerank_eval.config.schema import is_yaml_file
from rerank_eval.errors import ConfigError, StorageError
from rerank_eval.files import at_home, write_text
from rerank_eval.names import did_you_mean, digest, slug
from rerank_eval.results.runs import RunFile, Stored, find_run, named, read_stored, stored_rows
from rerank_eval.session.choice import read_config
from rerank_eval.tasks.registry import resolve
from rerank_eval.tasks.suites import suite_tasks
from rerank_eval.typed import command

RESULTS = Path("results")
_RETRIEVER = "retriever"
_PAGE_ENDINGS = {".html", ".htm", ".xhtml"}


@dataclass(frozen=True)
class ComparisonRequest:
    """What was asked for on the command line.

    Attributes:
        names: Configs, identities, models, folders or files; the first is the baseline.
        tasks: Only these; empty for a config's own, or all that the runs have.
        results: Results folder, or None for a config's, else `results`.
        overrides: `--set` arguments, for configs.
        run: Run what the configs lack first.
        against: `retriever` compares each reranker with the retriever whose candidates it got; empty compares all with
            the first.
        measure: What to compare instead of main scores.
        qrels: What all runs are judged by; None for the stored runs' own judgements.
        missing: What is done about queries that a run lacks: `zero` or `intersection`; empty refuses them.
        seed: Of the draws.
        name: Of the files written, or None.
    """

    names: tuple[str, ...]
    tasks: tuple[str, ...] = ()
    results: Path | None = None
    overrides: tuple[str, ...] = ()
    run: bool = False
    against: str = ""
    measure: str | None = None
    missing: str = ""
    qrels: Path | None = None
    seed: int = SEED
    name: str | None = None


def make_comparison(request: ComparisonRequest, console: Console) -> tuple[Comparison, Path, str]:
    """Find what the names stand for, run what is missing if asked to, and compare.

    Returns:
        The comparison, the results folder, and a name for files.

    Raises:
        ConfigError: A name stands for nothing, or there is nothing to compare.
        DataError: The runs are not of the same queries; names them.
        RerankEvalError: A run failed.
    """
    measure = _check(request)
    configs = _configs(request)
    for loaded in configs.values():
        if request.run:
            _run(loaded, console)
    if request.run and not configs:
        raise ConfigError("--run runs what a config lacks; name a config")
    results_dir = request.results or next((_folder(loaded) for loaded in configs.values()), RESULTS)
    tasks = _tasks(request, list(configs.values()))
    rows = list(_unique(_rows(request, configs, results_dir)))
    runs = load_runs(list(named(rows)), tasks=tasks, measure=measure, qrels=request.qrels)
    suites = suite_tasks()
    baselines = own_retrievers(rows) if request.against else None
    comparison = compare(runs, suites, seed=request.seed, baselines=baselines, missing=request.missing)
    return comparison, results_dir, slug(request.name) if request.name else _name(request, rows)


def compare_runs(request: ComparisonRequest, console: Console) -> None:
    """Compare, print and write the tables.

    Raises:
        RerankEvalError: See `make_comparison`.
    """
    comparison, results_dir, name = make_comparison(request, console)
    console.print()
    console.print(compare_render.to_rich(comparison))
    for line in compare_render.notes(comparison):
        console.print(line, markup=False, style="dim", soft_wrap=False)
    written = compare_render.write_all(comparison, results_dir / "comparisons", name)
    console.print("written: " + ", ".join(str(path) for path in written), markup=False)


def _configs(request: ComparisonRequest) -> dict[str, LoadedConfig]:
    """Read those names that are configs."""
    return {
        name: read_config(Path(name), request.tasks, request.overrides, request.results)
        for name in request.names
        if is_yaml_file(name)
    }


def _check(request: ComparisonRequest) -> str | None:
    """Refuse what no run can mend, before anything is read or run; return the measure's own name."""
    if request.against not in {"", _RETRIEVER}:
        raise ConfigError(f"--against {request.against!r}: the only word known here is retriever; a run comes first")
    if request.missing not in {"", ZERO, INTERSECTION}:
        raise ConfigError(f"--missing {request.missing!r}: {did_you_mean(request.missing, [ZERO, INTERSECTION])}")
    if request.qrels is not None and not request.qrels.is_file():
        raise ConfigError(f"--qrels {request.qrels}: no such file; name a qrels.parquet of a result or a TREC file")
    return None if request.measure is None else measure_named(request.measure, [Path(name) for name in request.names])


def own_retrievers(rows: Sequence[Stored | RunFile]) -> list[int | None]:
    """Return for each row the number of the retriever whose candidates it reranked; None for what is no reranker.

    Raises:
        ConfigError: A reranker's retriever is not among them, or a file names none.
    """
    places = {row.identity: number for number, row in enumerate(rows) if row.identity}
    found: list[int | None] = []
    for row in rows:
        if isinstance(row, RunFile):
            raise ConfigError(f"--against retriever: {row.path} does not say whose candidates it has; name it alone")
        if row.candidates == row.identity:
            found.append(None)
        elif row.candidates in places:
            found.append(places[row.candidates])
        else:
            raise ConfigError(f"{row.title}: its retriever {row.retriever} ({row.candidates}) has no result here")
    return found


def show_runs(results_dir: Path, console: Console) -> None:
    """List the rows of a results folder: identity, model, settings, tasks.

    Raises:
        ConfigError: It holds none.
    """
    rows = stored_rows(results_dir)
    if not rows:
        raise ConfigError(
            f"{results_dir}: no results there; run `{command('eval')}` first, or name another folder with --results"
        )
    for row in rows:
        console.print(f"{row.identity}  {row.title}: {', '.join(row.tasks)}", markup=False)


def _folder(loaded: LoadedConfig) -> Path:
    return at_home(loaded.base.results_dir)


def _run(loaded: LoadedConfig, console: Console) -> None:
    from rerank_eval.session.start import start

    session = start(loaded, console)
    session.run()
    session.tracker.finish()


def _tasks(request: ComparisonRequest, configs: Sequence[LoadedConfig]) -> list[str] | None:
    if request.tasks:
        return [ref.name for ref in resolve(request.tasks, where="--task")]
    found = [ref for loaded in configs for ref in resolve(loaded.base.tasks, split=loaded.base.split, where="tasks")]
    return list(dict.fromkeys(ref.name for ref in found)) or None


def _rows(
    request: ComparisonRequest, configs: dict[str, LoadedConfig], results_dir: Path
) -> Iterator[Stored | RunFile]:
    for name in request.names:
        if name in configs:
            yield from _rows_of(configs[name], results_dir, request.against == _RETRIEVER)
            continue
        found = find_run(name, results_dir)
        if request.against == _RETRIEVER:
            yield from _with_retrievers(found)
        yield from found


def _with_retrievers(rows: Sequence[Stored | RunFile]) -> Iterator[Stored]:
    """Yield the retrievers of stored rerankers, from the results that these stand in."""
    for row in rows:
        if isinstance(row, Stored) and row.candidates != row.identity:
            yield from (one for one in stored_rows(row.root) if one.identity == row.candidates)


def _rows_of(loaded: LoadedConfig, results_dir: Path, first_stage: bool) -> Iterator[Stored]:
    """Yield a config's rerankers as they stand in the results, or its retrievers where it has no reranker."""
    from rerank_eval.pipeline.plan import make_plan

    plan = make_plan(loaded)
    rows = plan.rerankers() or plan.retrievers
    if first_stage:
        rows = [*plan.retrievers, *(row for row in rows if row.kind != _RETRIEVER)]
    for row in rows:
        stored = read_stored(row.folder(results_dir, "any").parent)
        if stored is None:
            raise ConfigError(
                f"{loaded.path}: {row.ref.label} ({row.detail}) has no result in {results_dir}; add --run to run it"
            )
        yield stored


def _unique(rows: Iterator[Stored | RunFile]) -> Iterator[Stored | RunFile]:
    seen: set[str] = set()
    for row in rows:
        if not row.identity or row.identity not in seen:
            seen.add(row.identity)
            yield row


def _name(request: ComparisonRequest, rows: Sequence[Stored | RunFile]) -> str:
    names = [Path(name).stem if is_yaml_file(name) else name for name in request.names]
    asked = [request.tasks, request.measure, *([request.missing] if request.missing else [])]
    identities = digest([[row.identity or row.label for row in rows], *asked], 6)
    return slug(f"{'-'.join(Path(name).name for name in names)[:60]}-{identities}")


def _check_page(output: Path) -> None:
    """Refuse a place for a page before anything is computed."""
    if output.is_dir():
        raise ConfigError(f"--output {output}: is a folder; name a file in it, such as {output / 'report.html'}")
    if output.suffix.lower() not in _PAGE_ENDINGS:
        raise ConfigError(f"--output {output}: a browser opens .html files; did you mean {output}.html?")
    existing = next((folder for folder in output.absolute().parents if folder.exists()), None)
    if existing is not None and not existing.is_dir():
        raise ConfigError(f"--output {output}: {existing} is a file, not a folder")
    if existing is not None and not os.access(existing, os.W_OK | os.X_OK):
        raise StorageError(f"--output {output}: the folder {existing} cannot be written; name another file")


def write_page(request: ComparisonRequest, output: Path | None, console: Console) -> None:
    """Write one HTML page of a results folder, or of some of its runs.

    Args:
        request: Runs (none for all of the folder, a retriever first), tasks, results folder and seed.
        output: The file, or None for report.html in the results folder.
        console: Where its name is printed.

    Raises:
        ConfigError: There is nothing to report, the file is no place for a page, or matplotlib is missing.
        DataError: The runs are not of the same queries.
        StorageError: The file's folder cannot be written.
    """
    measure = _check(request)
    if output is not None:
        _check_page(output)
    from rerank_eval.analysis import tables
    from rerank_eval.analysis.report import Terms, build_report
    from rerank_eval.results.records import load_manifests, of_present_candidates

    configs = _configs(request)
    root = request.results or next((_folder(loaded) for loaded in configs.values()), RESULTS)
    if request.names:
        rows = [_stored(row) for row in _unique(_rows(request, configs, root))]
    else:
        rows = list(stored_rows(root))
    tasks = _tasks(request, list(configs.values()))
    kept = {row.identity for row in rows}
    roots = list(dict.fromkeys([root, *(row.root for row in rows)])) if request.names else [root]
    records, _ = of_present_candidates([one for folder in roots for one in load_manifests(folder)])
    records = [one for one in records if one.identity in kept and (tasks is None or one.task in tasks)]
    present = {(one.identity, one.task) for one in records}
    rows = [
        dataclasses.replace(
            row,
            tasks={task: folder for task, folder in row.tasks.items() if (row.identity, task) in present},
        )
        for row in rows
    ]
    rows = [row for row in rows if row.tasks]
    if not request.names:  # as the leaderboard has them, retrievers first
        place = {one.identity: one.order for one in records}
        rows.sort(key=lambda row: (row.candidates != row.identity, place[row.identity]))
    if not rows:
        raise ConfigError(
            f"{root}: no results to report; run `{command('eval')}` first, or name another with --results"
        )
    suites = suite_tasks()
    baselines = _baselines(request, rows)
    terms = Terms(request.seed, baselines, measure, request.missing)
    page = build_report(tables.leaderboard(records, suites), rows, suites, terms)
    path = output or root / "report.html"
    write_text(path, page)
    console.print(f"written: {path} ({len(page.encode()) / 1e6:.1f} MB)", markup=False)


def _stored(row: Stored | RunFile) -> Stored:
    if isinstance(row, RunFile):
        raise ConfigError(f"{row.path}: a report is of stored results; `{command('compare')}` takes run files")
    return row


def _baselines(request: ComparisonRequest, rows: Sequence[Stored]) -> list[int | None] | None:
    """Return each row's baseline: in a whole folder each reranker's own retriever, else the first that was named."""
    if request.against == _RETRIEVER:
        return own_retrievers(rows)
    if request.names:
        return None
    there = {row.identity for row in rows}
    alone = [dataclasses.replace(row, candidates=row.identity) for row in rows]
    found = own_retrievers([row if row.candidates in there else one for row, one in zip(rows, alone, strict=True)])
    return found if any(one is not None for one in found) else None
