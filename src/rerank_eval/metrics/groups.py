"""mteb's metrics over groups of queries, such as the instructions of one base query."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rerank_eval.metrics import registry
from rerank_eval.metrics.registry import Metric, Qrels

_SUBQUERIES = "max_over_subqueries_"


def _before_first(query_id: str) -> str:
    return query_id.split("_", maxsplit=1)[0]


def _before_last(query_id: str) -> str:
    return "_".join(query_id.split("_")[:-1])


@dataclass(frozen=True)
class Grouped:
    """A metric whose value is a group's, and not a query's: the least of its queries' values.

    Attributes:
        base: The metric of a query, or of a merged list.
        group: Names the group of a query.
        merged: Whether a group's lists are merged before: a document keeps its best score.
        exact: Whether a query counts only where its value is 1.
    """

    name: str
    base: str
    group: Callable[[str], str]
    merged: bool = False
    exact: bool = False
    unit: str = "group"

    @property
    def title(self) -> str:
        """What tables call it: mteb's name."""
        return self.name

    def compute(self, scores: pd.DataFrame, qrels: Qrels) -> Mapping[str, float]:
        """See `registry.Metric`; the keys are groups."""
        base = registry.find(self.base)
        assert base is not None  # noqa: S101 - `base` is a name of ours
        if self.merged:  # all judgements of a group are the same
            known: Any = scores[scores["query_id"].isin(set(qrels))]
            known = known.assign(query_id=known["query_id"].map(self.group)) if len(known) else known
            merged = known.groupby(["query_id", "doc_id"], sort=False, as_index=False)["score"].max()
            return base.compute(merged, {self.group(query): judged for query, judged in qrels.items()})
        least: dict[str, float] = {}
        for query, value in base.compute(scores, qrels).items():
            counted = float(value == 1) if self.exact else value
            least[self.group(query)] = min(counted, least.get(self.group(query), counted))
        return dict(sorted(least.items()))


PAIRED_ACCURACY = Grouped("paired_accuracy", "recall_at_1", _before_first, exact=True)
"""Weller et al. 2023 (arXiv:2305.07614): 1 where the first of both queries' lists is right."""

ROBUSTNESS = Grouped("robustness_at_10", "ndcg_at_10", _before_first)
"""Oh et al. 2024 (arXiv:2402.14334): the least nDCG@10 over a query's instructions."""


def max_over_subqueries(base: str) -> Metric | None:
    """Return mteb's `max_over_subqueries_` of another metric, or None where there is no such metric of queries."""
    found = registry.find(base)
    if found is None or registry.unit(found) != "query":
        return None
    return Grouped(_SUBQUERIES + found.name, found.name, _before_last, merged=True)
