"""The page: what it holds, that nothing in it runs but its own code, and that a browser can use it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rerank_eval.cli import _run
from rerank_eval.metrics import per_query as metrics
from tests.pipeline.folders import write_beir_folder

ROOT = Path(__file__).parents[2]
EVIL = "</script><script>document.title='owned'</script><b>"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(ROOT / "configs", folder / "configs")
    write_beir_folder(folder / "tools")
    queries = folder / "tools" / "queries.jsonl"
    qrels = folder / "tools" / "qrels" / "test.tsv"
    first = json.loads(queries.read_text().splitlines()[0])["_id"]
    queries.write_text(queries.read_text().replace(json.dumps(first), json.dumps(EVIL)))
    qrels.write_text(re.sub(rf"(?m)^{re.escape(first)}\t", f"{EVIL}\t", qrels.read_text()))
    arguments = ["eval", "--config", "configs/base.yaml", "--task", "./tools", "--set", "retriever.model=bm25"]
    arguments += ["--set", "retriever.top_k=10", "--set", "grid.reranker.instruction=[default, none]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert _run(arguments) == 0
        assert _run(["report"]) == 0
    return folder


@pytest.fixture
def page(finished: Path) -> str:
    return (finished / "results" / "report.html").read_text()


def embedded(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_it_holds_every_query_and_its_candidates(finished: Path, page: str) -> None:
    data = embedded(page)
    assert data["runs"][0] == "BM25"
    (task,) = data["tasks"]
    (path,) = (finished / "results" / "runs").glob("BM25/*/tools/per_query.parquet")
    values = pd.read_parquet(path).set_index("query_id")["ndcg_at_10"]
    assert {query: own[0] for query, _, own in task["queries"]} == pytest.approx((100 * values).round(2).to_dict())
    key = f"{EVIL}|default/test"
    assert [len(lists[key]) for lists in task["lists"]] == [10, 10, 10]
    assert page.count("<svg") >= 5
    assert len(page) < 5_000_000


def test_it_needs_nothing_from_elsewhere_and_runs_nothing_from_data(page: str) -> None:
    assert EVIL not in page
    assert "owned'</script" not in page
    assert page.count("<script") == 2
    assert not re.search(r'(src|href)="(?!#)', page.replace('xlink:href="#', ""))
    assert "default-src 'none'" in page
    assert EVIL in [query for query, *_ in embedded(page)["tasks"][0]["queries"]]


def test_the_same_results_give_the_same_bytes(finished: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    assert _run(["report", "--output", "again.html"]) == 0
    assert (finished / "again.html").read_text() == page


def test_nothing_to_report_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run(["report"]) == 2
    assert "no results to report" in capsys.readouterr().err


PROBE = """
<script>
addEventListener("load", () => {
  const told = {};
  const click = (node) => node.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  const column = (n) => [...document.querySelector("#leaderboard tbody").rows].map((row) => row.cells[n].textContent);
  click(document.querySelectorAll("#leaderboard thead button")[2]);
  told.sorted = column(2);
  told.sort = document.querySelectorAll("#leaderboard thead th")[2].getAttribute("aria-sort");
  told.before = document.querySelectorAll("#list tbody tr").length;
  const filter = document.getElementById("filter");
  filter.value = "script";
  filter.dispatchEvent(new Event("input"));
  told.after = document.querySelectorAll("#list tbody tr").length;
  click(document.querySelector("#list tbody button"));
  told.opened = document.querySelector("#one h3").textContent;
  told.tables = document.querySelectorAll("#one table").length;
  const paper = () => getComputedStyle(document.body).backgroundColor;
  told.first = paper();
  click(document.getElementById("theme"));
  told.second = paper();
  told.title = document.title;
  told.errors = window.failed || [];
  document.body.replaceChildren(Object.assign(document.createElement("pre"), { textContent: JSON.stringify(told) }));
});
</script>
"""
WATCH = """
<script>window.failed = []; addEventListener("error", (event) => window.failed.push(String(event.message)));</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_a_browser_sorts_filters_opens_and_changes_colours(page: str, tmp_path: Path) -> None:
    probed = page.replace("<title>", WATCH + "<title>", 1).replace("</body>", PROBE + "</body>")
    (tmp_path / "page.html").write_text(probed)
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--no-first-run", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    found = re.search(r"<pre>(\{.*?\})</pre>", done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    told = json.loads(html.unescape(found[1]))
    assert told["errors"] == []
    numbers = [float(cell) for cell in told["sorted"] if cell != "–"]
    assert numbers == sorted(numbers, reverse=True)
    assert told["sort"] == "descending"
    assert told["before"] == 12
    assert told["after"] == 1
    assert told["opened"].startswith(EVIL)
    assert told["tables"] == 3
    assert told["first"] != told["second"]
    assert told["title"] == "rerank-eval report"


