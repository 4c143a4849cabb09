"""Metrics by name: what each is called, how tables show it, how it is computed. Everything else asks here.

A metric is one object, declared once. Built-in ones and those of installed packages come through the same door, the
entry points of the group `rerank_eval.metrics`; see `Metric` for what one has to have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, cast

import pandas as pd

from rerank_eval.errors import ConfigError
from rerank_eval.names import nearest
from rerank_eval.registry import Registry, parts_in

Qrels = Mapping[str, Mapping[str, int]]
"""query id -> document id -> relevance"""

DEFAULT = "ndcg_at_10"
P_MRR = "p-MRR"

_HALF_A_DIGIT = 0.5e-5 + 1e-9  # the rest: sums in another order
_JOINTS = ("_at_", "@", "_", ".")


class Metric(Protocol):
    """A metric of rankings: larger is better, values lie in 0..1 (or -1..1), tables show them times 100.

    One that does not fit may say so by further attributes: `lowest = -1.0` where values may be negative, so that it is
    not averaged with others; `larger_is_better = False`.
    """

    @property
    def name(self) -> str:
        """What `--measure` calls it, and its column in files; mteb's name where mteb has it."""

    @property
    def title(self) -> str:
        """What tables call it."""

    def compute(self, scores: pd.DataFrame, qrels: Qrels) -> Mapping[str, float]:
        """Compute every query's value.

        Args:
            scores: Columns query_id, doc_id, score (float64); one row a candidate, in any order.
            qrels: The judged queries' relevant and irrelevant documents.

        Returns:
            Query id -> value. A judged query that is left out counts 0.
        """


_TREC = "rerank_eval.metrics.per_query:"
_GROUPS = "rerank_eval.metrics.groups:"
METRICS: Registry[Metric | Callable[[str], Metric | None]] = Registry(
    "rerank_eval.metrics",
    "metric",
    {
        "ndcg": f"{_TREC}NDCG",
        "map": f"{_TREC}MAP",
        "recall": f"{_TREC}RECALL",
        "precision": f"{_TREC}PRECISION",
        "hit_rate": f"{_TREC}HIT_RATE",
        "mrr": f"{_TREC}MRR",
        "accuracy": f"{_TREC}ACCURACY",
        "r_precision": f"{_TREC}R_PRECISION",
        "paired_accuracy": f"{_GROUPS}PAIRED_ACCURACY",
        "robustness_at_10": f"{_GROUPS}ROBUSTNESS",
        "max_over_subqueries": f"{_GROUPS}max_over_subqueries",
        # trec_eval's and ir_measures' names
        "ap": f"{_TREC}MAP",
        "map_cut": f"{_TREC}MAP",
        "ndcg_cut": f"{_TREC}NDCG",
        "p": f"{_TREC}PRECISION",
        "r": f"{_TREC}RECALL",
        "rr": f"{_TREC}MRR",
        "recip_rank": f"{_TREC}MRR",
        "success": f"{_TREC}HIT_RATE",
        "rprec": f"{_TREC}R_PRECISION",
        "p_mrr": "rerank_eval.metrics.measures.p_mrr:PART",
        **parts_in("rerank_eval.metrics.measures"),
    },
)
"""Name -> the metric, or a function that makes it of what stands behind the name: `10` in `ndcg_at_10`."""

_CUTS = ("ndcg", "map", "recall", "precision", "hit_rate", "mrr")
_WHOLE = ("ndcg", "map", "mrr")
_FURTHER = ("accuracy", "r_precision", "paired_accuracy", "robustness_at_10")


def find(name: str) -> Metric | None:
    """Find a metric.

    Args:
        name: mteb's name (`ndcg_at_10`, `hit_rate_at_1`, `mrr`, `paired_accuracy`, `p-MRR`), trec_eval's
            (`ndcg_cut_10`), ir_measures' (`nDCG@10`) or a package's, in any case.

    Returns:
        The metric, or None where this is the name of none.

    Raises:
        ConfigError: It is that of a package which cannot be imported, or the package's object is no metric.
    """
    # A package cannot change what a name of ours means.
    return _among(METRICS.builtins, name.lower()) or _among(_packaged(), name.lower())


def _packaged() -> list[str]:
    return [name for name in METRICS if name not in METRICS.builtins]


