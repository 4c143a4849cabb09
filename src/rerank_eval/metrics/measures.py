"""The one place that knows measures by mteb's names: what each is made of, its values, how a score is shown.

A measure is a family and a cut-off (`ndcg_at_20`), a family without one (`map`, `mrr`: of the whole list), or one of
three that mteb takes over groups of queries. All are trec_eval's, by pytrec_eval, as in mteb.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rerank_eval.errors import ConfigError
from rerank_eval.names import nearest

DEFAULT = "ndcg_at_10"
P_MRR = "p-MRR"
MAIN = {DEFAULT: "nDCG@10", "ndcg_at_1": "nDCG@1", "recall_at_10": "recall@10", P_MRR: P_MRR}
"""mteb's names of main scores -> how tables show them; all others are shown by mteb's names."""

_HALF_A_DIGIT = 0.5e-5 + 1e-9  # the rest: sums in another order
_FAMILIES = {
    "ndcg": ("ndcg_cut", "ndcg"),
    "map": ("map_cut", "map"),
    "recall": ("recall", None),
    "precision": ("P", None),
    "hit_rate": ("success", None),
    "mrr": ("recip_rank", "recip_rank"),
}
"""mteb's family -> trec_eval's measure with a cut-off, and that of the whole list."""
_ALIASES = {
    "ap": "map",
    "map_cut": "map",
    "ndcg_cut": "ndcg",
    "p": "precision",
    "r": "recall",
    "rr": "mrr",
    "recip_rank": "mrr",
    "success": "hit_rate",
}
"""trec_eval's and ir_measures' names of families -> mteb's."""
_NAMED = {"accuracy": "recall_1", "r_precision": "Rprec"}  # mteb's accuracy is recall@1
_OTHER_WORDS = {"rprec": "r_precision"}
_CUT = re.compile(r"([a-z_]+?)(?:_at_|@|_|\.)([1-9][0-9]{0,5})")
_SUBQUERIES = "max_over_subqueries_"


def _before_first(query_id: str) -> str:
    return query_id.split("_", maxsplit=1)[0]


def _before_last(query_id: str) -> str:
    return "_".join(query_id.split("_")[:-1])


_GROUPED: dict[str, tuple[str, Callable[[str], str]]] = {
    "paired_accuracy": ("recall_at_1", _before_first),
    "robustness_at_10": ("ndcg_at_10", _before_first),
}
"""Measure over groups -> that of its queries, whose least value in a group counts, and a query's group."""


@dataclass(frozen=True)
class Measure:
    """A measure of a ranking.

    Attributes:
        name: mteb's name.
        trec: pytrec_eval's name of what it is made of, such as `ndcg_cut_20`; empty for p-MRR.
        depth: For a reciprocal rank, the rank behind which it is 0; None where that does not apply.
        base: For one over groups of queries, the measure of a query or of a merged list; itself for all others.
        group: For one over groups, names the group of a query.
        merged: Whether a group's lists are merged (a document keeps its best score) before they are judged.
    """

    name: str
    trec: str
    depth: int | None = None
    base: str = ""
    group: Callable[[str], str] | None = None
    merged: bool = False

    @property
    def by_query(self) -> bool:
        """Whether every query has a value of its own."""
        return self.group is None and bool(self.trec)

    @property
    def requested(self) -> str:
        """What pytrec_eval is asked for, `ndcg_cut.20`."""
        family, _, cut = self.trec.rpartition("_")
        return f"{family}.{cut}" if cut.isdecimal() else self.trec

    def of(self, values: Mapping[str, float]) -> float:
        """Take a query's value out of what pytrec_eval returned.

        Args:
            values: pytrec_eval's name -> value.
        """
        value = float(values[self.trec])
        # A reciprocal rank within the first k is at least 1/k; the margin covers its rounding.
        return value if self.depth is None or value > 1 / (self.depth + 0.5) else 0.0


def find(name: str) -> Measure | None:
    """Find a measure.

    Args:
        name: mteb's name (`ndcg_at_10`, `hit_rate_at_1`, `mrr`, `paired_accuracy`, `p-MRR`), trec_eval's
            (`ndcg_cut_10`) or ir_measures' (`nDCG@10`), in any case.

    Returns:
        The measure, or None where this is the name of none.
    """
    lower = name.lower()
    if lower in {P_MRR.lower(), "p_mrr"}:
        return Measure(P_MRR, "")
    if lower in _GROUPED:
        base, group = _GROUPED[lower]
        return Measure(lower, _by_query(base).trec, None, base, group)
    if lower.startswith(_SUBQUERIES):
        own = find(lower.removeprefix(_SUBQUERIES))
        if own is None or not own.by_query:
            return None
        return Measure(_SUBQUERIES + own.name, own.trec, own.depth, own.name, _before_last, merged=True)
    return _plain(lower)


