"""The leaderboard: one frame, from which every rendering is made.

Rows are grouped by candidates: the retriever alone, then each reranker on its candidates, then two lines that say how
far any reranker could get. Values are main scores times 100, the model card's scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from rerank_eval.analysis.records import RANKING, ResultRecord

MODEL, DETAIL, KIND = "Model", "Details", "kind"
IDENTITY = "identity"
_FIXED = (MODEL, DETAIL, KIND, IDENTITY)
_P_MRR = "p-MRR"
_ORACLE = "ceiling: nDCG@10 of the best order"
_RECALL = "ceiling: recall@100"
_NAMES = {"ndcg_at_10": "nDCG@10", "ndcg_at_1": "nDCG@1", "recall_at_10": "recall@10", "p-MRR": "p-MRR"}


@dataclass(frozen=True)
class Leaderboard:
    """A leaderboard ready to be rendered.

    Attributes:
        frame: Columns Model, Details, kind (`retriever`, `reranker`, `ceiling`), identity, then one a task and one a
            complete suite; float64 on the card's scale, NaN where nothing was run.
        caption: What the numbers are.
        notes: Footnotes; a row that carries note n ends its model's name in `[n]`.
    """

    frame: pd.DataFrame
    caption: str
    notes: tuple[str, ...]

    @property
    def scores(self) -> list[str]:
        """Names of the score columns."""
        return [column for column in self.frame.columns if column not in _FIXED]

    def best(self, column: str) -> float:
        """Return a column's best score among real rows, NaN when there are fewer than two to choose from."""
        real = self.frame.loc[self.frame[KIND] != "ceiling", column].dropna()
        return float(real.max()) if len(real) > 1 else math.nan


def leaderboard(records: Sequence[ResultRecord], suites: Mapping[str, Sequence[str]]) -> Leaderboard:
    """Build the leaderboard of everything in a results folder.

    Args:
        records: What `load_manifests` returned, of one data revision a task.
        suites: Suite -> its tasks, for column order and means.

    Returns:
        The leaderboard. A suite's mean stands only in rows that have all its tasks, and the column only when some row
        has; where a suite mixes ranking scores and p-MRR, the mean is over the ranking scores.
    """
    scores = {record.task: record.main_score for record in records}
    tasks = _task_order(scores, suites)
    notes = tuple(dict.fromkeys(note for record in records for note in record.notes))
    rows: list[dict[str, object]] = []
    for group in _groups(records):
        for row in _rows(group):
            rows.append(_score_row(row, notes, suites, scores))
        rows.extend(_ceilings(group, scores))
    columns = [_head(task, scores[task]) for task in tasks]
    present = {key for row in rows for key in row}
    columns += [_mean_name(suite) for suite in suites if _mean_name(suite) in present]
    frame = pd.DataFrame(rows, columns=[MODEL, DETAIL, KIND, IDENTITY, *columns])
    frame[columns] = frame[columns].astype("float64")
    return Leaderboard(frame, _caption(scores, suites, columns), notes)


def _task_order(present: Mapping[str, str], suites: Mapping[str, Sequence[str]]) -> list[str]:
    listed = dict.fromkeys(task for tasks in suites.values() for task in tasks if task in present)
    return [*listed, *sorted(set(present) - set(listed))]


def _groups(records: Sequence[ResultRecord]) -> list[list[ResultRecord]]:
    groups: dict[str, list[ResultRecord]] = {}
    for record in records:
        groups.setdefault(record.candidates, []).append(record)
    return sorted(
        groups.values(), key=lambda group: (min(r.order for r in group), group[0].retriever, group[0].candidates)
    )


def _rows(group: Sequence[ResultRecord]) -> list[list[ResultRecord]]:
    rows: dict[str, list[ResultRecord]] = {}
    for record in group:
        rows.setdefault(record.identity, []).append(record)
    return sorted(
        rows.values(), key=lambda row: (row[0].kind != "retriever", row[0].order, row[0].label, row[0].detail)
    )


def _score_row(
    row: Sequence[ResultRecord],
    notes: Sequence[str],
    suites: Mapping[str, Sequence[str]],
    scores: Mapping[str, str],
) -> dict[str, object]:
    first = row[0]
    marks = "".join(f" [{notes.index(note) + 1}]" for note in first.notes)
    name, detail = first.label, first.detail
    if first.kind == "retriever":
        detail = f"retriever alone, top {first.top_k}" + (f", {detail}" if detail else "")
    else:
        name = f"+ {name}"
    values = {record.task: 100 * record.main for record in row}
    result: dict[str, object] = {MODEL: name + marks, DETAIL: detail, KIND: first.kind, IDENTITY: first.identity}
    result |= {_head(task, scores[task]): value for task, value in values.items()}
    for suite, tasks in suites.items():
        averaged = _averaged(tasks, scores)
        if tasks and set(tasks) <= set(values):
            result[_mean_name(suite)] = math.fsum(values[task] for task in averaged) / len(averaged)
    return result


def _ceilings(group: Sequence[ResultRecord], scores: Mapping[str, str]) -> list[dict[str, object]]:
    retrieved = [record for record in group if record.kind == "retriever"]
    if not retrieved:
        return []
    lines: list[dict[str, object]] = []
    for name, pick in ((_ORACLE, "oracle"), (_RECALL, "recall")):
        values = {
            _head(record.task, scores[record.task]): 100 * float(getattr(record, pick))
            for record in retrieved
            if record.main_score == RANKING
        }
        if values:
            lines.append({MODEL: name, DETAIL: "", KIND: "ceiling", IDENTITY: retrieved[0].identity, **values})
    return lines


def _averaged(tasks: Sequence[str], scores: Mapping[str, str]) -> list[str]:
    ranking = [task for task in tasks if scores.get(task) != _P_MRR]
    return ranking or list(tasks)


def _head(task: str, main_score: str) -> str:
    return task if main_score == RANKING else f"{task} ({_NAMES.get(main_score, main_score)})"


def _mean_name(suite: str) -> str:
    return f"mean {suite}"


def _caption(scores: Mapping[str, str], suites: Mapping[str, Sequence[str]], columns: Sequence[str]) -> str:
    caption = "Main scores × 100: nDCG@10 unless the column says otherwise."
    mixed = [
        suite
        for suite, tasks in suites.items()
        if _mean_name(suite) in columns and len(_averaged(tasks, scores)) < len(tasks)
    ]
    if mixed:
        caption += f" The mean of {', '.join(mixed)} leaves p-MRR out."
    return caption