def _among(families: Iterable[str], lower: str) -> Metric | None:
    parts = {family: _behind(lower, family.lower()) for family in families}
    exact = next((family for family in parts if family.lower() == lower), None)
    if exact is not None:
        return _make(exact, "")
    longest = max((family for family, rest in parts.items() if rest), key=len, default=None)
    return None if longest is None else _make(longest, parts[longest])


def _behind(name: str, family: str) -> str:
    """Return what stands behind a metric's own name: `10` of `ndcg_at_10`; empty where it is another's."""
    return next((name.removeprefix(family + joint) for joint in _JOINTS if name.startswith(family + joint)), "")


def _make(family: str, rest: str) -> Metric | None:
    found = METRICS.get(family)
    if hasattr(found, "compute"):
        return None if rest else _checked(family, cast("Metric", found))
    made = found(rest) if callable(found) else found
    return None if made is None else _checked(family, made)


def _checked(name: str, metric: Metric) -> Metric:
    lacking = [attribute for attribute in ("name", "title", "compute") if not hasattr(metric, attribute)]
    if lacking:
        raise ConfigError(f"metric {name!r}: {metric!r} has no {', '.join(lacking)}; a metric has name, title, compute")
    return metric


def named(name: str, further: Iterable[str] = ()) -> str:
    """Return a metric's own name.

    Raises:
        ConfigError: There is no such metric; lists the valid ones. Or a package declares a name that is ours.
    """
    valid_here = list(further)
    if name in valid_here:
        return name
    found, packages = find(name), _packaged()
    if found is not None:
        if name.lower() in map(str.lower, packages) and _among(METRICS.builtins, name.lower()) is not None:
            raise ConfigError(f"metric {name!r}: a package declares what is {found.name} here already; rename it there")
        return found.name
    families = ", ".join(f"{family}_at_K" for family in _CUTS)
    valid = [f"{family}_at_10" for family in _CUTS] + [*_WHOLE, *_FURTHER, P_MRR, *packages, *valid_here]
    near = nearest(name, valid)
    meant = "" if near is None else f" did you mean {near!r}?"
    others = ", ".join([*_FURTHER, "max_over_subqueries_map_at_1000 and the like", P_MRR, *packages])
    columns = f"; and the columns {', '.join(valid_here)}" if valid_here else ""
    raise ConfigError(
        f"--measure {name!r}: there is no such measure;{meant} valid: {families}; of whole lists ndcg, map, mrr; "
        f"further {others}{columns}"
    )


def shown(name: str) -> str:
    """Return how tables show a metric, or any column."""
    found = find(name)
    return found.title if found is not None and found.name == name else name


def unit(metric: Metric | None) -> str:
    """Return what has a value of its own: `query`, `group` (of queries) or, for p-MRR, `pair` (of instructions)."""
    return str(getattr(metric, "unit", "query"))


def signed(name: str) -> bool:
    """Tell whether a metric's values may be negative, so that it is not averaged with others."""
    return float(getattr(find(name), "lowest", 0.0)) < 0


def of_pairs(name: str) -> bool:
    """Tell whether a metric's values are of pairs of instructions, and not of queries."""
    return unit(find(name)) == "pair"


def direction(name: str) -> int:
    """Return 1 where larger is better, else -1."""
    return 1 if getattr(find(name), "larger_is_better", True) else -1


def column(name: str) -> str:
    """Return a metric's column in result files."""
    return str(getattr(find(name), "column", name))


def agree(ours: float, theirs: float) -> bool:
    """Tell whether mteb's score is ours, rounded to five digits as mteb rounds, or not at all."""
    return abs(ours - theirs) <= _HALF_A_DIGIT


def two_digits(points: float, sign: str = "") -> str:
    """Show a number of points, a score times 100: the only place where a score is rounded for a reader.

    Two sums of the same values in another order differ in their last bits, and would fall on either side of a half;
    what is alike in nine digits is shown alike. With `+` as sign, positive points show theirs.
    """
    return f"{round(round(float(points), 9), 2) + 0.0:{sign}.2f}"  # + 0.0: no minus before a zero


def percent(score: float, sign: str = "") -> str:
    """Show a score of mteb's scale, 0..1 or -1..1, in points."""
    return two_digits(100 * score, sign)