@pytest.mark.slow
def test_a_full_suite_stays_below_five_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve tasks, seven runs, 400 queries with 100 candidates each, written as the pipeline writes them."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for row in range(7):
        for task in range(12):
            write_result(tmp_path / "results", row, f"Task{task}", generator)
    assert _run(["report"]) == 0
    page = (tmp_path / "results" / "report.html").read_text()
    assert 1_000_000 < len(page.encode()) < 5_000_000
    data = embedded(page)
    assert len(data["tasks"]) == 12
    assert all(len(task["queries"]) == 400 for task in data["tasks"])
    assert "stand as manifest.json beside their results" not in page
    assert page.count("<details>") == 84


def write_result(results: Path, row: int, task: str, generator: np.random.Generator) -> None:
    queries, depth = 400, 100
    relevance = (generator.random((queries, depth)) < 0.03).astype(int)
    relevance[:, 0] = 1
    scores = generator.normal(relevance, 1.0)
    order = np.argsort(-scores, axis=1)
    frame = pd.DataFrame(
        {
            "subset": "default",
            "split": "test",
            "query_id": np.repeat([f"query-{n}" for n in range(queries)], depth),
            "doc_id": (order + 1000 * np.arange(queries)[:, None]).ravel().astype(str),
            "rank": np.tile(np.arange(1, depth + 1), queries),
            "score": np.take_along_axis(scores, order, axis=1).ravel(),
            "relevance": np.take_along_axis(relevance, order, axis=1).ravel(),
        }
    )
    qrels = {query: dict(zip(own["doc_id"], own["relevance"], strict=True)) for query, own in frame.groupby("query_id")}
    judged = metrics.per_query(frame, qrels)
    kind = "reranker" if row else "retriever"
    folder = results / "runs" / f"Model{row}" / f"{row:012d}" / task
    folder.mkdir(parents=True)
    frame.to_parquet(folder / "scores.parquet", index=False)
    judged.insert(0, "split", "test")
    judged.insert(0, "subset", "default")
    judged.to_parquet(folder / "per_query.parquet", index=False)
    manifest = {
        "schema": 1,
        "complete": True,
        "row": {"kind": kind, "label": f"Model{row}", "detail": "card", "order": row, "notes": []},
        "identity": {
            "digest": f"{row:012d}",
            "candidates": "0" * 12,
            kind: {"model": f"org/Model{row}", "head": "float32"},
        },
        "retriever": {"label": "Model0", "top_k": 100, "detail": ""},
        "task": {"name": task, "main_score": "ndcg_at_10", "revision": "1"},
        "scores": {"main": float(judged["ndcg_at_10"].mean()), "recall_at_100": 0.9, "oracle_ndcg_at_10": 0.9},
        "inputs": {"candidates": "d"},
        "digest": "d",
        "timings": {"seconds": 1.0, "finished": 1.0, "pairs_per_second": 100.0 * (row + 1)},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
