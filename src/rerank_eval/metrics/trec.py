"""trec_eval's metrics, by pytrec_eval, as in mteb: one object a family, which makes the metric of a cut-off.

`per_query` computes many of them in one pass; they stand here for what they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from rerank_eval.metrics.registry import Qrels

_CUT = re.compile("[1-9][0-9]{0,5}")


@dataclass(frozen=True)
class Trec:
    """A metric of trec_eval's.

    Attributes:
        name: mteb's name.
        title: What tables call it.
        trec: pytrec_eval's name, such as `ndcg_cut_20`.
        depth: For a reciprocal rank, the rank behind which it is 0; None where that does not apply.
    """

    name: str
    title: str
    trec: str
    depth: int | None = None

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

    def compute(self, scores: pd.DataFrame, qrels: Qrels) -> Mapping[str, float]:
        """See `registry.Metric`."""
        from rerank_eval.metrics.per_query import per_query

        found = per_query(scores, qrels, [self])
        return dict(zip(found["query_id"], found[self.name].tolist(), strict=True))


@dataclass(frozen=True)
class Family:
    """A family of trec_eval's, such as nDCG at any cut-off.

    Attributes:
        name: mteb's name.
        cut: trec_eval's name with a cut-off.
        whole: trec_eval's name of that of the whole list; empty where there is none.
        titles: Cut-off -> what tables call it; all others are called by mteb's name.
    """

    name: str
    cut: str
    whole: str = ""
    titles: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, cut: str) -> Trec | None:
        """Return the metric of a cut-off (empty: of the whole list), or None where there is none."""
        if not cut:
            return Trec(self.name, self.name, self.whole) if self.whole else None
        if not _CUT.fullmatch(cut):
            return None
        name = f"{self.name}_at_{cut}"
        # trec_eval's reciprocal rank knows no cut-off.
        trec, depth = (self.cut, int(cut)) if self.cut == self.whole else (f"{self.cut}_{cut}", None)
        return Trec(name, self.titles.get(cut, name), trec, depth)


NDCG = Family("ndcg", "ndcg_cut", "ndcg", {"1": "nDCG@1", "10": "nDCG@10"})
MAP = Family("map", "map_cut", "map")
RECALL = Family("recall", "recall", titles={"10": "recall@10"})
PRECISION = Family("precision", "P")
HIT_RATE = Family("hit_rate", "success")
MRR = Family("mrr", "recip_rank", "recip_rank")
ACCURACY = Trec("accuracy", "accuracy", "recall_1")  # mteb's accuracy is recall@1
R_PRECISION = Trec("r_precision", "r_precision", "Rprec")
