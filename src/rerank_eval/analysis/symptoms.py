"""What two rows of numbers tell by themselves of why they differ: no weights are needed for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rerank_eval.analysis import links
from rerank_eval.analysis.formats import Format, format_of
from rerank_eval.analysis.links import Fit
from rerank_eval.analysis.parity import Pairs, Side, taus

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_LIST = 5
"""Documents of a query from which on an order by accident is rare: one in 120."""
_SIDES = 3
"""Pairs on either side of a length at which agreement ends."""
_MOST_DIFFER = 0.8
"""Share of the pairs above that length which differ: a cut text may hold all that counts."""
_ENDS = 0.1
"""Share of scores of exactly 0 or 1 that is worth telling; likewise of digits lost."""
_GRADES = 10
"""Distinct scores of which no more are taken for grades."""
_UNRELATED = 0.15
"""Mean tau of which less, or less than two standard errors, is no relation."""


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis.

    Attributes:
        kind: What a program calls it, such as `sorted`.
        text: What it says, with its evidence.
        evidence: The same in figures.
        explains: Whether it accounts for the differences by itself, so that no other cause is looked for.
    """

    kind: str
    text: str
    evidence: dict[str, Any] = field(default_factory=dict)
    explains: bool = False


def link_finding(fit: Fit, pairs: int, unexplained: float) -> Finding:
    """Say that a link by itself explains a difference."""
    text = (
        f"{fit.name}: {fit.link.words}; on {pairs:,} pairs that leaves {fit.largest:.2g} at most, of {unexplained:.2g}"
    )
    return Finding("link", text, _of(fit, unexplained), explains=True)


def head_finding(side: Side, name: str) -> Finding | None:
    """Say by which function of its own margin a side ranks; None where none is known."""
    fit = links.best(side.margins, side.scores, 0.0, np.inf, format_of(side.scores).rounding)
    if fit is None or fit.link.name == "B = A":
        return None
    formula = fit.name.replace("A", "margin").replace("B = ", "")
    text = f"{name} ranks by {formula} and not by the margin itself; that is off by {fit.largest:.2g} at most"
    return Finding("head", text, {"side": name, "link": fit.name, "leaves": fit.largest})


def _of(fit: Fit, unexplained: float) -> dict[str, Any]:
    return {"link": fit.name, "leaves": fit.largest, "of": unexplained, "noise_units": fit.ratio}


def symptoms(pairs: Pairs, y: Floats, tolerance: float) -> list[Finding]:
    """Find what the numbers of all pairs show.

    Args:
        pairs: The pairs.
        y: (n,), B's scores or margins.
        tolerance: Noise of a margin.

    Returns:
        Findings, the best explanation first.
    """
    x, form = pairs.a.margins, format_of(y)
    unexplained = float(np.abs(y - x).max())
    found: list[Finding] = []
    whole = links.best(x, y, tolerance, unexplained, form.rounding)
    if whole is not None:
        found.append(link_finding(whole, len(y), unexplained))
    for look in (_rounded, _constant, _orders, _per_query, _cuts):
        if not any(one.explains for one in found):
            found += look(pairs, y, tolerance, form)
    found += _digits(pairs, y, form)
    if not any(one.explains for one in found):
        found += [*_monotone(pairs, y, form), *_unrelated(pairs)]
    return found


def _rounded(pairs: Pairs, y: Floats, tolerance: float, form: Format) -> Iterator[Finding]:
    """Look for differences that are what B's number format rounds off."""
    for link in links.LINKS:
        fit = None if link.free or not form.name else links.fit(link, pairs.a.margins, y, tolerance, form.rounding)
        if fit is not None and fit.ratio <= links.NEAR and fit.share <= links.CLEARLY:
            also = "A" if link.name == "B = A" else fit.name.removeprefix("B = ")
            text = (
                f"B is {also}, rounded to {form.name}: that is off by {fit.largest:.2g} at most, which the format "
                f"accounts for on all {len(y):,} pairs"
            )
            yield Finding("rounding", text, {"format": form.name, "link": link.name, "leaves": fit.largest}, True)
            return


