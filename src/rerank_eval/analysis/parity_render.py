"""How the terminal shows two sides of parity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from rerank_eval.metrics import registry
from rerank_eval.names import canonical_json
from rerank_eval.tables import MISSING, simple
from rerank_eval.visible import one_line

_SHOWN = 60


def heading(name: str, label: str, detail: str) -> Iterator[str]:
    """Yield the line that says what a side is."""
    yield f"{name}: {label}" + (f" ({detail})" if detail else "")


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print what was found: differences of the settings, the table, the diagnosis."""
    console.print()
    for key, (one, other) in found["differs"].items():
        console.print(f"differs: {key}: {_value(one)} | {_value(other)}", markup=False)
    console.print(simple(["", "A", "B", "both"], list(_rows(found)), "lrrl"), markup=False)
    if found["within_tolerance"]:
        largest, tolerance = found["margins"]["largest"], found["tolerance"]
        console.print(f"same within the tolerance: {largest:.3g} <= {tolerance:g}", markup=False)
    for one in found["diagnosis"]:
        console.print(f"diagnosis: {one['text']}", markup=False)


def _value(value: Any) -> str:
    text = one_line(value if isinstance(value, str) else canonical_json(value))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _rows(found: Mapping[str, Any]) -> Iterator[list[str]]:
    orders, distinct, cut, tokens = (found[key] for key in ("orders", "distinct", "truncated", "tokens"))
    yield ["queries", "", "", f"{found['queries']:,}"]
    yield ["pairs", "", "", f"{found['pairs']:,}"]
    yield from _differences("margin", found["margins"])
    if "scores" in found:
        yield from _differences("score", found["scores"])
    tau, lowest = orders["tau_mean"], orders["tau_lowest"]
    query = "" if lowest is None else f", lowest {lowest:.4f} (query {one_line(orders['tau_lowest_query'])})"
    yield ["Kendall's tau-b", "", "", MISSING if tau is None else f"{tau:.4f}{query}"]
    changed = (orders["top_10_sets_changed"], orders["top_10_orders_changed"])
    yield ["changed top 10s", "", "", f"{changed[0]} as sets, {changed[1]} as orders"]
    if found["metric"] is not None:
        metric = found["metric"]
        low, high = (registry.percent(metric[end], "+") for end in ("low", "high"))
        difference = f"{registry.percent(metric['difference'], '+')} (95% interval {low} to {high})"
        name = registry.shown(found["measure"])
        yield [name, registry.percent(metric["a"]), registry.percent(metric["b"]), difference]
    yield ["distinct scores", f"{distinct['a']:,}", f"{distinct['b']:,}", ""]
    if any(cut.values()):
        yield ["prompts cut", f"{cut['a']:,}", f"{cut['b']:,}", ""]
    shown = [f"{tokens[side] / found['pairs']:.1f}" if tokens[side] else MISSING for side in ("a", "b")]
    yield ["tokens a prompt", *shown, ""]


def _differences(name: str, spread: Mapping[str, Any]) -> Iterator[list[str]]:
    where = f"query {one_line(spread['query_id'])}, document {one_line(spread['doc_id'])}"
    yield [f"|{name} difference|", "", "", f"{spread['largest']:.3g} at most ({where})"]
    yield ["", "", "", f"{spread['median']:.3g} median, {spread['percentile_99']:.3g} 99th percentile"]
