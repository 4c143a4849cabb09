"""A package's listwise reranker from a config through windows, cache, kills and workers to results."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rerank_eval.config import RunConfig
from rerank_eval.engine.shapes import PUBLISHED
from rerank_eval.models.ref import ModelRef
from rerank_eval.pipeline import stages
from rerank_eval.pipeline.estimate_lists import list_counts
from rerank_eval.pipeline.estimate_texts import Cell, Lengths
from rerank_eval.pipeline.plan import RunSpec
from rerank_eval.tasks import embedded
from tests.models.test_retriever import SmallTask
from tests.pipeline.folders import write_beir_folder
from tests.processes import PLUGIN, beside_the_plugin

TASK, TOP_K, QUERIES = "PyModuleRetrieval", 12, 32
CONFIG = f"""\
tasks: [{TASK}]
retriever: {{model: bm25, top_k: {TOP_K}}}
reranker: {{model: first-wins, listwise: {{window: 5, stride: 3, passes: 2}}}}
grid: {{reranker.listwise.order: [given, reversed, shuffled]}}
store: {{block_pairs: 1}}
device: cpu
"""
WINDOWS = 2 * 4
"""Two passes over twelve candidates: 7-12, 4-9, 1-6, 0-3."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("listwise")
    (folder / "run.yaml").write_text(CONFIG)
    return folder


def evaluate(project: Path, *options: str, command: str = "eval") -> subprocess.CompletedProcess[str]:
    settings = [part for one in options for part in ("--set", one)]
    return beside_the_plugin(project, [command, *(["--config"] if command == "eval" else []), "run.yaml", *settings])


def reranked(results: Path, task: str = TASK) -> dict[str, tuple[dict[str, Any], pd.DataFrame, Path]]:
    """Order -> manifest, scores and folder of each run of a reranker."""
    found = {}
    for path in results.glob(f"runs/*/*/{task}/manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["row"]["kind"] == "reranker":
            order = manifest["identity"]["reranker"]["listwise"]["order"]
            found[order] = manifest, pd.read_parquet(path.parent / "scores.parquet"), path.parent
    return found


def candidates(results: Path) -> dict[str, list[str]]:
    """The first stage's candidates of each query, best first."""
    [path] = results.glob(f"runs/*/*/{TASK}/*_predictions.json")
    [scores] = [cell["test"] for name, cell in json.loads(path.read_text()).items() if name != "mteb_model_meta"]
    return {query: sorted(ids, key=lambda one: ids[one], reverse=True) for query, ids in scores.items()}


@pytest.fixture(scope="module")
def evaluated(project: Path) -> subprocess.CompletedProcess[str]:
    done = evaluate(project)
    assert done.returncode == 0, done.stderr
    return done


def plain_ranking(query: str, ids: list[str], texts: dict[str, str]) -> list[str]:
    """Two passes of windows of five from the end to the top, written out."""
    sys.path.insert(0, str(PLUGIN))
    try:
        from list_order import FirstWins  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(PLUGIN))
    ids = list(ids)
    for start, stop in 2 * [(7, 12), (4, 9), (1, 6), (0, 3)]:
        part = ids[start:stop]
        ids[start:stop] = [part[place] for place in FirstWins().rank(query, [texts[one] for one in part], None)]
    return ids


@pytest.mark.parametrize("order", ["given", "reversed"])
def test_scores_are_the_ranks_of_windows_over_the_first_stage_s_order(
    project: Path, evaluated: subprocess.CompletedProcess[str], order: str
) -> None:
    manifest, scores, _ = reranked(project / "results")[order]
    content = embedded.EMBEDDED[TASK].content("small", "test")
    texts = {one: f"{title} {text}".strip() for one, (title, text) in documents_of(content).items()}
    lists = candidates(project / "results")
    assert len(scores) == QUERIES * TOP_K
    instructions = manifest["instruction"]["examples"]
    for query_id, rows in scores.groupby("query_id"):
        ids = lists[str(query_id)][:: -1 if order == "reversed" else 1]
        query = f"{instructions[0] or ''} {content.queries[str(query_id)]}"
        ranking = plain_ranking(query, ids, texts)
        expected = {one: float(TOP_K - place) for place, one in enumerate(ranking)}
        assert dict(zip(rows["doc_id"], rows["score"], strict=True)) == expected


def documents_of(content: Any) -> dict[str, tuple[str, str]]:
    """Document id -> title and text."""
    return {one: value if isinstance(value, tuple) else ("", value) for one, value in content.documents.items()}