def _plain(lower: str) -> Measure | None:
    lower = _OTHER_WORDS.get(lower, lower)
    if lower in _NAMED:
        return Measure(lower, _NAMED[lower], base=lower)
    whole = _ALIASES.get(lower, lower)
    if whole in _FAMILIES:
        trec = _FAMILIES[whole][1]
        return None if trec is None else Measure(whole, trec, base=whole)
    parts = _CUT.fullmatch(lower)
    family = "" if parts is None else _ALIASES.get(parts[1], parts[1])
    if parts is None or family not in _FAMILIES:
        return None
    cut, trec = int(parts[2]), str(_FAMILIES[family][0])
    own = f"{family}_at_{cut}"
    return Measure(own, trec, cut, own) if family == "mrr" else Measure(own, f"{trec}_{cut}", base=own)


def _by_query(name: str) -> Measure:
    found = find(name)
    assert found is not None  # noqa: S101 - asked for names of this module alone
    return found


def named(name: str, further: Iterable[str] = ()) -> str:
    """Return a measure's own name.

    Args:
        name: As a user wrote it.
        further: Other names that are valid here.

    Raises:
        ConfigError: There is no such measure; lists the valid ones.
    """
    own = list(further)
    if name in own:
        return name
    found = find(name)
    if found is not None:
        return found.name
    families = ", ".join(f"{family}_at_K" for family in _FAMILIES)
    valid = [f"{family}_at_10" for family in _FAMILIES] + ["map", "mrr", "ndcg", *_NAMED, *_GROUPED, P_MRR, *own]
    near = nearest(name, valid)
    meant = "" if near is None else f" did you mean {near!r}?"
    others = ", ".join([*_NAMED, *_GROUPED, f"{_SUBQUERIES}map_at_1000 and the like", P_MRR])
    columns = f"; and the columns {', '.join(own)}" if own else ""
    raise ConfigError(
        f"--measure {name!r}: there is no such measure;{meant} valid: {families}; of whole lists ndcg, map, mrr; "
        f"further {others}{columns}"
    )


def over_groups(measure: Measure, queries: pd.DataFrame) -> pd.DataFrame:
    """Fold the values of queries to those of their groups.

    mteb's paired_accuracy (Weller et al. 2023, arXiv:2305.07614) is 1 where the first of both queries' lists is right;
    its robustness_at_10 (Oh et al. 2024, arXiv:2402.14334) is the least nDCG@10 over a query's instructions.

    Args:
        measure: One over groups, not of merged lists.
        queries: Columns query_id and the measure's `base`.

    Returns:
        Columns query_id (the group's name) and value (float64), sorted.
    """
    group = measure.group
    assert group is not None  # noqa: S101 - asked for these only
    values = queries[measure.base].astype("float64")
    if measure.name == "paired_accuracy":
        values = (values == 1).astype("float64")
    found = values.groupby(queries["query_id"].map(group)).min()
    return pd.DataFrame({"query_id": found.index.astype(object), "value": found.to_numpy()})


def merge(
    measure: Measure, scores: pd.DataFrame, qrels: Mapping[str, Mapping[str, int]]
) -> tuple[pd.DataFrame, dict[str, Mapping[str, int]]]:
    """Merge the lists of each group's queries, as mteb's max_over_subqueries does.

    Args:
        measure: One of merged lists.
        scores: Columns query_id, doc_id, score.
        qrels: query id -> document id -> relevance; in a group all are the same, and the last counts.

    Returns:
        Scores and judgements of the groups.
    """
    group = measure.group
    assert group is not None  # noqa: S101 - asked for these only
    own: Any = scores[scores["query_id"].isin(set(qrels))]
    own = own.assign(query_id=own["query_id"].map(group)) if len(own) else own
    merged = own.groupby(["query_id", "doc_id"], sort=False, as_index=False)["score"].max()
    return merged, {group(query): judged for query, judged in qrels.items()}


def agree(ours: float, theirs: float) -> bool:
    """Tell whether mteb's score is ours, rounded to five digits as mteb rounds, or not at all.

    Args:
        ours: Not rounded.
        theirs: mteb's.
    """
    return abs(ours - theirs) <= _HALF_A_DIGIT


def shown(name: str) -> str:
    """Return how tables show a measure.

    Args:
        name: mteb's name.
    """
    return MAIN.get(name, name)


def two_digits(points: float, sign: str = "") -> str:
    """Show a number of points, a score times 100: the only place where a score is rounded for a reader.

    Two sums of the same values in another order differ in their last bits, and would fall on either side of a half;
    what is alike in nine digits is shown alike.

    Args:
        points: The number; not NaN.
        sign: `+` to show the sign of what is positive.
    """
    return f"{round(round(float(points), 9), 2) + 0.0:{sign}.2f}"  # + 0.0: no minus before a zero


def percent(score: float, sign: str = "") -> str:
    """Show a score of mteb's scale in points.

    Args:
        score: On mteb's scale, 0..1 or -1..1; not NaN.
        sign: `+` to show the sign of what is positive.
    """
    return two_digits(100 * score, sign)
