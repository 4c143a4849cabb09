"""Rankings and judgements as files hold them, ours and other people's, and a run's values on a task from the two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from rerank_eval.errors import ConfigError, DataError
from rerank_eval.metrics import per_query as metrics
from rerank_eval.metrics import registry
from rerank_eval.metrics.compute import CHANGED, PAIRS, QRELS, Cell, Changed, Qrels, cells_of
from rerank_eval.metrics.groups import Grouped
from rerank_eval.metrics.measures import p_mrr
from rerank_eval.names import slug, some
from rerank_eval.results import trec
from rerank_eval.results.frames import read_frame
from rerank_eval.results.runs import UNIT, TaskRun, stem, values_of

ONE_CELL: Cell = ("default", "default")
"""Where nothing names a subset or a split."""
_PARQUET = ".parquet"


@dataclass(frozen=True)
class Judgements:
    """What runs are judged by.

    Attributes:
        source: The file, for messages.
        task: The task that they are of.
        cells: (subset, split) -> query id -> document id -> relevance.
        changed: For p-MRR, what each pair's instruction makes irrelevant; empty where relevance does not change.
    """

    source: Path
    task: str
    cells: Mapping[Cell, Qrels]
    changed: Mapping[Cell, Changed] = field(default_factory=dict)

    def cell_of(self, path: Path) -> Cell:
        """Return the cell that a TREC file is of: the only one, or that which its name says.

        Raises:
            ConfigError: There are several, and the name is none of theirs.
        """
        if len(self.cells) == 1:
            return next(iter(self.cells))
        by_name = {slug(f"{subset}.{split}"): (subset, split) for subset, split in self.cells}
        name = stem(path)
        if name not in by_name:
            raise ConfigError(
                f"{path}: {self.task} has {len(by_name)} subsets and splits, and a TREC run does not say whose it is; "
                f"name the file SUBSET.SPLIT.trec ({some([f'{name}.trec' for name in by_name])}), or a folder of such "
                "files"
            )
        return by_name[name]


def trec_files(folder: Path) -> list[Path]:
    """List a folder's TREC runs, one a cell."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name.endswith((".trec", ".trec.gz")))


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a parquet file of somebody else's; raise a DataError where it is none, or torn."""
    try:
        return read_frame(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable parquet file ({type(error).__name__})") from None


def read_judgements(path: Path, task: str | None = None, cell: Cell = ONE_CELL) -> Judgements:
    """Read judgements: a result's qrels.parquet, or a text file.

    `task` (None: named by the file) and `cell` are those of the judgements where the file does not say it.

    Raises:
        DataError: It cannot be read, lacks a column, or judges nothing.
    """
    if path.suffix != _PARQUET:
        cells: dict[Cell, Qrels] = {cell: trec.read_qrels(path)}
        named = stem(path)
    else:
        frame = read_parquet(path)
        if not {"query_id", "doc_id", "relevance"} <= set(frame.columns):
            raise DataError(
                f"{path}: has no columns query_id, doc_id and relevance; qrels.parquet of a result has them"
            )
        found: dict[Cell, dict[str, dict[str, int]]] = {}
        for judged_cell, part in by_cell(_checked(path, frame, "relevance"), cell):
            for query, document, grade in zip(part["query_id"], part["doc_id"], part["relevance"], strict=True):
                found.setdefault(judged_cell, {}).setdefault(query, {})[document] = int(grade)
        cells, named = dict(found), path.parent.name or path.stem
    if not any(judged for judged_cell in cells.values() for judged in judged_cell.values()):
        raise DataError(f"{path}: holds no judgement; name the file that does with --qrels")
    return Judgements(path, task or named, cells, _read_changed(path.with_name(CHANGED)))


def _checked(path: Path, frame: pd.DataFrame, number: str) -> pd.DataFrame:
    """Refuse of a parquet file what no reader of a text file would let through; ids become texts."""
    columns = ["query_id", "doc_id"] + [name for name in ("subset", "split") if name in frame.columns]
    if frame[[*columns, number]].isna().any(axis=None):
        raise DataError(f"{path}: an id or a {number} is missing")
    try:
        values = frame[number].astype("float64")
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{path}: a {number} is not a number") from None
    if number == "relevance" and not ((values % 1 == 0) & (values.abs() <= metrics.MAX_GRADE)).all():
        raise DataError(f"{path}: a relevance is no whole number within {metrics.MAX_GRADE}")
    if not np.isfinite(values).all():
        raise DataError(f"{path}: a {number} is not finite")
    checked = frame.assign(**{name: frame[name].map(str).astype(object) for name in columns}, **{number: values})
    twice = checked.duplicated(columns)
    if twice.any():
        one = checked[twice].iloc[0]
        raise DataError(f"{path}: document {one['doc_id']!r} stands twice for {one['query_id']!r}")
    return checked


def _read_changed(path: Path) -> dict[Cell, Changed]:
    changed: dict[Cell, dict[str, list[str]]] = {}
    if path.is_file():
        for cell, frame in by_cell(read_parquet(path), ONE_CELL):
            for pair, document in zip(frame["query_id"], frame["doc_id"], strict=True):
                changed.setdefault(cell, {}).setdefault(pair, []).append(document)
    return dict(changed)


def by_cell(frame: pd.DataFrame, otherwise: Cell) -> Iterator[tuple[Cell, pd.DataFrame]]:
    """Yield a frame's cells; `otherwise` is the cell of a frame without columns subset and split."""
    if not {"subset", "split"} <= set(frame.columns):
        yield otherwise, frame
        return
    for cell, part in cells_of(frame):
        yield cell, part.reset_index(drop=True)


def in_cells_of(frame: pd.DataFrame, judged: Judgements | None) -> pd.DataFrame:
    """Name a frame's subset and split as the judgements do, where both have one, whatever it is called."""
    one = next(iter(judged.cells)) if judged is not None and len(judged.cells) == 1 else None
    named = {"subset", "split"} <= set(frame.columns)
    if named and (one is None or len(frame[["subset", "split"]].drop_duplicates()) != 1):
        return frame
    subset, split = one or ONE_CELL
    return frame.assign(subset=subset, split=split)


def is_ranking(path: Path) -> bool:
    """Tell whether a file, or a folder of TREC runs, holds documents and scores, and not values of queries.

    Raises:
        DataError: A parquet file cannot be read.
    """
    if path.suffix != _PARQUET or path.is_dir():
        return True
    return {"query_id", "doc_id", "score"} <= set(read_parquet(path).columns)


def read_rankings(path: Path, judged: Judgements) -> dict[Cell, pd.DataFrame]:
    """Read a run of somebody else's: a TREC run, a folder of them, or parquet with query_id, doc_id and score.

    Returns:
        Cell -> columns query_id, doc_id, score.

    Raises:
        ConfigError: Nothing says which cell it is of.
        DataError: It cannot be read or holds no line.
    """
    if path.suffix == _PARQUET:
        frame = read_parquet(path)
        frame = in_cells_of(_checked(path, frame, "score"), judged)
        found = {cell: part[["query_id", "doc_id", "score"]] for cell, part in by_cell(frame, ONE_CELL)}
    else:
        found = {}
        for one in trec_files(path) if path.is_dir() else [path]:
            cell = judged.cell_of(one)
            if cell in found:
                raise DataError(f"{path}: several files are of {'/'.join(cell)}; leave one")
            found[cell] = _as_judged(trec.read_run(one)[["query_id", "doc_id", "score"]], judged.cells[cell])
    if not sum(map(len, found.values())):
        raise DataError(f"{path}: an empty run, without a single line; write it again")
    return found


def _as_judged(frame: pd.DataFrame, qrels: Qrels) -> pd.DataFrame:
    """Give ids with white space back their own form, which the format cannot hold; see `trec.write_run`."""
    ids = {*qrels, *(document for judged in qrels.values() for document in judged)}
    written = {word: one for one in ids if (word := trec.as_word(one)) != one}
    if not written:
        return frame
    columns = {name: [written.get(one, one) for one in frame[name]] for name in ("query_id", "doc_id")}
    return frame.assign(**columns)


def evaluate(
    name: str, rankings: Mapping[Cell, pd.DataFrame], judged: Judgements, measure: str, *, stored: bool = False
) -> TaskRun:
    """Compute a run's values on a task.

    Args:
        name: What messages call the run.
        rankings: Cell -> columns query_id, doc_id, score.
        judged: The judgements.
        measure: mteb's name, or a column of `metrics.COLUMNS`.
        stored: Whether the run answered every judged query, as ours do: one without candidates counts 0. Of any other
            run it is missing.

    Raises:
        DataError: No query of the run has a judgement; a score is not finite.
        ConfigError: p-MRR is asked for where nothing says what the instructions change.
    """
    cells = {cell: queries for cell, queries in judged.cells.items() if cell in rankings}
    answered = {cell: set(frame["query_id"]) for cell, frame in rankings.items()}
    strangers = [query for cell, queries in answered.items() for query in sorted(queries - set(cells.get(cell, ())))]
    if sum(map(len, answered.values())) == len(strangers):
        known = [query for queries in judged.cells.values() for query in queries]
        raise DataError(
            f"{name}: none of its {len(strangers)} queries ({some(strangers)}) is judged by {judged.source}, which "
            f"judges {len(known)} ({some(known)}); are the ids of the same data?"
        )
    parts = [_values(frame, cells[cell], judged, cell, measure) for cell, frame in rankings.items() if cell in cells]
    values = pd.concat(parts).sort_values(UNIT, kind="stable").reset_index(drop=True)
    missing = values[UNIT].head(0)
    if not stored:
        lacking = _unanswered(values, cells, answered, judged, measure)
        missing = values.loc[lacking, UNIT].reset_index(drop=True)
        values = values[~lacking].reset_index(drop=True)
    asked = sum(map(len, answered.values()))
    note = f"{name}: {len(strangers)} of {asked} queries have no judgement and are left out ({some(strangers)})."
    ranked = pd.concat([_ranked(frame, cell) for cell, frame in rankings.items() if cell in cells])
    return TaskRun(judged.task, measure, values, ranking=ranked, missing=missing, notes=(note,) if strangers else ())


def _values(frame: pd.DataFrame, qrels: Qrels, judged: Judgements, cell: Cell, measure: str) -> pd.DataFrame:
    found = registry.find(measure)
    if found is not None and registry.of_pairs(measure):
        if cell not in judged.changed:
            raise ConfigError(
                f"--measure {measure}: {judged.source} comes without {CHANGED}, which says what instructions change"
            )
        values = p_mrr.p_mrr(frame, judged.changed[cell]).rename(columns={"pair": "query_id"})
        lost = [pair for pair in judged.changed[cell] if pair not in set(values["query_id"])]
        column = registry.column(measure)
        values = pd.concat([values, pd.DataFrame({"query_id": lost, column: 0.0})]) if lost else values
    elif found is not None and registry.unit(found) == "group":
        values, column = metrics.by_unit(frame, qrels, found), "value"
    else:
        extra = [] if found is None else [found]
        values, column = metrics.per_query(frame, qrels, extra), measure
    return values_of(values.assign(subset=cell[0], split=cell[1]), column)


def _unanswered(
    values: pd.DataFrame,
    cells: Mapping[Cell, Qrels],
    answered: Mapping[Cell, set[str]],
    judged: Judgements,
    measure: str,
) -> pd.Series[bool]:
    """Mark the units whose queries the run does not have: any of a pair's or a group's, all of a merged list's."""
    found = registry.find(measure)
    lost: dict[Cell, set[str]] = {}
    for cell, qrels in cells.items():
        absent = {query for query in qrels if query not in answered[cell]}
        if registry.of_pairs(measure):
            pairs = judged.changed[cell]
            lost[cell] = {pair for pair in pairs if not {f"{pair}-og", f"{pair}-changed"} <= answered[cell]}
        elif not isinstance(found, Grouped):
            lost[cell] = absent
        else:
            there = {found.group(query) for query in answered[cell] & set(qrels)} if found.merged else set()
            lost[cell] = {found.group(query) for query in absent} - there
    keys = zip(values["subset"], values["split"], values["query_id"], strict=True)
    return pd.Series([query in lost[subset, split] for subset, split, query in keys], index=values.index, dtype=bool)


def _ranked(frame: pd.DataFrame, cell: Cell) -> pd.DataFrame:
    """Rank candidates as our own files do: the best first, of ties the larger id."""
    ordered = frame.sort_values(["query_id", "score", "doc_id"], ascending=[True, False, False], kind="stable")
    rank = ordered.groupby("query_id", sort=False).cumcount() + 1
    return ordered.assign(subset=cell[0], split=cell[1], rank=rank)


def evaluate_stored(name: str, folder: Path, task: str, measure: str, judged: Judgements | None = None) -> TaskRun:
    """Compute a stored run's values from its candidates' scores, judged by its own judgements unless others are given.

    Raises:
        DataError: A file is missing or torn.
    """
    qrels = judged or read_judgements(folder / QRELS, task)
    frame = read_parquet(folder / PAIRS)[["subset", "split", "query_id", "doc_id", "score"]]
    # A cell without a single candidate is judged all the same.
    empty = frame.head(0)[["query_id", "doc_id", "score"]]
    rankings = dict.fromkeys(qrels.cells, empty) | dict(by_cell(frame, ONE_CELL))
    return evaluate(name, rankings, qrels, measure, stored=judged is None)