def test_three_orders_are_three_rows_that_compare(project: Path, evaluated: subprocess.CompletedProcess[str]) -> None:
    runs = reranked(project / "results")
    assert set(runs) == {"given", "reversed", "shuffled"}
    assert len({manifest["digest"] for manifest, _, _ in runs.values()}) == 3
    for order in runs:
        assert f"order={order}" in evaluated.stdout
    for manifest, _, _ in runs.values():
        settings = {"window": 5, "stride": 3, "passes": 2}
        assert manifest["identity"]["reranker"]["listwise"] == settings | {
            "order": manifest["row"]["detail"].split("order=")[1].split(",")[0]
        }
        assert manifest["timings"]["work"]["windows"] == QUERIES * WINDOWS
        assert manifest["timings"]["work"]["repaired_windows"] == 0
    compared = evaluate(project, command="compare")
    assert compared.returncode == 0, compared.stderr
    assert "order=reversed" in compared.stdout
    assert "overlap@10" in compared.stdout
    assert beside_the_plugin(project, ["report"]).returncode == 0
    page = (project / "results" / "report.html").read_text()
    assert "Query by query" in page
    assert "How many to rerank" not in page  # of fewer candidates these would have made another order


def test_a_second_run_reads_the_cache_and_gives_the_same_bytes(
    project: Path, evaluated: subprocess.CompletedProcess[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project, tmp_path / "copy")
    before = {
        order: (path / "scores.parquet").read_bytes()
        for order, (_, _, path) in reranked(tmp_path / "copy" / "results").items()
    }
    for _, _, path in reranked(tmp_path / "copy" / "results").values():
        shutil.rmtree(path)
    monkeypatch.setenv("LIST_ORDER_LOG", str(tmp_path / "log"))
    assert evaluate(tmp_path / "copy").returncode == 0
    after = reranked(tmp_path / "copy" / "results")
    assert {order: (path / "scores.parquet").read_bytes() for order, (_, _, path) in after.items()} == before
    assert [manifest["timings"]["stored_pairs"] for manifest, _, _ in after.values()] == 3 * [QUERIES * TOP_K]
    assert not (tmp_path / "log").exists()
    # A list that is one candidate longer is another list: of its pairs, all but one are in the cache, of no use.
    assert evaluate(tmp_path / "copy", f"retriever.top_k={TOP_K + 1}", "reranker.listwise.order=given").returncode == 0
    deeper = [
        manifest
        for manifest in map(json.loads, (p.read_text() for p in (tmp_path / "copy").rglob("manifest.json")))
        if manifest["row"]["kind"] == "reranker" and manifest["retriever"]["top_k"] == TOP_K + 1
    ]
    assert [one["timings"]["stored_pairs"] for one in deeper] == [0]


def test_a_run_that_is_killed_goes_on_at_a_query_and_gives_the_same_bytes(
    project: Path, evaluated: subprocess.CompletedProcess[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    log = tmp_path / "log"
    monkeypatch.setenv("LIST_ORDER_LOG", str(log))
    only = "reranker.listwise.order=reversed"
    for killed in (3 * WINDOWS + 5, 9 * WINDOWS + 1):  # in the middle of a query's windows
        monkeypatch.setenv("LIST_ORDER_DIES_AFTER", str(killed))
        assert evaluate(tmp_path, only).returncode == -signal.SIGKILL
        stored = [pd.read_parquet(path) for path in (tmp_path / "results" / "scores").rglob("*.parquet")]
        assert set(pd.concat(stored).groupby("query_id").size()) == {TOP_K}
    monkeypatch.delenv("LIST_ORDER_DIES_AFTER")
    assert evaluate(tmp_path, only).returncode == 0
    manifest, _, folder = reranked(tmp_path / "results")["reversed"]
    undisturbed, _, whole = reranked(project / "results")["reversed"]
    for name in ("scores.parquet", "per_query.parquet"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert manifest["scores"] == undisturbed["scores"]
    assert 0 < manifest["timings"]["stored_pairs"] < QUERIES * TOP_K
    assert manifest["timings"]["stored_pairs"] % TOP_K == 0
    # What a killed process had begun was ranked twice, and nothing else.
    assert len(log.read_text().split()) == QUERIES * WINDOWS + 5 + (6 * WINDOWS - 4) % WINDOWS


def test_answers_in_text_are_repaired_and_counted(
    project: Path, evaluated: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    done = evaluate(tmp_path, "reranker.model=python:list_order:Talks", "reranker.listwise.order=given")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert said.count("is no permutation of 5 documents and was repaired") == 1
    assert f"{QUERIES * WINDOWS} of {QUERIES * WINDOWS} windows repaired" in said
    manifest, scores, _ = reranked(tmp_path / "results")["given"]
    assert manifest["timings"]["work"]["repaired_windows"] == QUERIES * WINDOWS
    assert set(scores.groupby("query_id")["score"].apply(lambda one: tuple(sorted(one)))) == {
        tuple(float(number) for number in range(1, TOP_K + 1))
    }


def test_a_task_s_own_candidates_are_read_in_the_retriever_s_order(tmp_path: Path) -> None:
    """The data set's order may tell which are relevant; pointwise rerankers keep it, since nothing reads it."""
    path = tmp_path / "SmallTask_predictions.json"
    scores = {"q1": {"d1": 0.1, "d3": 0.9, "d2": 0.1}, "q2": {}}
    path.write_text(json.dumps({"mteb_model_meta": {}, "default": {"test": scores}}))
    task = SmallTask()
    task.native = {"q1": ["d4", "d1", "d2", "d3"], "q2": ["d1", "d2"]}
    task.load_data()
    stages._order_by_first_stage(task, path)
    # Ties as trec_eval has them, the larger id first; what the retriever did not find, last.
    assert task.dataset["default"]["test"]["top_ranked"] == {"q1": ["d3", "d2", "d1", "d4"], "q2": ["d2", "d1"]}


def test_an_instruction_task_s_lists_go_through_the_whole_path_in_that_order(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG.replace(TASK, "PyInstructionRetrieval"))
    one_pass = "reranker.listwise={window: 1000, passes: 1, order: given}"
    done = evaluate(tmp_path, "reranker.model=python:list_order:Keeps", one_pass)
    assert done.returncode == 0, done.stderr
    manifest, scores, _ = reranked(tmp_path / "results", "PyInstructionRetrieval")["given"]
    assert manifest["task"]["candidates"] == "native"
    [path] = (tmp_path / "results").glob("runs/*/*/*/*_predictions.json")
    [found] = [cell["test"] for name, cell in json.loads(path.read_text()).items() if name != "mteb_model_meta"]
    for query_id, rows in scores.groupby("query_id"):
        ranking = rows.sort_values("score", ascending=False)["doc_id"].tolist()
        values = [found[str(query_id)].get(one, float("-inf")) for one in ranking]
        assert values == sorted(values, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["FirstWins", "Together"])
def test_workers_give_the_same_scores(tmp_path: Path, model: str) -> None:
    write_beir_folder(tmp_path / "tools", queries=30)
    content = CONFIG.replace(TASK, "./tools").replace("listwise: {window: 5, stride: 3, passes: 2}", "listwise: {}")
    (tmp_path / "run.yaml").write_text(content)
    runs = []
    for results, settings in (("one", []), ("two", ["workers={address: local, num_workers: 2, block_tokens: 300}"])):
        options = [f"results_dir={results}", f"reranker.model=python:list_order:{model}", *settings]
        done = evaluate(tmp_path, *options, "reranker.listwise.order=shuffled", "reranker.instruction=none")
        assert done.returncode == 0, done.stderr
        runs.append(reranked(tmp_path / results, "tools")["shuffled"])
    (alone, _, first), (many, _, second) = runs
    assert (first / "scores.parquet").read_bytes() == (second / "scores.parquet").read_bytes()
    keys = [[pd.read_parquet(p) for p in sorted((tmp_path / r / "scores").rglob("*.parquet"))] for r in ("one", "two")]
    columns = ["query_digest", "document_digest", "score"]
    one, two = (pd.concat(frames)[columns].sort_values(columns, ignore_index=True) for frames in keys)
    pd.testing.assert_frame_equal(one, two)  # kept as lists there too
    assert many["environment"]["workers"]
    assert alone["timings"]["work"]["windows"] == many["timings"]["work"]["windows"]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["reranker.model=overlap"], "reranker.listwise: overlap scores each pair by itself"),
        (["reranker.listwise.strid=4"], "reranker.listwise.strid: unknown key; did you mean 'stride'?"),
        (["reranker.listwise.stride=6"], "reranker.listwise: stride 6 exceeds the window of 5"),
        (["reranker.listwise.window=1"], "reranker.listwise.window: Input should be greater than or equal to 2"),
        (["grid={reranker.listwise.order: [given, backward]}"], "unknown value 'backward'"),
        (["reranker.model=python:list_order:Together"], "reranker.listwise.window: Together reads a query's whole"),
        (["reranker.model=python:list_order:OneBased"], "OneBased ranked document 5 of 5; places count from 0"),
        (["reranker.model=python:list_order:Fails"], "Fails raised KeyError"),
    ],
)
def test_what_is_wrong_is_one_line(project: Path, settings: list[str], line: str) -> None:
    done = evaluate(project, "results_dir=wrong", *settings)
    assert done.returncode != 0
    [error] = [one for one in done.stderr.splitlines() if one.startswith("error: ")]
    assert line in error
    assert "Traceback" not in done.stderr


def test_an_estimate_counts_what_windows_read() -> None:
    cell = Cell(
        "data",
        queries=10,
        documents=100,
        candidates=25,
        query_characters=40,
        candidate=Lengths(400.0),
        corpus=Lengths(400.0),
        characters_a_token=4.0,
    )
    settings = {"window": 20, "stride": 10, "passes": 2, "order": "given"}
    row = RunSpec("reranker", 0, RunConfig(), ModelRef("a", "a", "", "1", "python"), {"listwise": settings})
    prompt, computed, flops = list_counts(row, None, cell)
    frame, document = 140 + 2 * 10, 14 + 100
    assert prompt == computed == 10 * 2 * (2 * frame + (20 + 15) * document)  # windows 5-25 and 0-15
    assert flops == 0
    whole = RunSpec("reranker", 0, RunConfig(), ModelRef("a", "a", "", "1", "python"), {"listwise": {"order": "given"}})
    assert list_counts(whole, None, cell)[0] == 10 * (frame + 25 * document)
    assert list_counts(whole, PUBLISHED["0.6b"], cell)[2] > 0