def _arrangements(pairs: Pairs, rows: Integers) -> dict[str, Integers]:
    """Return orders in which a server may hand a query's scores back."""
    place, tokens = np.arange(len(rows)), pairs.a.tokens[rows]
    return {
        "sorted": np.argsort(-pairs.a.margins[rows], kind="stable"),
        "ascending": np.argsort(pairs.a.margins[rows], kind="stable"),
        "reversed": place[::-1],
        "longest first": np.lexsort((place, -tokens)),
        "shortest first": np.lexsort((place, tokens)),
        "moved on by one": np.roll(place, 1),
        "moved back by one": np.roll(place, -1),
    }


_ARRANGED = {
    "sorted": "B's scores come sorted by relevance and are not put back by index",
    "ascending": "B's scores come sorted, the worst first, and are not put back by index",
    "reversed": "B's scores come in the reverse order of the documents",
    "longest first": "B's scores come in the order of the documents' lengths, longest first",
    "shortest first": "B's scores come in the order of the documents' lengths, shortest first",
    "moved on by one": "B's scores stand one document too late",
    "moved back by one": "B's scores stand one document too early",
}


def _orders(pairs: Pairs, y: Floats, tolerance: float, form: Format) -> Iterator[Finding]:
    """Look for the right scores at the wrong documents."""
    lists = [rows for rows in pairs.groups if len(rows) >= _LIST]
    if not lists:
        return
    every = np.concatenate(lists)
    rounding, unexplained = form.rounding[every], float(np.abs(y[every] - pairs.a.margins[every]).max())
    for name, words in _ARRANGED.items():
        x = np.concatenate([pairs.a.margins[rows][_arrangements(pairs, rows)[name]] for rows in lists])
        fit = links.best(x, y[every], tolerance, unexplained, rounding)
        if fit is not None:
            yield _arranged("sorted" if name == "sorted" else "order", words, fit, len(lists), unexplained)
            return
    # The values of each list, whatever their order.
    x, sorted_y = (np.concatenate([np.sort(values[rows]) for rows in lists]) for values in (pairs.a.margins, y))
    fit = links.best(x, sorted_y, tolerance, unexplained, rounding)
    if fit is not None:
        words = "B's scores are those of other documents of the same query, in an order that follows no rule known here"
        yield _arranged("order", words, fit, len(lists), unexplained)
        return
    falling = sum(bool((np.diff(y[rows]) <= 0).all()) and np.ptp(y[rows]) > 0 for rows in lists)
    if falling == len(lists) and not all((np.diff(pairs.a.margins[rows]) <= 0).all() for rows in lists):
        text = (
            f"B's scores fall in the order in which the documents were sent, in all {falling} queries of at least "
            f"{_LIST} documents: sorted and not put back by index, or no scores of the reranker at all"
        )
        yield Finding("falling", text, {"queries": falling})


def _arranged(kind: str, words: str, fit: Fit, queries: int, unexplained: float) -> Finding:
    also = "" if fit.link.name == "B = A" else f", and {fit.name}"
    text = f"{words}{also}; on {queries} queries that leaves {fit.largest:.2g} at most, of {unexplained:.2g}"
    return Finding(kind, text, _of(fit, unexplained) | {"queries": queries}, explains=True)


