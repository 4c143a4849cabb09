"""Per-query metrics from scores and judgements, with what ties and candidates leave open.

The ranking metrics are trec_eval's, by pytrec_eval, as in mteb: nDCG with linear gain and log2 discount. It holds
scores as 32-bit floats and lets the larger document id win a tie; what counts as a tie here is what ties there. (mteb
computes its own mrr from 64-bit scores, so that one figure can differ from ours where two scores tie in 32 bits only.)
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytrec_eval

from rerank_eval.errors import ConfigError, DataError, ModelError
from rerank_eval.metrics.registry import Metric, Qrels, unit

MAX_GRADE = 1000
"""Largest relevance that a file may give, either sign. trec_eval makes a table of as many counts, and reads C longs."""

DEPTH = 10
"""Cut-off of nDCG@10, its bounds and its oracle."""

_CUT = re.compile("[1-9][0-9]{0,5}")


@dataclass(frozen=True)
class Trec:
    """A metric of trec_eval's, such as pytrec_eval's `ndcg_cut_20`.

    A reciprocal rank is 0 behind `depth`, which trec_eval does not know; None where that does not apply.
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
        """Take a query's value out of what pytrec_eval returned."""
        value = float(values[self.trec])
        # A reciprocal rank within the first k is at least 1/k; the margin covers its rounding.
        return value if self.depth is None or value > 1 / (self.depth + 0.5) else 0.0

    def compute(self, scores: pd.DataFrame, qrels: Qrels) -> Mapping[str, float]:
        """See `registry.Metric`."""
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

_USUAL = [NDCG("1"), NDCG("10"), RECALL("10"), RECALL("100"), MAP("100"), MRR(""), MRR("10")]
_MEASURES = tuple(one.name for one in _USUAL if one is not None)
_MEANS = (*_MEASURES, "ndcg_at_10_best", "ndcg_at_10_worst", "oracle_ndcg_at_10")
_COUNTS = ("n_candidates", "n_relevant", "n_tied")
COLUMNS = ("query_id", *_MEANS, *_COUNTS)
"""Columns of what `per_query` returns."""

_DISCOUNT = 1.0 / np.log2(np.arange(2, DEPTH + 2))

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Query:
    query_id: str
    document_ids: list[str]
    scores: npt.NDArray[np.float32]
    gains: Floats


def per_query(scores: pd.DataFrame, qrels: Qrels, extra: Sequence[Metric] = ()) -> pd.DataFrame:
    """Compute the metrics of every query of one cell.

    Args:
        scores: Columns query_id, doc_id, score; one row a candidate, in any order.
        qrels: query id -> document id -> relevance. As in mteb (`_filter_queries_without_positives`), a query without
            any judgement is left out; one whose judgements are all 0, or that has no candidates, stays and counts 0.
        extra: Further metrics of queries.

    Returns:
        One row a query, sorted by id, with the columns `COLUMNS` and one for each further metric. float64, 0..1:
        ndcg_at_1, ndcg_at_10, recall_at_10, recall_at_100, map_at_100, mrr, mrr_at_10, ndcg_at_10_best and
        ndcg_at_10_worst (over all ways to order ties), oracle_ndcg_at_10 (the best order of these very candidates).
        int64: n_candidates, n_relevant, n_tied (candidates whose 32-bit score another one has).

    Raises:
        ModelError: A score is NaN, infinite or beyond 32-bit floats; names query and document.
        DataError: An id holds a NUL.
        ConfigError: A package's metric has the name of another column, or a value that is none.
        ValueError: A document stands twice among a query's candidates.
    """
    _check(scores)
    _check_ids(scores, qrels)
    qrels = {query_id: judged for query_id, judged in qrels.items() if judged}
    known = scores[scores["query_id"].isin(set(qrels))]
    queries = {query.query_id: query for query in _queries(known, qrels)}
    run = {
        query.query_id: dict(zip(query.document_ids, query.scores.tolist(), strict=True)) for query in queries.values()
    }
    judged = {query_id: {d: int(value) for d, value in documents.items()} for query_id, documents in qrels.items()}
    wanted = {one.name: one for one in (*_USUAL, *extra) if isinstance(one, Trec)}
    trec = pytrec_eval.RelevanceEvaluator(judged, {one.requested for one in wanted.values()}).evaluate(run)
    rows = []
    for query_id in sorted(qrels):  # pytrec_eval returns nothing for a query without candidates
        values = {one.name: one.of(trec[query_id]) if query_id in trec else 0.0 for one in wanted.values()}
        rows.append(_row(query_id, qrels[query_id], queries.get(query_id), values))
    further = [name for name in wanted if name not in _MEASURES]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *further])
    for one in extra:
        if not isinstance(one, Trec):
            frame[one.name] = _further(one, known, qrels, frame)
            further.append(one.name)
    # Ours and trec_eval's sums differ in the last bit; worst <= actual <= best <= oracle shall hold exactly.
    frame["ndcg_at_10_best"] = frame[["ndcg_at_10_best", "ndcg_at_10"]].max(axis=1)
    frame["ndcg_at_10_worst"] = frame[["ndcg_at_10_worst", "ndcg_at_10"]].min(axis=1)
    frame["oracle_ndcg_at_10"] = frame[["oracle_ndcg_at_10", "ndcg_at_10_best"]].max(axis=1)
    return frame.astype(dict.fromkeys((*_MEANS, *further), "float64") | dict.fromkeys(_COUNTS, "int64"))


