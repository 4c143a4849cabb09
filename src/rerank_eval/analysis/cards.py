"""Results as model cards show them: Qwen3-Reranker's table, and the block that the hub reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rerank_eval.engine.shapes import shape_of
from rerank_eval.errors import ConfigError
from rerank_eval.metrics.registry import percent, shown
from rerank_eval.results.records import ResultRecord
from rerank_eval.tables import MISSING, Row, Table


def to_card(records: Sequence[ResultRecord], suites: Mapping[str, Sequence[str]]) -> str:
    """Render the model card's table: one row a run, one column a suite, main scores x 100.

    Args:
        records: Results of one revision of each task's data.
        suites: Suite -> its tasks, of the table's columns. A suite that lacks a task has no score; nothing is averaged
            over what is there.

    Returns:
        Markdown.
    """
    rows: dict[tuple[str, str], list[ResultRecord]] = {}
    for record in sorted(records, key=lambda one: (one.order, one.label, one.identity, one.finished)):
        rows.setdefault((record.candidates, record.identity), []).append(record)
    labels = [row[0].label for row in rows.values()]
    lines = []
    for row in rows.values():
        first = row[0]
        words = f" ({first.detail})" if labels.count(first.label) > 1 and first.detail else ""
        scores = {record.task: record.main for record in row}
        cells = [_mean([scores.get(task, math.nan) for task in tasks]) for tasks in suites.values()]
        lines.append(Row([first.label + words, _size(first.model), *cells]))
    return Table(["Model", "Param", *suites], "lr" + "r" * len(suites), lines).markdown() + "\n"


def _mean(values: Sequence[float]) -> str:
    whole = bool(values) and not any(math.isnan(value) for value in values)
    return percent(math.fsum(values) / len(values)) if whole else MISSING


def _size(model: str) -> str:
    shape = shape_of(model, None)
    if shape is None:
        return MISSING
    billions = shape.parameters / 1e9
    return f"{billions:.0f}B" if billions >= 1 else f"{billions:.1f}B"


def to_model_index(records: Sequence[ResultRecord]) -> str:
    """Render the `model-index` block of one model, which the hub shows beside its model card.

    Returns:
        YAML, to stand in a model card's front matter.

    Raises:
        ConfigError: The results are of several models or runs.
    """
    from huggingface_hub import EvalResult, ModelCardData

    runs = {(record.model, record.identity): record for record in records}
    if len(runs) > 1:
        words = "; ".join(f"{one.label} ({one.detail}) after {one.retriever}" for one in runs.values())
        raise ConfigError(
            f"model-index: {len(runs)} runs are here: {words}; it is about one, choose it with --model and a results "
            "folder that holds it alone"
        )
    results = [
        EvalResult(
            task_type="text-ranking",
            task_name="Reranking" if record.kind == "reranker" else "Retrieval",
            dataset_type=record.dataset,
            dataset_name=record.task,
            dataset_revision=record.revision,
            metric_type=record.main_score,
            metric_name=shown(record.main_score),
            metric_value=float(percent(record.main)),
            metric_config=record.detail or None,
        )
        for record in sorted(records, key=lambda one: one.task)
    ]
    card = ModelCardData(model_name=records[0].label, eval_results=results)
    return card.to_yaml() + "\n"
