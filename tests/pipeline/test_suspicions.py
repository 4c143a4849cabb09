"""Ids that repeat across subsets, trackers that hang, pages that cannot stand where they should, a run's last words."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from rerank_eval.cli import _run
from rerank_eval.pipeline.tracking import Guarded
from rerank_eval.tasks import mirror
from tests.mirror.miniatures import write_mirror
from tests.mirror.runs import write_config
from tests.pipeline.folders import write_beir_folder
from tests.tiny_classifiers import bert, save

ROOT = Path(__file__).parents[2]
SUBSETS = "CodeSearchNetRetrieval"


@pytest.fixture(scope="module")
def subsets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished BM25 run on a task of six subsets whose query ids are the same in each."""
    folder = tmp_path_factory.mktemp("subsets")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patch.setattr(mirror, "_usual_cache", lambda: folder / "cache")
        root = write_mirror(folder / "mirror", [SUBSETS])
        assert _run(["eval", "--config", str(write_config(folder, root, [SUBSETS], reranker=None))]) == 0
    return folder


def test_a_query_id_that_stands_in_several_cells(
    subsets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(subsets)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", subsets / "cache")
    monkeypatch.setattr(mirror, "_usual_cache", lambda: subsets / "cache")
    [path] = subsets.glob("results/runs/BM25/*/*/scores.parquet")
    scores = pd.read_parquet(path)
    query = "1000"
    own = scores[scores["query_id"] == query]
    cells = sorted(set(zip(own["subset"], own["split"], strict=True)))
    assert len(cells) > 1

    inspect = ["inspect", "BM25", "--data-root", "mirror"]
    assert _run([*inspect, "--query", query, "--json", "out.json"]) == 0
    found = json.loads(Path("out.json").read_text())["tasks"][SUBSETS]
    assert [(one["subset"], one["split"]) for one in found["cells"]] == cells
    for one in found["cells"]:
        there = own[(own["subset"] == one["subset"]) & (own["split"] == one["split"])]
        assert [row["doc_id"] for row in one["candidates"]] == there.sort_values("rank")["doc_id"].tolist()
        assert [row["score"] for row in one["candidates"]] == there.sort_values("rank")["score"].tolist()
        assert all(row["text"] for row in one["candidates"])
    assert len({one["text"] for one in found["cells"]}) == len(cells)

    subset, split = cells[1]
    assert _run([*inspect, "--query", query, "--cell", f"{subset}/{split}", "--json", "out.json"]) == 0
    assert json.loads(Path("out.json").read_text())["tasks"][SUBSETS] == found["cells"][1]

    capsys.readouterr()
    assert _run([*inspect, "--query", query, "--cell", "pyton/test"]) == 2
    assert "did you mean 'python/test'?" in capsys.readouterr().err
    assert _run([*inspect, "--worst", "3"]) == 0
    assert f"/{split})" in capsys.readouterr().out

    assert _run(["report", "--output", "page.html"]) == 0
    page = Path("page.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    [task] = data["tasks"]
    shown = [f"{one[0]}|{one[1]}" for one in task["queries"]]
    assert len(shown) == len(set(shown)) == len(scores[["subset", "split", "query_id"]].drop_duplicates())
    for key, candidates in task["lists"][0].items():
        identifier, cell = key.split("|")
        there = scores[(scores["query_id"] == identifier) & (scores["subset"] + "/" + scores["split"] == cell)]
        assert [one[0] for one in candidates] == there.sort_values("rank")["doc_id"].tolist()[:10]


class Hangs:
    """A tracker whose server never answers."""

    def __init__(self, when: str) -> None:
        self.when, self.calls, self.release = when, [], threading.Event()

    def _do(self, name: str) -> None:
        self.calls.append(name)
        if name == self.when:
            self.release.wait(60)

    def start(self, config: Mapping[str, Any]) -> None:
        self._do("start")

    def log(self, metrics: Mapping[str, float]) -> None:
        self._do("log")

    def table(self, text: str) -> None:
        self._do("table")

    def finish(self) -> None:
        self._do("finish")


@pytest.mark.parametrize("when", ["start", "log", "table", "finish"])
def test_a_tracker_that_hangs_is_left_alone(when: str) -> None:
    told: list[str] = []
    tracker = Hangs(when)
    guarded = Guarded(tracker, told.append, patience=0.3)
    started = time.monotonic()
    guarded.start({})
    guarded.log({"x": 1.0})
    guarded.log({"x": 2.0})
    guarded.table("a,b")
    guarded.finish()
    assert time.monotonic() - started < 5
    assert told == [f"tracking stopped, the run goes on: no answer to `{when}` in 0.3 seconds"]
    assert tracker.calls[-1] == when
    tracker.release.set()


def test_a_tracker_works_in_one_thread() -> None:
    threads: list[int] = []

    class Notes(Hangs):
        def _do(self, name: str) -> None:
            threads.append(threading.get_ident())

    guarded = Guarded(Notes(""), pytest.fail)
    guarded.start({})
    guarded.log({})
    guarded.finish()
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


HANGING = """
import time

def init(**_):
    time.sleep(600)

log = Table = finish = None
"""


def evaluate(*settings: str) -> int:
    arguments = ["eval", "--config", "configs/base.yaml", "--task", "./tools"]
    for setting in ("retriever.model=bm25", "retriever.top_k=10", "reranker=null", *settings):
        arguments += ["--set", setting]
    return _run(arguments)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_beir_folder(tmp_path / "tools")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_results_are_the_same_whether_a_tracker_hangs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "packages").mkdir()
    (project / "packages" / "wandb.py").write_text(HANGING)
    monkeypatch.syspath_prepend(project / "packages")
    monkeypatch.delitem(__import__("sys").modules, "wandb", raising=False)
    monkeypatch.setattr("rerank_eval.pipeline.tracking.PATIENCE", 0.2)
    assert evaluate("tracking.tool=wandb", "results_dir=tracked") == 0
    assert capsys.readouterr().out.count("tracking stopped, the run goes on: no answer to `start`") == 1
    assert evaluate() == 0
    [path] = project.glob("results/runs/*/*/tools/scores.parquet")
    assert (project / "tracked" / path.relative_to(project / "results")).read_bytes() == path.read_bytes()


def test_a_page_that_cannot_stand_there_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate() == 0
    (project / "folder.html").mkdir()
    (project / "file").write_text("x")
    locked = project / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    capsys.readouterr()
    cases = [
        ("folder.html", 2, "--output folder.html: is a folder; name a file in it"),
        ("page", 2, "did you mean page.html?"),
        ("page.pdf", 2, "a browser opens .html files"),
        ("file/page.html", 2, "file is a file, not a folder"),
    ]
    if not os.access(locked, os.W_OK):  # root may write anywhere
        cases.append(("locked/new/page.html", 6, "cannot be written; name another file"))
    for output, code, expected in cases:
        assert _run(["report", "--output", output]) == code
        error = capsys.readouterr().err
        assert expected in error
        assert len(error.strip().splitlines()) == 1
    assert _run(["report", "--output", "new/folder/page.HTML"]) == 0
    assert (project / "new" / "folder" / "page.HTML").stat().st_size > 1000


def test_a_json_file_that_is_a_folder_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate() == 0
    (project / "out.json").mkdir()
    capsys.readouterr()
    assert _run(["inspect", "BM25", "--task", "./tools", "--json", "out.json"]) == 6
    assert "a folder stands where a file is needed" in capsys.readouterr().err


def test_what_ends_a_run_stands_in_its_log(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = save(bert(), project / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert evaluate("retriever.model=bm25", "reranker.model=./broken") == 4  # the candidates are there by then
    message = capsys.readouterr().err.split("error:", 1)[1].split()
    [log] = (project / "results" / "logs").iterdir()
    written = log.read_text()
    assert " ".join(message) in " ".join(written.split())
    assert "exit code" in written