def _per_query(pairs: Pairs, y: Floats, tolerance: float, form: Format) -> Iterator[Finding]:
    """Look for scores that were normalised over each query's list."""
    x = pairs.a.margins
    if len(pairs.groups) < _SIDES or not all(len(rows) >= _LIST for rows in pairs.groups):
        return
    unexplained = float(np.abs(y - x).max())
    logs = np.log(y) if (y > 0).all() else None
    sums = [float(y[rows].sum()) for rows in pairs.groups]
    if logs is not None and np.allclose(sums, 1, atol=1e-3):
        softmax = np.concatenate([np.exp(x[rows] - np.logaddexp.reduce(x[rows])) for rows in pairs.groups])
        slope = np.maximum(softmax * (1 - softmax), softmax * softmax)
        off = np.abs(y - softmax) / (2 * slope * tolerance + form.rounding + links.FLOAT32 * y)
        if off.max() <= links.NEAR:
            text = (
                "B = softmax of A over each query's documents: its scores add up to 1 in each of "
                f"{len(sums)} queries, and that leaves {np.abs(y - softmax).max():.2g} at most, of {unexplained:.2g}"
            )
            yield Finding("normalised", text, {"queries": len(sums), "of": unexplained}, explains=True)
            return
    lines = [links.line(x[rows], y[rows]) for rows in pairs.groups]
    if any(one is None for one in lines) or any(np.ptp(y[rows]) == 0 for rows in pairs.groups):
        return
    slopes, offsets = (np.array([one[i] for one in lines if one is not None]) for i in (0, 1))
    predicted = np.empty_like(y)
    for rows, slope, offset in zip(pairs.groups, slopes, offsets, strict=True):
        predicted[rows] = slope * x[rows] + offset
    unit = np.abs(slopes)[pairs.query] * tolerance + form.rounding + links.FLOAT32 * np.abs(y)
    spread = np.array([y[rows].std() for rows in pairs.groups])[pairs.query]
    left = np.abs(y - predicted)
    if (left / unit).max() > links.NEAR or (left > links.CLEARLY * np.minimum(spread, unexplained)).any():
        return
    same = np.ptp(slopes) <= 1e-2 * np.abs(slopes).max()
    what = (
        f"B = {slopes.mean():.4g} A + a constant of each query ({offsets.min():.3g} to {offsets.max():.3g})"
        if same
        else f"B is A scaled and shifted anew in each query (by {slopes.min():.3g} to {slopes.max():.3g})"
    )
    text = (
        f"{what}: normalised over the query's list, so that scores of two queries cannot be compared; that leaves "
        f"{left.max():.2g} at most, of {unexplained:.2g}"
    )
    evidence = {"slopes": [float(slopes.min()), float(slopes.max())], "leaves": float(left.max()), "of": unexplained}
    yield Finding("normalised", text, evidence, explains=True)


def _monotone(pairs: Pairs, y: Floats, form: Format) -> Iterator[Finding]:
    """Look for the same order on another scale, such as ranks and grades."""
    lists = [rows for rows in pairs.groups if len(rows) >= _LIST and np.ptp(y[rows]) > 0]
    if len(lists) < _SIDES or len(lists) < _MOST_DIFFER * len(pairs.groups):
        return
    # Ties of A may stand in either order.
    if all((np.diff(y[rows][np.lexsort((y[rows], pairs.a.margins[rows]))]) >= 0).all() for rows in lists):
        text = (
            f"B never contradicts A's order, in all {len(lists)} queries: its {len(np.unique(y)):,} distinct scores "
            "are on another scale"
        )
        grades = form.name == "whole numbers" or len(np.unique(y)) <= _GRADES
        yield Finding("monotone", text, {"queries": len(lists)}, explains=grades)


def _cuts(pairs: Pairs, y: Floats, tolerance: float, form: Format) -> Iterator[Finding]:
    """Look for a length up to which all pairs agree, and above which they do not."""
    for name, cut in (("A", pairs.a.truncated), ("B", pairs.b.truncated)):
        if _SIDES <= cut.sum() <= len(cut) - _SIDES:
            fit = _fit_of(pairs, y, ~cut, tolerance, form)
            off = None if fit is None else links.fit(fit.link, pairs.a.margins, y, tolerance, form.rounding)
            if off is not None and (off.off[cut] > links.NEAR).mean() >= _MOST_DIFFER and not off.link.free:
                also = "" if off.link.name == "B = A" else f", where {off.name}"
                text = (
                    f"the pairs that {name} cuts differ, and no others{also}: {int(cut.sum())} are cut by {name}, "
                    f"{int((cut & ~_cut_by_other(pairs, name)).sum())} of them by {name} alone"
                )
                yield Finding("cut", text, {"cut_by": name, "pairs": int(cut.sum())})
                return
    tokens = pairs.a.tokens
    for link in links.LINKS:
        fit = None if link.free else links.fit(link, pairs.a.margins, y, tolerance, form.rounding)
        length = None if fit is None else _length(tokens, fit.off > links.NEAR)
        if fit is None or length is None:
            continue
        below, above, differ, longer = length
        also = "" if link.name == "B = A" else f", where {fit.name}"
        text = (
            f"all {int((tokens <= below).sum())} pairs of up to {below} tokens agree{also}, and {differ} of the "
            f"{longer} longer ones, from {above} tokens on, do not: B cuts prompts between {below} and {above} tokens"
        )
        evidence = {"link": link.name, "agree_up_to": below, "differ_from": above, "differ": differ, "longer": longer}
        yield Finding("length", text, evidence)
        return


