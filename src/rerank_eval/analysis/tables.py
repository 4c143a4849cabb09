"""The leaderboard: one frame, from which every rendering is made.

Rows are grouped by candidates: the retriever alone, then each reranker on its candidates, then two lines that say how
far any reranker could get. Values are main scores times 100, the model card's scale.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from rerank_eval.metrics import registry
from rerank_eval.names import some
from rerank_eval.results.records import RANKING, ResultRecord
from rerank_eval.visible import one_line

MODEL, DETAIL, RETRIEVER, TOP_K, KIND = "Model", "Details", "Retriever", "top_k", "kind"
IDENTITY, NOTES = "identity", "notes"
_FIXED = (MODEL, DETAIL, RETRIEVER, TOP_K, KIND, IDENTITY, NOTES)
_ORACLE = "ceiling: nDCG@10 of the best order"
_RECALL = "ceiling: recall@100"
_RECALL_AT = 100


@dataclass(frozen=True)
class Leaderboard:
    """A leaderboard ready to be rendered.

    Attributes:
        frame: Columns Model, Details, Retriever, top_k (int64), kind (`retriever`, `reranker`, `ceiling`), identity,
            notes (in words), then one a task and one a complete suite; float64 on the card's scale, NaN where nothing
            was run.
        names: What a reader sees as each row's model: rerankers are indented by `+`, footnotes stand as `[n]`.
        caption: What the numbers are.
        notes: The footnotes, the first is `[1]`.
    """

    frame: pd.DataFrame
    names: tuple[str, ...]
    caption: str
    notes: tuple[str, ...]

    @property
    def scores(self) -> list[str]:
        """Names of the score columns."""
        return [column for column in self.frame.columns if column not in _FIXED]

    @property
    def footnotes(self) -> list[str]:
        """The notes with their numbers, as they stand below a table."""
        return [f"[{number}] {note}" for number, note in enumerate(self.notes, start=1)]

    def best(self, column: str) -> float:
        """Return a column's best score among real rows, NaN when there are fewer than two to choose from."""
        real = self.frame.loc[self.frame[KIND] != "ceiling", column].dropna()
        return float(real.max()) if len(real) > 1 else math.nan


def leaderboard(records: Sequence[ResultRecord], suites: Mapping[str, Sequence[str]]) -> Leaderboard:
    """Build the leaderboard of records of one data revision a task; where a row has a task twice, the latest counts.

    A suite's mean stands only in rows that have all its tasks, and the column only when some row has; where a suite
    mixes ranking scores and p-MRR, the mean is over the ranking scores. Ceilings are nDCG@10 and recall@100, and stand
    only where the main score is nDCG@10.
    """
    records = _latest(records)
    scores = {record.task: record.main_score for record in records}
    tasks = _task_order(scores, suites)
    notes: dict[str, int] = {}
    rows: list[dict[str, object]] = []
    names: list[str] = []
    for group in _groups(records):
        for row in _rows(group):
            row_notes = list(dict.fromkeys(one_line(note) for record in row for note in record.notes)) + _marked(row)
            marks = "".join(f" [{notes.setdefault(note, len(notes) + 1)}]" for note in row_notes)
            label = one_line(row[0].label)
            names.append((label if row[0].kind == "retriever" else f"+ {label}") + marks)
            rows.append(_score_row(row, row_notes, suites, scores))
        ceilings = _ceilings(group, suites, scores)
        names.extend(str(row[MODEL]) for row in ceilings)
        rows.extend(ceilings)
    _tell_apart(rows)
    columns = [_head(task, scores[task]) for task in tasks]
    present = {key for row in rows for key in row}
    columns += [_mean_name(suite) for suite in suites if _mean_name(suite) in present]
    frame = pd.DataFrame(rows, columns=[*_FIXED, *columns])
    frame[columns] = frame[columns].astype("float64")
    return Leaderboard(frame, tuple(names), _caption(scores, suites, columns), tuple(notes))


def _marked(row: Sequence[ResultRecord]) -> list[str]:
    """Say that texts of a row's tasks hold what the model's tokenizer reads as its own tokens."""
    tasks = sorted((record for record in row if record.marked), key=lambda record: (-record.marked, record.task))
    if not tasks:
        return []
    markers = dict.fromkeys(one_line(marker) for record in tasks for marker in record.markers)
    where = [f"{one_line(record.task)} {record.marked}" for record in tasks]
    read = "read as plain text" if tasks[0].neutralised else "read as tokens, so that a text can close its own turn"
    return [
        f"special tokens in the texts of {sum(record.marked for record in tasks)} pairs ({some(where)}): "
        f"{some(list(markers))}; {read}"
    ]


def _tell_apart(rows: list[dict[str, object]]) -> None:
    """Add the identity's beginning to rows that read alike, such as two revisions of one model."""
    looks = Counter((row[MODEL], row[DETAIL], row[RETRIEVER]) for row in rows if row[KIND] != "ceiling")
    for row in rows:
        if looks[row[MODEL], row[DETAIL], row[RETRIEVER]] > 1:
            row[DETAIL] = f"{row[DETAIL]} (id {str(row[IDENTITY])[:6]})".strip()


