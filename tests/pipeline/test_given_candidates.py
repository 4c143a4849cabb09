"""Candidates from files, and a folder of them for another machine."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from rerank_eval.cli import _run
from rerank_eval.config import RetrieverConfig
from rerank_eval.results import trec
from rerank_eval.results.manifest import Manifest
from rerank_eval.retrievers.given_runs import by_query, read_candidates
from tests.pipeline.folders import write_beir_folder

TOP_K = 10


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_beir_folder(tmp_path / "tools")
    monkeypatch.chdir(tmp_path)
    assert evaluate("{model: bm25, top_k: 10}") == 0
    return tmp_path


def evaluate(retriever: str, results: str = "results", task: str = "./tools") -> int:
    Path("run.yaml").write_text(f"tasks: [{task}]\nretriever: {retriever}\nreranker: null\nresults_dir: {results}\n")
    return _run(["eval", "--config", "run.yaml"])


def manifest(results: str = "results", label: str = "*") -> Manifest:
    [path] = Path(results).glob(f"runs/{label}/*/tools*/manifest.json")
    return Manifest.read(path)


def bm25(name: str) -> Path:
    [path] = Path("results").glob(f"runs/BM25/*/tools/{name}")
    return path


def as_trec(folder: Path) -> str:
    shutil.copy(bm25("default.test.trec"), folder / "bm25.trec")
    return "bm25.trec"


def as_gzip(folder: Path) -> str:
    (folder / "bm25.trec.gz").write_bytes(gzip.compress(bm25("default.test.trec").read_bytes()))
    return "bm25.trec.gz"


def as_predictions(folder: Path) -> str:
    shutil.copy(bm25("tools_predictions.json"), folder / "bm25.json")
    return "bm25.json"


def as_packed_predictions(folder: Path) -> str:
    (folder / "bm25.json.gz").write_bytes(gzip.compress(bm25("tools_predictions.json").read_bytes()))
    return "bm25.json.gz"


def as_parquet(folder: Path) -> str:
    frame = pd.read_parquet(bm25("scores.parquet"))
    other = frame.assign(split="train", score=0.5)
    pd.concat([other, frame]).to_parquet(folder / "bm25.parquet", index=False)
    return "bm25.parquet"


def by_cell(folder: Path) -> str:
    (folder / "runs").mkdir()
    shutil.copy(bm25("default.test.trec"), folder / "runs" / "bm25-tools.default.test.trec")
    return '"runs/bm25-{task}.{subset}.{split}.trec"'


@pytest.mark.parametrize("write", [as_trec, as_gzip, as_predictions, as_packed_predictions, as_parquet, by_cell])
def test_a_run_in_any_form_gives_the_same_candidates(project: Path, write: Callable[[Path], str]) -> None:
    assert evaluate(f"{{run: {write(project)}, top_k: 10}}", "given") == 0
    found = manifest("given")
    assert found.digest == manifest().digest
    assert found.scores.main == manifest().scores.main
    assert found.retriever.label == "bm25"
    assert found.identity.digest != manifest().identity.digest


def test_a_folder_for_another_machine_comes_to_the_same_digest(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["candidates", "export", "--config", "run.yaml", "--output", "out"]
    assert _run(arguments) == 0
    assert manifest().digest in capfd.readouterr().out
    index = json.loads(Path("out/candidates.json").read_text())
    [task] = index["tasks"].values()
    assert (task["digest"], task["pairs"], task["queries"]) == (manifest().digest, 120, 12)
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    assert _run(arguments) == 0
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before

    shutil.copytree("out", "elsewhere")
    assert evaluate("{candidates: ./elsewhere, top_k: 10}", "imported") == 0
    assert manifest("imported").digest == manifest().digest
    assert manifest("imported").retriever.label == "BM25"
    assert evaluate("{candidates: ./out, top_k: 10}", "imported") == 0  # the folder's place is no part of the identity
    assert "done before" in capfd.readouterr().out

    assert evaluate("{candidates: ./out, top_k: 11}", "deeper") == 4
    assert "has 10 candidates of a query at the most" in capfd.readouterr().err
    [run] = Path("elsewhere").glob("*.trec")
    run.write_text(run.read_text().replace("1 ", "2 ", 1))
    assert evaluate("{candidates: ./elsewhere, top_k: 9}", "altered") == 3
    assert "altered since it was exported" in capfd.readouterr().err


def test_a_folder_holds_one_retriever(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["candidates", "export", "--config", "run.yaml", "--output", "out"]
    assert _run(arguments) == 0
    assert _run([*arguments, "--set", "retriever.top_k=5"]) == 2
    assert "holds the candidates of BM25 with other settings" in capfd.readouterr().err
    assert _run([*arguments, "--set", "grid={retriever.top_k: [3, 4]}"]) == 2
    assert "2 retrievers" in capfd.readouterr().err


def test_queries_that_are_missing_are_counted_and_named(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = bm25("default.test.trec").read_text().splitlines(keepends=True)
    Path("part.trec").write_text("".join(line for line in lines if line.split()[0] not in {"q3", "q11"}))
    assert evaluate("{run: part.trec, top_k: 10}", "given") == 0
    output = capfd.readouterr()
    said = " ".join((output.out + output.err).split())
    assert "2 of 12 queries are missing, such as q3, q11" in said
    assert "2 queries without candidates" in said
    assert manifest("given").data["queries_without_candidates"] == 2
    assert manifest("given").scores.main < manifest().scores.main


@pytest.mark.parametrize(
    ("line", "code", "problem"),
    [
        ("q0 Q0 nowhere 1 9.5 x\n", 3, "1 documents are not in the corpus, such as 'nowhere' of query 'q0'"),
        ("q0 Q0 d0-0 1 high x\n", 3, "rank or score is not a number"),
        ("q0 Q0 d0-0 1\n", 3, "4 fields"),
        ("other Q0 d0-0 1 9.5 x\n", 3, "none of its 1 queries is in the data"),
    ],
)
def test_what_does_not_fit_the_data_is_one_line(
    project: Path, capfd: pytest.CaptureFixture[str], line: str, code: int, problem: str
) -> None:
    Path("odd.trec").write_text(line)
    assert evaluate("{run: odd.trec}", "given") == code
    error = capfd.readouterr().err
    assert problem in " ".join(error.split())
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("retriever", "problem"),
    [
        ("{run: nowhere.trec}", "no such file"),
        ("{run: 'a-{name}.trec'}", "{name} stands for nothing"),
        ("{run: odd.trec, model: bm25}", "set one"),
        ("{model: given}", "needs run, or candidates with a folder"),
        ("{candidates: sometimes}", "unknown candidates 'sometimes'"),
        ("{candidates: ./nowhere}", "no candidates.json there"),
        ("{run: odd.trec, candidates: ./out}", "set one"),
    ],
)
def test_a_wrong_config_is_one_line(
    project: Path, capfd: pytest.CaptureFixture[str], retriever: str, problem: str
) -> None:
    assert evaluate(retriever, "given") == 2
    assert problem in " ".join(capfd.readouterr().err.split())


def test_a_setting_that_no_file_reads_is_refused(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    as_trec(project)
    assert evaluate("{run: bm25.trec, dtype: bfloat16}", "given") == 4
    assert "retriever.dtype: candidates from files do not read it" in capfd.readouterr().err


def test_ids_with_white_space_come_back(tmp_path: Path) -> None:
    frame = pd.DataFrame({"query_id": ["q 1", "q%2"], "doc_id": ["d\t1 %", "d%20x"], "score": [1.0, 0.25]})
    trec.write_run(tmp_path / "run.trec", frame, "x")
    read = read_candidates(tmp_path / "run.trec", "default", "test")
    found, others = by_query(read, ["q 1", "q%2", "q3"], ["d\t1 %", "d%20x", "e"], "run")
    assert found == {"q 1": {"d\t1 %": 1.0}, "q%2": {"d%20x": 0.25}}
    assert others == 0


def test_the_names_of_before_mean_what_they_meant() -> None:
    assert RetrieverConfig(candidates="retrieved").rule == "retrieved"
    assert RetrieverConfig().rule == "auto"
    assert RetrieverConfig(candidates="./out").model == "given"