def _cut_by_other(pairs: Pairs, name: str) -> npt.NDArray[np.bool_]:
    return pairs.b.truncated if name == "A" else pairs.a.truncated


def _fit_of(pairs: Pairs, y: Floats, rows: npt.NDArray[np.bool_], tolerance: float, form: Format) -> Fit | None:
    """Return the first link that holds on some pairs."""
    unexplained = max(float(np.abs(y - pairs.a.margins).max()), 1e-30)
    return links.best(pairs.a.margins[rows], y[rows], tolerance, unexplained, form.rounding[rows])


def _length(tokens: Integers, off: npt.NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Find the length at which agreement ends.

    Returns:
        The longest prompt below it, the shortest above it that differs, how many above it differ, and how many there
        are; None where there is none.
    """
    if not off.any() or off.all() or not tokens.any():
        return None
    first = int(tokens[off].min())
    below, above = tokens < first, tokens >= first
    differ, longer = int((off & above).sum()), int(above.sum())
    if below.sum() < _SIDES or differ < _SIDES or differ < _MOST_DIFFER * longer:
        return None
    return int(tokens[below].max()), first, differ, longer


def _digits(pairs: Pairs, y: Floats, form: Format) -> Iterator[Finding]:
    """Look for digits that B's scores have lost."""
    ends = float(((y == 0) | (y == 1)).mean())
    mine, theirs = (len(np.unique(one)) for one in (pairs.a.margins, y))
    if ends >= _ENDS or theirs <= (1 - _ENDS) * mine:
        text = f"B has {theirs:,} distinct scores where A has {mine:,}"
        text += f"; {ends:.1%} of them are exactly 0 or 1" if ends else ""
        evidence = {"distinct_a": mine, "distinct_b": theirs, "exactly_0_or_1": ends}
        yield Finding("saturated", f"{text}: what ties there cannot be ranked", evidence)
    if form.name and form.name != format_of(pairs.a.margins).name:
        kind = "rounded" if form.name[0].isdigit() or form.name == "whole numbers" else "format"
        text = f"all of B's {len(y):,} scores are exact in {form.name}, and A's are not"
        if form.name == "whole numbers":
            text += ": ranks or grades rather than scores"
        yield Finding(kind, text, {"format": form.name})


def _constant(pairs: Pairs, y: Floats, *_: object) -> Iterator[Finding]:
    """Look for scores that do not read the document, or the query."""
    lists = [rows for rows in pairs.groups if len(rows) > 1 and np.ptp(pairs.a.margins[rows]) > 0]
    flat = sum(bool(np.ptp(y[rows]) == 0) for rows in lists)
    if lists and flat == len(lists):
        text = f"B gives all documents of a query one score, in all {flat} queries: it does not read the document"
        yield Finding("constant", text, {"queries": flat})
        return
    of_document: dict[str, list[int]] = {}
    for row, document in enumerate(pairs.doc_ids):
        of_document.setdefault(document, []).append(row)
    shared = [rows for rows in of_document.values() if len(rows) > 1 and np.ptp(pairs.a.margins[rows]) > 0]
    if len(shared) >= _SIDES and all(np.ptp(y[rows]) == 0 for rows in shared):
        text = (
            f"B gives a document the same score for every query, in all {len(shared)} documents that two queries "
            "have: it does not read the query"
        )
        yield Finding("constant", text, {"documents": len(shared)})


def _unrelated(pairs: Pairs) -> Iterator[Finding]:
    """Look for orders that have nothing to do with each other."""
    found = taus(pairs)
    found = found[~np.isnan(found)]
    if len(found) < _SIDES:
        return
    mean, error = float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found)))
    if abs(mean) < max(_UNRELATED, 2 * error):
        text = (
            f"the two orders have no relation: tau is {mean:.3f} on average of {len(found)} queries (standard error "
            f"{error:.3f}): an untrained head, other weights, or texts that do not arrive"
        )
        yield Finding("unrelated", text, {"tau": mean, "standard_error": error, "queries": len(found)})