def _latest(records: Sequence[ResultRecord]) -> list[ResultRecord]:
    ordered = sorted(records, key=lambda r: (r.order, r.candidates, r.identity, r.task, r.finished, r.label, r.detail))
    return list({(record.candidates, record.identity, record.task): record for record in ordered}.values())


def _task_order(present: Mapping[str, str], suites: Mapping[str, Sequence[str]]) -> list[str]:
    listed = dict.fromkeys(task for tasks in suites.values() for task in tasks if task in present)
    return [*listed, *sorted(set(present) - set(listed))]


def _groups(records: Sequence[ResultRecord]) -> list[list[ResultRecord]]:
    return sorted(
        _by(records, "candidates"),
        key=lambda group: (min(r.order for r in group), group[0].retriever, group[0].candidates),
    )


def _by(records: Sequence[ResultRecord], field: str) -> list[list[ResultRecord]]:
    groups: dict[str, list[ResultRecord]] = {}
    for record in records:
        groups.setdefault(getattr(record, field), []).append(record)
    return list(groups.values())


def _rows(group: Sequence[ResultRecord]) -> list[list[ResultRecord]]:
    return sorted(
        _by(group, "identity"),
        key=lambda row: (row[0].kind != "retriever", row[0].order, row[0].label, row[0].detail),
    )


def _score_row(
    row: Sequence[ResultRecord],
    notes: Sequence[str],
    suites: Mapping[str, Sequence[str]],
    scores: Mapping[str, str],
) -> dict[str, object]:
    first = row[0]
    detail = one_line(first.detail)
    if first.kind == "retriever":
        detail = f"retriever alone, top {first.top_k}" + (f", {detail}" if detail else "")
    values = {record.task: 100 * record.main for record in row}
    fixed = _fixed(first, one_line(first.label), detail, first.kind, notes)
    return fixed | _score_columns(values, values, suites, scores)


def _fixed(record: ResultRecord, model: str, detail: str, kind: str, notes: Sequence[str]) -> dict[str, object]:
    return {
        MODEL: model,
        DETAIL: detail,
        RETRIEVER: one_line(record.retriever),
        TOP_K: record.top_k,
        KIND: kind,
        IDENTITY: record.identity,
        NOTES: "; ".join(notes),
    }


def _score_columns(
    values: Mapping[str, float],
    run: Collection[str],
    suites: Mapping[str, Sequence[str]],
    scores: Mapping[str, str],
) -> dict[str, object]:
    """Return a row's score columns: its values, and the mean of each suite all of whose tasks were run."""
    columns: dict[str, object] = {_head(task, scores[task]): value for task, value in values.items()}
    for suite, tasks in suites.items():
        averaged = _averaged(tasks, scores)
        if tasks and set(tasks) <= set(run) and set(averaged) <= set(values):
            columns[_mean_name(suite)] = math.fsum(values[task] for task in averaged) / len(averaged)
    return columns


def _ceilings(
    group: Sequence[ResultRecord], suites: Mapping[str, Sequence[str]], scores: Mapping[str, str]
) -> list[dict[str, object]]:
    retrieved = [record for record in group if record.kind == "retriever"]
    run = {record.task for record in retrieved}
    lines: list[dict[str, object]] = []
    for name, pick in ((_ORACLE, "oracle"), (_RECALL, "recall")):
        values = {
            record.task: 100 * float(getattr(record, pick)) for record in retrieved if record.main_score == RANKING
        }
        # Beyond 100 candidates a reranker may lift more relevant documents into the first 100 than retrieval had there.
        if values and not (pick == "recall" and retrieved[0].top_k > _RECALL_AT):
            fixed = _fixed(retrieved[0], name, "", "ceiling", ())
            lines.append(fixed | _score_columns(values, run, suites, scores))
    return lines


def _averaged(tasks: Sequence[str], scores: Mapping[str, str]) -> list[str]:
    ranking = [task for task in tasks if not registry.signed(scores.get(task, RANKING))]
    return ranking or list(tasks)


def _head(task: str, main_score: str) -> str:
    name = one_line(task)
    # A folder may be called like one of the columns that say whose the row is.
    plain = main_score == RANKING and name not in _FIXED
    return name if plain else f"{name} ({one_line(registry.shown(main_score))})"


def _mean_name(suite: str) -> str:
    return f"mean {one_line(suite)}"


def _caption(scores: Mapping[str, str], suites: Mapping[str, Sequence[str]], columns: Sequence[str]) -> str:
    caption = "Main scores × 100: nDCG@10 unless the column says otherwise."
    mixed = [
        suite
        for suite, tasks in suites.items()
        if _mean_name(suite) in columns and len(_averaged(tasks, scores)) < len(tasks)
    ]
    if registry.P_MRR in scores.values():
        caption += " p-MRR is over a task's own candidates, in rows with candidates=retrieved over the retriever's."
    if mixed:
        caption += f" The mean of {', '.join(mixed)} leaves p-MRR out."
    return caption