def _further(metric: Metric, scores: pd.DataFrame, qrels: Qrels, frame: pd.DataFrame) -> list[float]:
    """Compute a metric that is not trec_eval's, such as a package's."""
    if metric.name in frame.columns:
        raise ConfigError(f"metric {metric.name!r}: results have a column of this name already; rename the metric")
    found = metric.compute(scores.reset_index(drop=True), qrels)
    values = [float(found.get(query, 0.0)) for query in frame["query_id"]]
    lowest = float(getattr(metric, "lowest", 0.0))
    for query, value in zip(frame["query_id"], values, strict=True):
        if not lowest <= value <= 1:
            raise ConfigError(
                f"metric {metric.name!r}: query {query!r} has the value {value}, not on the scale {lowest:g}..1; "
                "mend the package that declares it"
            )
    return values


def by_unit(scores: pd.DataFrame, qrels: Qrels, metric: Metric) -> pd.DataFrame:
    """Compute one metric of one cell, with the arguments of `per_query`.

    Of p-MRR, `qrels` are pair -> documents that its instruction makes irrelevant.

    Returns:
        Columns query_id and value (float64), sorted; for a metric over groups of queries, `query_id` names a group, for
        p-MRR a pair.
    """
    if unit(metric) == "query":
        return per_query(scores, qrels, [metric])[["query_id", metric.name]].set_axis(["query_id", "value"], axis=1)
    found = metric.compute(scores, qrels)
    values = pd.Series(list(found.values()), dtype="float64")
    return pd.DataFrame({"query_id": pd.Series(list(found), dtype=object), "value": values})


def _check(scores: pd.DataFrame) -> None:
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is told apart below
        values = scores["score"].to_numpy(dtype=np.float64).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        row = scores.iloc[bad[0]]
        raise ModelError(
            f"query {row['query_id']!r}, document {row['doc_id']!r}: the score is {row['score']}; "
            f"scores that are not finite 32-bit floats: {len(bad)} of {len(values)}"
        )
    twice = scores.duplicated(["query_id", "doc_id"])
    if twice.any():
        row = scores[twice].iloc[0]
        raise ValueError(f"query {row['query_id']!r}: document {row['doc_id']!r} is scored twice")


def _check_ids(scores: pd.DataFrame, qrels: Qrels) -> None:
    """Refuse ids with a NUL: pytrec_eval cuts them there, and ends the process where two become the same."""
    judged = itertools.chain.from_iterable(qrels.values())
    for name in itertools.chain(qrels, judged, scores["query_id"].unique(), scores["doc_id"].unique()):
        if "\0" in name:
            raise DataError(f"id {name!r} holds a NUL; rename it")


def _queries(scores: pd.DataFrame, qrels: Qrels) -> Iterator[_Query]:
    ordered = scores.sort_values("query_id", kind="stable")
    ids = ordered["query_id"].to_numpy(dtype=object)
    documents = ordered["doc_id"].tolist()
    values = ordered["score"].to_numpy(dtype=np.float32)
    borders = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1], True]) if len(ids) else np.zeros(1, dtype=np.int64)
    for start, stop in itertools.pairwise(borders):
        judged = qrels[ids[start]]
        mine = documents[start:stop]
        # trec_eval gives no gain to a negative judgement.
        gains = np.array([max(judged.get(document, 0), 0) for document in mine], dtype=np.float64)
        yield _Query(ids[start], mine, values[start:stop], gains)


def _row(
    query_id: str, judged: Mapping[str, int], query: _Query | None, values: Mapping[str, float]
) -> dict[str, object]:
    row: dict[str, object] = {"query_id": query_id, **dict.fromkeys(_MEANS, 0.0), **values, **dict.fromkeys(_COUNTS, 0)}
    row["n_relevant"] = sum(value > 0 for value in judged.values())
    if query is None:
        return row
    _, inverse, counts = np.unique(query.scores, return_inverse=True, return_counts=True)
    row |= {"n_candidates": len(query.document_ids), "n_tied": int((counts[inverse] > 1).sum())}
    ideal = _dcg(np.sort(np.array([max(value, 0) for value in judged.values()], dtype=np.float64))[::-1])
    if ideal > 0:
        row["ndcg_at_10_best"] = _dcg(query.gains[np.lexsort((-query.gains, -query.scores))]) / ideal
        row["ndcg_at_10_worst"] = _dcg(query.gains[np.lexsort((query.gains, -query.scores))]) / ideal
        row["oracle_ndcg_at_10"] = _dcg(np.sort(query.gains)[::-1]) / ideal
    return row


def _dcg(gains: Floats) -> float:
    """Discounted cumulative gain at `DEPTH`, Järvelin and Kekäläinen (2002) with linear gain, as trec_eval has it."""
    top = gains[:DEPTH]
    return float((top * _DISCOUNT[: len(top)]).sum())


def summarise(frame: pd.DataFrame) -> dict[str, float]:
    """Average one cell's per-query metrics.

    Args:
        frame: What `per_query` returned.

    Returns:
        Means over queries of all metrics, tie_rate (share of candidates that tie), tied_queries (share of queries with
        a tie) and candidates (mean number for a query).

    Raises:
        DataError: There is no query to average over.
    """
    if frame.empty:
        raise DataError("no query has a judgement; there is nothing to average over")
    further = [name for name in frame.columns if name not in {*COLUMNS, "subset", "split"}]
    means = {name: float(frame[name].mean()) for name in (*_MEANS, *further)}
    candidates = int(frame["n_candidates"].sum())
    return means | {
        "tie_rate": float(frame["n_tied"].sum()) / candidates if candidates else 0.0,
        "tied_queries": float((frame["n_tied"] > 0).mean()),
        "candidates": candidates / len(frame),
    }
