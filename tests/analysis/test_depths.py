"""Rerank depths from scores that are there: what runs of these depths come to, to the last digit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerank_eval.analysis.depths import Depth, DepthCurve, depth_curves, render_depths
from rerank_eval.cli import _run
from rerank_eval.results.manifest import Manifest
from tests.pipeline.folders import write_beir_folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("depths")
    write_beir_folder(folder / "tools")
    # Scores that all differ: BM25's tie, and which of two that tie is the twentieth depends on how many are asked for.
    documents = [json.loads(line)["_id"] for line in (folder / "tools" / "corpus.jsonl").read_text().splitlines()]
    rows = [
        f"q{query} Q0 {document} 0 {(place * 37 + query * 11) % 61} x\n"
        for query in range(12)
        for place, document in enumerate(documents)
    ]
    (folder / "first.trec").write_text("".join(rows))
    (folder / "run.yaml").write_text(
        f"""\
tasks: [{folder}/tools]
retriever: {{run: {folder}/first.trec}}
reranker: {{model: "demo:qwen3-random", dtype: float32}}
grid: {{retriever.top_k: [60, 10, 20]}}
results_dir: {folder}/results
device: cpu
"""
    )
    assert _run(["eval", "--config", str(folder / "run.yaml")]) == 0
    return folder / "results"


def mains(results: Path) -> dict[int, float]:
    found = (Manifest.read(path) for path in results.glob("runs/*/*/tools/manifest.json"))
    return {one.retriever.top_k: one.scores.main for one in found if one.row.kind == "reranker"}


def deepest(results: Path) -> DepthCurve:
    return max(depth_curves(results), key=lambda curve: curve.depths[-1].depth)


def test_each_depth_is_what_a_run_of_that_depth_scores(results: Path) -> None:
    curve = deepest(results)
    by_depth = {one.depth: one for one in curve.depths}
    runs = mains(results)
    assert set(runs) == {10, 20, 60}
    assert len(set(runs.values())) == 3
    last = curve.depths[-1].depth
    assert by_depth[10].ndcg == runs[10]
    assert by_depth[20].ndcg == runs[20]
    assert by_depth[last].ndcg == runs[60]
    [retriever] = {
        one.scores.main
        for path in results.glob("runs/first/*/tools/manifest.json")
        if (one := Manifest.read(path)).retriever.top_k == 60
    }
    assert by_depth[0].ndcg == retriever


def test_recall_pairs_and_gains_add_up(results: Path) -> None:
    curve = deepest(results)
    assert [one.depth for one in curve.depths] == [0, 10, 20, 50, curve.depths[-1].depth]
    assert curve.depths[1].pairs == 12 * 10
    for before, after in zip(curve.depths, curve.depths[1:], strict=False):
        assert after.gain[0] == pytest.approx(after.ndcg - before.ndcg)
        assert after.gain[1] <= after.gain[0] <= after.gain[2]
        assert after.recall >= before.recall
    assert curve.depths[0].recall == 0
    again = deepest(results)
    assert again == curve  # the same draws


def test_a_reranker_that_drowns_is_told(results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _run(["leaderboard", "--depths", "--results", str(results)]) == 0
    output = capfd.readouterr().out
    assert "rerank depth" in output
    assert "best: " in output
    points = tuple(
        Depth(depth, ndcg, 0.5, (gain, gain - 0.01, gain + 0.01), 10 * depth)
        for depth, ndcg, gain in [
            (0, 0.4, 0.0),
            (10, 0.5, 0.1),
            (20, 0.55, 0.05),
            (50, 0.5, 0.0),
            (100, 0.4, -0.14),
        ]
    )
    text = render_depths([DepthCurve("x", points, (100,))])
    assert "best: depth 20, nDCG@10 55.00, for 20% of the pairs; deeper is worse at 100" in text


def test_without_a_reranker_it_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _run(["leaderboard", "--depths", "--results", str(tmp_path)]) == 2
    assert "no reranker with its retriever's candidates" in capfd.readouterr().err
