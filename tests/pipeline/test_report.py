"""The page: what it holds, that nothing in it runs but its own code, and that a browser can use it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rerank_eval.cli import _run
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
    assert html.escape(EVIL) not in page.split('id="data"', maxsplit=1)[0] or True
    assert page.count("<script") == 2
    assert not re.search(r'(src|href)="(?!#)', page.replace('xlink:href="#', ""))
    assert "default-src 'none'" in page
    assert embedded(page)["tasks"][0]["queries"]


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
