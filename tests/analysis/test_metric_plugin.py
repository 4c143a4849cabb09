"""A metric of another package, found by its entry point: `tests/plugin` is one, laid out as an installer leaves it."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest

from tests.processes import beside_the_plugin


def compare(folder: Path, measure: str) -> subprocess.CompletedProcess[str]:
    for name, order in (("first", "abcd"), ("second", "badc")):
        lines = [f"{query} Q0 {doc} {n + 1} {9 - n} x\n" for query in "pq" for n, doc in enumerate(order)]
        (folder / f"{name}.trec").write_text("".join(lines))
    (folder / "test.qrels").write_text("".join(f"{query} 0 b 1\n{query} 0 d 1\n" for query in "pq"))
    command = ["compare", "first.trec", "second.trec", "--qrels", "test.qrels", "--measure", measure, "--name", "it"]
    return beside_the_plugin(folder, command)


@pytest.mark.parametrize(("measure", "persistence", "title"), [("RBP", 0.8, "RBP"), ("rbp_90", 0.9, "RBP(90%)")])
def test_a_package_s_metric_is_compared_and_shown(tmp_path: Path, measure: str, persistence: float, title: str) -> None:
    done = compare(tmp_path, measure)
    assert done.returncode == 0, done.stderr
    assert f"({title})" in done.stdout
    [found] = json.loads((tmp_path / "results/comparisons/it.json").read_text())["differences"]
    assert found["measure"] == measure.lower()
    assert found["baseline"] == pytest.approx((1 - persistence) * (persistence + persistence**3))
    assert found["mean"] == pytest.approx((1 - persistence) * (1 + persistence**2))
    assert (found["wins"], found["losses"]) == (2, 0)


def test_a_package_cannot_change_what_a_name_of_ours_means(tmp_path: Path) -> None:
    done = compare(tmp_path, "ndcg_at_2")  # the package declares `ndcg_at`
    assert done.returncode == 0, done.stderr
    [found] = json.loads((tmp_path / "results/comparisons/it.json").read_text())["differences"]
    assert (found["measure"], found["baseline"]) == ("ndcg_at_2", pytest.approx(1 / (1 + math.log2(3))))


@pytest.mark.parametrize(
    ("measure", "told"),
    [
        ("not_here", "metric 'not_here': rank_biased.missing:METRIC of the package rank-biased cannot be imported"),
        ("ndcg_at_3", "metric 'ndcg_at_3': a package declares what is ndcg_at_3 here already"),
        ("rbq", "there is no such measure; did you mean 'rbp'?"),
    ],
)
def test_what_a_package_declares_wrongly_is_one_line_when_it_is_asked_for(
    tmp_path: Path, measure: str, told: str
) -> None:
    done = compare(tmp_path, measure)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
