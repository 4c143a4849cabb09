from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from rerank_eval.analysis import plots
from rerank_eval.analysis.compare import compare
from tests.analysis.test_compare import two

SVG = "{http://www.w3.org/2000/svg}"


def some_scores() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    relevance = (generator.random(400) < 0.1).astype(int)
    return pd.DataFrame({"score": generator.normal(2 * relevance - 1, 1), "relevance": relevance})


def some_bars() -> pd.DataFrame:
    rows = [
        (task, system, 10.0 * n, 8.0, 32.0) for n, task in enumerate("ABCD", start=1) for system in ("x", "$y_{z}$")
    ]
    return pd.DataFrame(rows, columns=["task", "system", "value", "low", "high"])


def some_depths() -> tuple[pd.DataFrame, pd.DataFrame, dict[tuple[str, str, str], float]]:
    rows = [("s", "t", f"q{q}", f"d{d}", d + 1, int(d == 7)) for q in range(3) for d in range(20)]
    before = pd.DataFrame(rows, columns=["subset", "split", "query_id", "doc_id", "rank", "relevance"])
    after = before.drop(columns="rank").assign(score=before["relevance"].astype(float))
    return before, after.drop(columns="relevance"), {("s", "t", f"q{q}"): 1.0 for q in range(3)}


DRAWN: dict[str, Callable[[], str]] = {
    "bars": lambda: plots.bars(some_bars()),
    "forest": lambda: plots.forest(compare(two(), {}, resamples=200)),
    "scatter": lambda: plots.scatter(pd.DataFrame({"before": [0, 0.5, 1.0], "after": [0.5, 0.5, 0.0]}), ("a", "b")),
    "margins": lambda: plots.margins(some_scores()),
    "reliability": lambda: plots.reliability(some_scores()),
    "depth": lambda: plots.depth_curve(*some_depths()),
    "speed": lambda: plots.speed(
        pd.DataFrame({"system": ["a", "b"], "pairs_per_second": [10.0, 90.0], "value": [1, 2]})
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_plots_are_whole_and_the_same_each_time(name: str) -> None:
    first, second = DRAWN[name](), DRAWN[name]()
    assert first == second
    root = ET.fromstring(first)  # noqa: S314 - made here
    assert root.tag == f"{SVG}svg"
    assert not root.findall(f".//{SVG}text")  # letters are paths: no font is needed
    assert not root.findall(f".//{SVG}script")
    assert len(root.findall(f".//{SVG}path")) > 5


def test_how_many_to_rerank_is_counted_right(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[float]] = {}

    class Axis:
        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *_args, **_options: None

        def plot(self, depths: list[int], values: list[float], *_: object, label: str, **__: object) -> None:
            seen[label] = values
            seen["depths"] = [float(one) for one in depths]

    monkeypatch.setattr(plots, "_figure", lambda draw, *_, **__: draw(Axis()) or "")
    plots.depth_curve(*some_depths())
    # The relevant document is the retriever's eighth, and the reranker puts it first once it sees it.
    expected = [100.0 if depth >= 8 else 0.0 for depth in seen["depths"]]
    assert seen["reranked"] == seen["best order"] == expected
