"""Every rendering of every table, byte for byte: leaderboard, comparison, model card, reproduction.

`python -m tests.analysis.test_golden` writes the files anew, when a change of what is shown is meant.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from rerank_eval.analysis import compare_render, render
from rerank_eval.analysis.cards import to_card
from rerank_eval.analysis.changes import Churn, Shift
from rerank_eval.analysis.compare import Comparison, Difference, Moved, Ties
from rerank_eval.analysis.tables import Leaderboard, leaderboard
from rerank_eval.reproduce import table as reproduction
from rerank_eval.reproduce.published import Tolerance, load_published
from rerank_eval.reproduce.verdicts import Verdict, Verdicts
from rerank_eval.results.runs import Run
from rerank_eval.tables import csv_text
from rerank_eval.tasks.suites import published_suites
from tests.analysis.test_tables import HOSTILE, record, reranker

GOLDEN = Path(__file__).parent / "golden"


def board() -> Leaderboard:
    measures = {"A": "ndcg_at_10", "B": "recall_at_10", "C": "p-MRR", "ALongNameOfATask": "map_at_100"}
    records = [record(task=task, main_score=name, main=0.3 + n / 7) for n, (task, name) in enumerate(measures.items())]
    records += [
        reranker(task="A", main=0.71234, detail="card", notes=("one", HOSTILE)),
        reranker(task="B", main=0.2, detail="card", marked=3, markers=("<|im_end|>",)),
        reranker(task="A", main=0.712341, detail="card", identity="x2", order=2),
        reranker(task="C", main=-0.05, label=f"=1+{HOSTILE}", identity="x3", order=3),
    ]
    return leaderboard(records, {"S": ["A", "C"], "T": ["A", "B"]})


def comparison(*, several: bool) -> Comparison:
    runs = tuple(Run(name, name, "d", f"i{name}", {}) for name in ("one", "two", HOSTILE))
    changes = {
        "churn": Churn(50, 0.5, 0.875, 0.71, 0.9),
        "shift": Shift(500, {"0.05": -0.125, "0.95": 0.25}, 0.5, 0.01, 0.0),
        "tied": Ties(0.25, 0.3, 0.6),
    }
    moved = {"up": (Moved("default", "test", "q|1", 0.1, 0.9),), "down": (Moved("de", "dev", "q2", 0.9, 0.1),)}
    numbers = {"queries": 1234, "baseline": 0.5, "wins": 3, "ties": 2, "losses": 1}
    against = ["one", "two" if several else "one"]
    differences = [
        Difference(
            system="two", against="one", scope="A", suite=False, measure="ndcg_at_10", mean=0.53125,
            difference=0.03125, low=0.0125, high=0.0625, p=0.0001, p_holm=0.0005, p_bh=0.002, **numbers, **changes,
            **moved,
        ),
        Difference(
            system=HOSTILE, against=against[1], scope="A", suite=False, measure="ndcg_at_10", mean=0.25,
            difference=-0.25, low=-0.5, high=0.0, p=0.03125, p_holm=0.0625, p_bh=0.0625, **numbers,
        ),
        Difference(
            system="two", against="one", scope="F_x", suite=False, measure="p-MRR", mean=-0.0625,
            difference=-0.5625, low=-0.75, high=-0.25, p=0.5, p_holm=0.5, p_bh=0.5, **numbers,
        ),
        Difference(
            system="two", against="one", scope="S", suite=True, measure="ndcg_at_10", mean=0.5, difference=0.0,
            low=float("nan"), high=float("nan"), p=float("nan"), **numbers,
        ),
    ]  # fmt: skip
    return Comparison(runs, tuple(differences), {"A": Ties(0.5, 0.25, 0.75)}, 10_000, 7, (f"A: {HOSTILE}.",))


def reproduced() -> Verdicts:
    near = Tolerance(points=0.25, reason="why | so")
    cells = (
        Verdict(
            "one", "MTEB-R", 61.5, 61.625, near, "reproduced", (), ("dtype: x", HOSTILE), "folder", "rev, top_k=100"
        ),
        Verdict("one", "CMTEB-R", 70.0, None, near, "incomplete", ("no result of A | B", "C: D"), ("dtype: x",)),
        Verdict("two", "MTEB-R", 60.0, 40.0, near, "off", (), (), "=folder"),
        Verdict("two", "CMTEB-R", 60.0, None, near, "not run"),
    )
    tasks = (Verdict("one", "SciFact", 70.0, 70.5, near, "close", (), ("data: other",)),)
    return Verdicts(load_published(), cells, tasks, ("a.json: torn",), tuple(f"x{n}" for n in range(25)))


def printed(what: RenderableType, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width, force_terminal=True, color_system="standard", legacy_windows=False).print(what)
    return text.getvalue()


def tables() -> Mapping[str, Callable[[], str]]:
    found: dict[str, Callable[[], str]] = {}
    for suffix, text in (("md", render.to_markdown), ("csv", render.to_csv), ("tex", render.to_latex)):
        found[f"leaderboard.{suffix}"] = lambda text=text: text(board())
    found["leaderboard.html"] = lambda: render.to_html(board())
    for width in (60, 100, 200):
        found[f"leaderboard-{width}.txt"] = lambda width=width: printed(render.to_rich(board()), width)
    for name, several in (("comparison", False), ("comparison-several", True)):
        for suffix, to in (("md", compare_render.to_markdown), ("tex", compare_render.to_latex)):
            found[f"{name}.{suffix}"] = lambda to=to, several=several: to(comparison(several=several))
        found[f"{name}.csv"] = lambda several=several: csv_text(compare_render.to_frame(comparison(several=several)))
        for width in (60, 200):
            found[f"{name}-{width}.txt"] = lambda width=width, several=several: printed(
                compare_render.to_rich(comparison(several=several)), width
            )
    for suffix, write in (("md", reproduction.to_markdown), ("csv", reproduction.to_csv)):
        found[f"reproduction.{suffix}"] = lambda write=write: write(reproduced())
    for width in (60, 120):
        found[f"reproduction-{width}.txt"] = lambda width=width: printed(reproduction.to_rich(reproduced()), width)
    own = [
        record(label=f"Qwen3-Reranker-{size}", identity=size, model=f"Qwen/Qwen3-Reranker-{size}")
        for size in ("4B", "8B")
    ]
    suites = dict.fromkeys(published_suites(), ()) | {"MTEB-R": ("A",), "MLDR": ("A", "B")}
    found["card.md"] = lambda: to_card([*own, reranker(label=HOSTILE, main=0.25)], suites)
    return found


@pytest.mark.parametrize("name", tables())
def test_a_table_is_the_same_byte_for_byte(name: str) -> None:
    assert tables()[name]() == (GOLDEN / name).read_bytes().decode()


if __name__ == "__main__":
    for name, text in tables().items():
        (GOLDEN / name).write_bytes(text().encode())
