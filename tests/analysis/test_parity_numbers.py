"""What two rows of numbers tell: links, orders, lengths, formats; each finding also where it is not right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import special

from rerank_eval.analysis import links, parity
from rerank_eval.analysis.formats import bfloat16, format_of
from rerank_eval.analysis.parity import Pairs, Side
from rerank_eval.analysis.symptoms import Finding, head_finding, symptoms

QUERIES, DOCUMENTS = 6, 9
COUNT = QUERIES * DOCUMENTS
TOLERANCE = 1e-3
Floats = parity.Floats


def margins(seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0.5, 2.0, COUNT).astype(np.float32).astype(np.float64)


def pairs_of(a: Floats, b: Floats, *, cut: int | None = None, shared: int = DOCUMENTS) -> Pairs:
    """Six queries of nine documents; prompts of 20 to 73 tokens in a mixed order."""
    tokens = 20 + np.random.default_rng(9).permutation(COUNT)
    truncated = np.zeros(COUNT, bool) if cut is None else tokens > cut
    query = np.repeat(np.arange(QUERIES), DOCUMENTS)
    documents = [f"d{place % shared if shared != DOCUMENTS else place}" for place in range(COUNT)]
    return Pairs(
        Side(a, a.copy(), tokens, np.zeros(COUNT, bool)),
        Side(b, b.copy(), np.zeros(COUNT, np.int64), truncated),
        query,
        [f"q{one}" for one in query],
        documents,
    )


def found(a: Floats, b: Floats, **more: int) -> dict[str, Finding]:
    pairs = pairs_of(a, b, **more)
    return {one.kind: one for one in symptoms(pairs, pairs.b.scores, TOLERANCE)}


def by_query(values: Floats, change: Callable[[Floats], Floats]) -> Floats:
    return np.concatenate([change(one) for one in values.reshape(QUERIES, DOCUMENTS)])


def sigmoid(values: Floats) -> Floats:
    return np.asarray(special.expit(values))


LINKED: dict[str, Callable[[Floats], Floats]] = {
    "B = sigmoid(A)": sigmoid,
    "B = sigmoid(sigmoid(A))": lambda x: sigmoid(sigmoid(x)),
    "B = log sigmoid(A)": lambda x: np.asarray(special.log_expit(x)),
    "B = -A": lambda x: -x,
    "B = 1 - sigmoid(A)": lambda x: sigmoid(-x),
    "B = 0.2 A + 3": lambda x: 0.2 * x + 3,
    "B = 0.2 A - 3": lambda x: 0.2 * x - 3,
}


@pytest.mark.parametrize("name", LINKED)
def test_a_link_is_named_with_its_numbers(name: str) -> None:
    noise = np.random.default_rng(1).normal(0, TOLERANCE / 8, COUNT)
    x = margins()
    finding = found(x, LINKED[name](x + noise))["link"]
    assert finding.evidence["link"] == name
    assert finding.explains


def test_a_probability_of_a_that_b_gives_as_log_odds_is_named() -> None:
    x = sigmoid(margins())
    assert found(x, margins())["link"].evidence["link"] == "A = sigmoid(B)"


@pytest.mark.parametrize("name", LINKED)
def test_a_link_is_not_named_where_it_leaves_more_than_noise(name: str) -> None:
    x = margins()
    y = LINKED[name](x + np.random.default_rng(1).normal(0, 0.3, COUNT))
    assert "link" not in found(x, y)


def test_what_is_within_the_noise_of_everything_is_no_link() -> None:
    """Of margins that hardly differ, a sigmoid of other margins is as good as one of these."""
    x, other = 9 + 1e-4 * margins(), 9 + 1e-4 * margins(5)
    assert "link" not in found(x, sigmoid(other))


ARRANGED: dict[str, Callable[[Floats], Floats]] = {
    "sorted by relevance and are not put back": lambda x: np.sort(x)[::-1],
    "the worst first": np.sort,
    "the reverse order": lambda x: x[::-1],
    "one document too late": lambda x: np.roll(x, 1),
    "one document too early": lambda x: np.roll(x, -1),
    "no rule known here": lambda x: x[[3, 0, 7, 1, 8, 2, 6, 4, 5]],
}


@pytest.mark.parametrize("words", ARRANGED)
@pytest.mark.parametrize("link", [lambda x: x, sigmoid])
def test_the_right_scores_at_the_wrong_documents_are_named(words: str, link: Callable[[Floats], Floats]) -> None:
    x = margins()
    finding = next(one for kind, one in found(x, link(by_query(x, ARRANGED[words]))).items() if kind != "unrelated")
    assert finding.kind == ("sorted" if "sorted by" in words else "order")
    assert words in finding.text
    assert ("sigmoid(A)" in finding.text) == (link is sigmoid)


def test_the_order_of_lengths_is_named() -> None:
    x = margins()
    tokens = pairs_of(x, x).a.tokens.reshape(QUERIES, DOCUMENTS)
    y = np.concatenate([one[np.argsort(-t)] for one, t in zip(x.reshape(QUERIES, DOCUMENTS), tokens, strict=True)])
    assert "longest first" in found(x, y)["order"].text


def test_other_scores_in_any_order_are_not_taken_for_these() -> None:
    x, other = margins(), margins(7)
    assert not {"sorted", "order"} & set(found(x, other))
    falling = found(x, by_query(other, lambda one: np.sort(one)[::-1]))
    assert "in all 6 queries" in falling["falling"].text
    assert "falling" not in found(x, other)


def test_scores_that_were_normalised_over_a_list_are_named() -> None:
    x = margins()
    softmax = by_query(x, lambda one: np.exp(one) / np.exp(one).sum())
    assert "softmax" in found(x, softmax)["normalised"].text
    unit = by_query(x, lambda one: (one - one.min()) / np.ptp(one))
    assert "anew in each query" in found(x, unit)["normalised"].text
    shifted = x + np.repeat(np.arange(QUERIES), DOCUMENTS)
    assert "a constant of each query (0 to 5)" in found(x, shifted)["normalised"].text
    assert "normalised" not in found(x, margins(7))
    assert "normalised" not in found(x, sigmoid(x))


def test_the_length_at_which_agreement_ends_is_named() -> None:
    x = margins()
    tokens = pairs_of(x, x).a.tokens
    finding = found(x, np.where(tokens > 48, margins(3), x))["length"]
    assert (finding.evidence["agree_up_to"], finding.evidence["differ_from"]) == (48, 49)
    scattered = np.where(np.arange(COUNT) % 2 == 0, margins(3), x)
    assert "length" not in found(x, scattered)
    assert "length" not in found(x, x + 1)
    finding = found(x, np.where(tokens > 48, sigmoid(margins(3)), sigmoid(x)))["length"]
    assert "B = sigmoid(A)" in finding.text


def test_pairs_that_one_side_says_it_cut_are_named() -> None:
    x = margins()
    tokens = pairs_of(x, x).a.tokens
    y = np.where(tokens > 48, margins(3), x)
    assert "the pairs that B cuts differ, and no others: 25 are cut by B" in found(x, y, cut=48)["cut"].text
    assert "cut" not in found(x, y, cut=30)
    assert "cut" not in found(x, x + 1, cut=48)


def test_formats_are_told_by_their_digits() -> None:
    x = margins()
    assert format_of(x).name == ""
    assert format_of(bfloat16(x)).name == "bfloat16"
    assert format_of(x.astype(np.float16).astype(np.float64)).name == "float16"
    assert format_of(np.round(sigmoid(x), 3)).name == "3 decimals"
    assert format_of(np.round(x * 100)).name == "whole numbers"
    assert np.abs(bfloat16(x) - x).max() <= (np.abs(x) * 2.0**-8).max()
    assert bfloat16(np.array([1.00390625]))[0] == 1.0  # half a step: to even
    assert bfloat16(np.array([1.01171875]))[0] == 1.015625


def test_lost_digits_are_told() -> None:
    x = margins()
    halves = found(x, bfloat16(x))
    assert "exact in bfloat16" in halves["format"].text
    assert halves["rounding"].explains
    assert "exact in 3 decimals" in found(x, np.round(sigmoid(x), 3))["rounded"].text
    assert not {"format", "rounded", "rounding"} & set(found(x, sigmoid(x)))
    other = found(x, bfloat16(margins(5)))
    assert "format" in other
    assert "rounding" not in other


def test_ties_are_told() -> None:
    x = margins()
    steep = found(x, sigmoid(40 * x).astype(np.float32).astype(np.float64))
    assert "exactly 0 or 1" in steep["saturated"].text
    assert "saturated" not in found(x, sigmoid(x))


def test_an_order_on_another_scale_is_told() -> None:
    x = margins()
    ranks = by_query(x, lambda one: DOCUMENTS - np.argsort(np.argsort(-one)).astype(float))
    assert found(x, ranks)["monotone"].explains
    assert not found(x, x + 0.01 * x**2 * np.sign(x))["monotone"].explains
    assert "whole numbers" in found(x, ranks)["rounded"].text
    assert "monotone" in found(x, (x > 0).astype(float))
    assert "monotone" not in found(x, ranks[::-1].copy())


def test_what_does_not_read_one_of_the_texts_is_told() -> None:
    x = margins()
    of_query = found(x, np.repeat(np.arange(QUERIES, dtype=float), DOCUMENTS))
    assert "does not read the document" in of_query["constant"].text
    of_document = found(x, np.tile(margins(3)[:DOCUMENTS], QUERIES))
    assert "constant" not in of_document  # no document is shared
    tiled = pairs_of(x, np.tile(margins(3)[:DOCUMENTS], QUERIES))
    shared = Pairs(tiled.a, tiled.b, tiled.query, tiled.query_ids, [f"d{i % DOCUMENTS}" for i in range(COUNT)])
    assert any("does not read the query" in one.text for one in symptoms(shared, shared.b.scores, TOLERANCE))
    assert not any(one.kind == "constant" for one in symptoms(pairs_of(x, margins(3)), margins(3), TOLERANCE))


def test_no_relation_is_told() -> None:
    x = margins()
    assert "tau is" in found(x, margins(11))["unrelated"].text
    assert "unrelated" not in found(x, x + np.random.default_rng(1).normal(0, 0.5, COUNT))
    assert "unrelated" not in found(x, sigmoid(x))


def test_a_side_that_does_not_rank_by_its_margin_says_by_what() -> None:
    x = margins()
    tokens, cut = np.zeros(COUNT, np.int64), np.zeros(COUNT, bool)
    finding = head_finding(Side(sigmoid(x), x, tokens, cut), "B")
    assert finding is not None
    assert "B ranks by sigmoid(margin)" in finding.text
    assert head_finding(Side(margins(4), x, tokens, cut), "B") is None


def test_orders_and_the_pair_that_is_off_most() -> None:
    x = margins()
    y = x.copy()
    y[20] += 30
    pairs = pairs_of(x, y)
    assert parity.spread(pairs, pairs.difference) == {
        "largest": pytest.approx(30),
        "median": 0.0,
        "percentile_99": pytest.approx(np.quantile(np.abs(y - x), 0.99)),
        "query_id": "q2",
        "doc_id": "d20",
    }
    told = parity.orders(pairs)
    assert told["tau_lowest_query"] == "q2"
    assert told["top_10_sets_changed"] == 0  # nine documents: all are in the top 10
    assert told["top_10_orders_changed"] == 1
    assert told["tau_lowest"] == pytest.approx(parity.taus(pairs)[2])
    assert told["tau_mean"] < 1


def test_ties_go_to_the_larger_document_id() -> None:
    x = np.zeros(COUNT)
    pairs = pairs_of(x, x)
    assert parity.order(pairs, np.array([8, 9, 10]), x) == ["d9", "d8", "d10"]
    assert parity.orders(pairs)["tau_mean"] is None


def test_the_difference_of_a_metric_is_the_mean_of_the_cells() -> None:
    cells = [(np.array([0.0, 1.0]), np.array([1.0, 1.0])), (np.array([0.5]), np.array([0.0]))]
    told = parity.metric_difference(cells)
    assert told is not None
    assert (told["a"], told["b"], told["difference"]) == (0.5, 0.5, 0.0)
    assert told["low"] <= 0 <= told["high"]
    assert parity.metric_difference([(np.zeros(0), np.zeros(0))]) is None


def test_probes_hold_both_ends_of_lengths_and_the_largest_difference() -> None:
    x = margins()
    y = x + 0.01 * np.random.default_rng(1).random(COUNT)
    y[20] += 5
    pairs = pairs_of(x, y)
    rows = parity.probes(pairs, 12)
    assert len(set(rows.tolist())) == 12
    tokens = pairs.a.tokens
    assert {int(tokens.argmin()), int(tokens.argmax()), 20} <= set(rows.tolist())
    assert np.array_equal(parity.probes(pairs, 500), np.arange(COUNT))


def test_a_line_through_one_point_is_none() -> None:
    assert links.line(np.ones(5), np.arange(5.0)) is None
