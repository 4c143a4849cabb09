"""The whole path on a small BEIR folder: BM25, then the demo reranker, then the leaderboard."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import ir_measures
import pandas as pd
import pytest
import pytrec_eval
from mteb import ResultCache

from rerank_eval.cli import _run
from rerank_eval.errors import StorageError
from rerank_eval.pipeline import run, stages
from rerank_eval.store.locks import HeldLock
from tests import processes
from tests.pipeline.folders import write_beir_folder

ROOT = Path(__file__).parents[2]
TOOLS = ("--task", "data/tools")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the configs and a BEIR folder `data/tools`."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_beir_folder(tmp_path / "data" / "tools")
    monkeypatch.chdir(tmp_path)
    return tmp_path


BASE = ["eval", "--config", "configs/base.yaml", "--set", "retriever.model=bm25", "--set", "retriever.top_k=10"]


def evaluate(*arguments: str) -> int:
    return _run([*BASE, *arguments])


@pytest.fixture(scope="module")
def evaluated_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which `data/tools` has been evaluated."""
    folder = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(ROOT / "configs", folder / "configs")
    write_beir_folder(folder / "data" / "tools")
    with contextlib.chdir(folder):
        assert evaluate(*TOOLS) == 0
    return folder


@pytest.fixture
def evaluated(evaluated_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may harm."""
    shutil.copytree(evaluated_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def manifests(results: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(results.glob("runs/*/*/*/manifest.json")):
        manifest = json.loads(path.read_text())
        found[manifest["row"]["kind"]] = {**manifest, "_folder": path.parent}
    return found


def fingerprint(results: Path) -> dict[str, Any]:
    """Everything under a results folder except times and surroundings."""
    content: dict[str, Any] = {}
    for path in sorted(results.rglob("*")):
        name = path.relative_to(results).as_posix()
        # How scores lie in the store's shards depends on interruptions; what they are does not.
        if path.is_dir() or name.startswith(("logs/", "scores/")) or path.name in {"run_settings.jsonl", ".lock"}:
            continue
        if path.suffix == ".json":
            value = json.loads(path.read_text())
            for key in ("timings", "environment", "date", "evaluation_time", "evaluation_phases", "seal"):
                value.pop(key, None)
            content[name] = value
        else:
            content[name] = path.read_bytes()
    return content


def test_from_a_beir_folder_to_a_leaderboard(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate("--task", "data/tools") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("config: configs/base.yaml (you named it)\n")
    assert "BM25" in printed
    assert "Python functions alone" in " ".join(printed.split())
    for suffix in ("md", "csv", "tex", "html"):
        assert (project / "results" / f"leaderboard.{suffix}").stat().st_size > 100
    found = manifests(project / "results")
    assert set(found) == {"retriever", "reranker"}
    for manifest in found.values():
        check_numbers(manifest, project / "data" / "tools" / "qrels" / "test.tsv")
    assert found["reranker"]["inputs"]["candidates"] == found["retriever"]["digest"]
    work = found["reranker"]["timings"]["work"]
    assert work["prompt_tokens"] == found["reranker"]["counts"]["prompt_tokens"]
    assert work["padding_tokens"] == 0
    assert work["computed_tokens"] < work["prompt_tokens"] / 2  # ten documents share a prefix longer than themselves
    assert found["reranker"]["counts"]["pairs"] == found["retriever"]["scores"]["cells"][0]["n_queries"] * 10


def check_numbers(manifest: dict[str, Any], qrels_file: Path) -> None:
    """mteb's JSON, the per-query file and the TREC run must all say what trec_eval says."""
    folder: Path = manifest["_folder"]
    rows = [line.split("\t") for line in qrels_file.read_text().splitlines()[1:]]
    qrels: dict[str, dict[str, int]] = {}
    for query_id, document_id, value in rows:
        qrels.setdefault(query_id, {})[document_id] = int(value)
    run_file = next(folder.glob("*.trec"))
    with run_file.open() as handle:
        run = pytrec_eval.parse_run(handle)
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"})
    independent = {query: values["ndcg_cut_10"] for query, values in evaluator.evaluate(run).items()}
    per_query = pd.read_parquet(folder / "per_query.parquet").set_index("query_id")["ndcg_at_10"]
    assert per_query.to_dict() == pytest.approx(independent)
    mean = per_query.mean()
    assert manifest["scores"]["main"] == pytest.approx(mean, abs=1e-12)
    again = ir_measures.calc_aggregate(
        [ir_measures.nDCG @ 10],
        [ir_measures.Qrel(q, d, v) for q, documents in qrels.items() for d, v in documents.items()],
        ir_measures.read_trec_run(str(run_file)),
    )
    assert again[ir_measures.nDCG @ 10] == pytest.approx(mean)


def test_results_reload_in_plain_mteb(evaluated: Path) -> None:
    found = manifests(evaluated / "results")
    loaded = ResultCache(evaluated / "results" / "mteb").load_results(load_experiments="match_name")
    scores = {result.model_name: result.task_results[0].get_score() for result in loaded.model_results}
    assert scores == {
        "mteb/baseline-bm25s": pytest.approx(found["retriever"]["scores"]["main"], abs=0.51e-5),
        "rerank-eval/qwen3-python": pytest.approx(found["reranker"]["scores"]["main"], abs=0.51e-5),
    }


def test_the_same_config_gives_the_same_bytes_and_a_second_run_does_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--task", "data/tools") == 0
    first = fingerprint(project / "results")
    capsys.readouterr()
    assert evaluate("--task", "data/tools") == 0
    printed = capsys.readouterr().out
    assert "computed 0, done before 2" in printed
    assert "done before: reranker Qwen3-python (demo) on tools" in printed
    assert fingerprint(project / "results") == first
    assert evaluate("--task", "data/tools", "--set", "results_dir=other") == 0
    assert fingerprint(project / "other") == first


def test_changed_data_is_scored_again_and_an_ablation_shares_candidates(
    evaluated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert evaluate("--task", "data/tools", "--set", "grid.reranker.instruction=[none, default]") == 0
    assert "computed 2, done before 1" in capsys.readouterr().out  # BM25's candidates serve all
    corpus = evaluated / "data" / "tools" / "corpus.jsonl"
    corpus.write_text(corpus.read_text().replace("hammer", "mallet"))
    assert evaluate("--task", "data/tools") == 0
    assert "computed 2, done before 0" in capsys.readouterr().out


def test_top_k_and_retriever_are_part_of_the_identity(project: Path) -> None:
    assert evaluate("--task", "data/tools", "--set", "grid.retriever.top_k=[5, 10]") == 0
    files = list((project / "results" / "mteb").rglob("tools.json"))
    assert len(files) == 4  # two retriever rows, two reranker rows: nothing overwrote anything


def test_reference_and_packed_rank_alike(project: Path) -> None:
    assert evaluate("--task", "data/tools", "--set", "grid.reranker.engine=[packed, reference]") == 0
    frames = [
        pd.read_parquet(path).set_index(["query_id", "doc_id"])["score"].sort_index()
        for path in sorted((project / "results" / "runs").glob("Qwen3-python*/*/*/scores.parquet"))
    ]
    assert len(frames) == 2
    assert (frames[0] - frames[1]).abs().max() < 1e-5


@pytest.mark.parametrize(("moment", "more"), [("runs/BM25", []), ("runs/Qwen3-python*", ["--task", "data/more"])])
def test_an_interrupted_run_says_so_and_goes_on(project: Path, moment: str, more: list[str]) -> None:
    write_beir_folder(project / "data" / "more", queries=40)
    arguments, results = [*BASE, *TOOLS, *more], project / "results"
    with processes.start(arguments) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.returncode is None and not list(results.glob(moment)):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted: what was scored is kept" in err
    assert "Traceback" not in err + out
    expected = 4 if more else 2
    assert len(list(results.glob("runs/*/*/*/manifest.json"))) < expected
    assert _run(arguments) == 0
    assert len(list(results.glob("runs/*/*/*/manifest.json"))) == expected
    assert not list(results.rglob("*.tmp"))
    whole = fingerprint(results)
    shutil.rmtree(results)
    assert _run(arguments) == 0
    assert fingerprint(results) == whole


def test_a_torn_manifest_or_result_is_computed_again(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = fingerprint(evaluated / "results")
    found = manifests(evaluated / "results")
    (found["retriever"]["_folder"] / "manifest.json").write_text('{"schema": 1, "comp')
    (found["reranker"]["_folder"] / "scores.parquet").unlink()
    capsys.readouterr()
    assert evaluate("--task", "data/tools") == 0
    assert "computed 2, done before 0" in capsys.readouterr().out
    assert fingerprint(evaluated / "results") == whole


def test_lost_candidates_are_retrieved_again(evaluated: Path) -> None:
    before = fingerprint(evaluated / "results")
    found = manifests(evaluated / "results")
    next(found["retriever"]["_folder"].glob("*_predictions.json")).unlink()
    assert evaluate(*TOOLS) == 0
    assert fingerprint(evaluated / "results") == before


@pytest.mark.parametrize("how", ["torn", "fewer"])
def test_torn_or_altered_candidates_are_retrieved_anew(
    evaluated: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fingerprint(evaluated / "results")
    found = manifests(evaluated / "results")
    predictions = next(found["retriever"]["_folder"].glob("*_predictions.json"))
    if how == "torn":
        predictions.write_text(predictions.read_text()[:200])
    else:
        content = json.loads(predictions.read_text())
        for documents in content["default"]["test"].values():
            documents.popitem()
        predictions.write_text(json.dumps(content))
    (found["reranker"]["_folder"] / "manifest.json").unlink()
    capsys.readouterr()
    assert evaluate(*TOOLS) == 0
    assert "is not as it was written; the result is made anew" in " ".join(capsys.readouterr().out.split())
    assert fingerprint(evaluated / "results") == before


@pytest.mark.parametrize("name", ["scores.parquet", "per_query.parquet", "qrels.parquet", "default.test.trec"])
def test_an_altered_result_is_made_anew(evaluated: Path, name: str) -> None:
    before = fingerprint(evaluated / "results")
    path = manifests(evaluated / "results")["reranker"]["_folder"] / name
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    assert evaluate(*TOOLS) == 0
    assert path.read_bytes() == content
    assert fingerprint(evaluated / "results") == before


def test_scores_of_another_device_are_told_of(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(run, "computed_on", lambda device, workers: ["cuda (NVIDIA H100), torch 2.11.0"])
        assert evaluate(*TOOLS, "--set", "retriever.top_k=5") == 0
    assert "were computed by" not in capsys.readouterr().out
    assert evaluate(*TOOLS) == 0
    assert "were computed by 2: cpu (" in " ".join(capsys.readouterr().out.split())
    [made] = [
        one["environment"]["scores_made_by"]
        for path in project.glob("results/runs/*/*/*/manifest.json")
        if (one := json.loads(path.read_text()))["row"]["kind"] == "reranker" and one["retriever"]["top_k"] == 10
    ]
    assert made[1] == "cuda (NVIDIA H100), torch 2.11.0"
    assert made[0].startswith("cpu (")


def test_a_run_that_lost_its_lock_stops_at_its_next_block(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not at its end: until then it would score what the process that took over scores as well."""
    assert evaluate(*TOOLS, "--set", "reranker=null") == 0
    asked: list[int] = []

    def check(held: HeldLock) -> None:
        asked.append(1)
        if len(asked) > 1:
            raise StorageError("another process has taken this work over")

    monkeypatch.setattr(HeldLock, "check", check)
    assert evaluate(*TOOLS, "--set", "store.block_pairs=1") == 6
    assert "taken this work over" in capsys.readouterr().err
    assert len(list((project / "results" / "scores").glob("*/*/*/*/*.parquet"))) == 1


def test_candidates_altered_while_a_run_reads_its_data_are_not_reranked(
    evaluated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """mteb reads them: it would average the queries that are left, under the digest of the whole candidates."""
    before = fingerprint(evaluated / "results")
    predictions = next(manifests(evaluated / "results")["retriever"]["_folder"].glob("*_predictions.json"))
    load = stages._loaded

    def altered_meanwhile(job: stages.Job) -> Any:
        task, content = load(job), json.loads(predictions.read_text())
        del content["default"]["test"]["q0"]
        predictions.write_text(json.dumps(content))
        return task

    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(stages, "_loaded", altered_meanwhile)
        assert evaluate(*TOOLS, "--set", "reranker.instruction=none") == 3
    assert "altered since it was written" in capsys.readouterr().err
    assert evaluate(*TOOLS) == 0
    assert fingerprint(evaluated / "results") == before


def test_a_results_folder_in_the_home_folder(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert evaluate(*TOOLS, "--set", "results_dir=~/mine", "--set", "reranker=null") == 0
    assert list((tmp_path / "home" / "mine" / "runs").rglob("manifest.json"))
    assert not (project / "~").exists()


def test_a_device_that_is_not_there_is_told_first(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(*TOOLS, "--set", "device=cuda:7") == 7
    assert "device: device 'cuda:7' is not available" in capsys.readouterr().err
    assert not (project / "results" / "runs").exists()


def test_a_full_disk_is_one_line_and_loses_nothing(project: Path) -> None:
    small = project / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        write_beir_folder(project / "data" / "tools", queries=300)
        settings = ["--set", "retriever.model=bm25", "--set", f"results_dir={small}"]
        done = processes.run(["eval", "--config", "configs/base.yaml", *TOOLS, *settings])
        assert done.returncode == 6, done.stderr
        assert "no space left on the disk" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_cut_prompts_and_open_ties_are_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queries = project / "data" / "tools" / "queries.jsonl"
    words = "many words of no use " * 20
    rows = [json.loads(line) for line in queries.read_text().splitlines()]
    queries.write_text("".join(json.dumps({**row, "text": row["text"] + words}) + "\n" for row in rows))
    assert evaluate("--task", "data/tools", "--set", "reranker.max_length=100") == 0
    printed = capsys.readouterr().out
    assert "100.0% of prompts cut to max_length" in printed
    # Cut behind the query, all prompts of a query are the same, and so are their scores.
    assert "100.0% of candidates tie (nDCG@10 " in printed
    found = manifests(project / "results")["reranker"]
    assert found["truncation"]["rate"] == 1.0
    assert found["scores"]["tie_rate"] == 1.0
    assert found["scores"]["ndcg_at_10_worst"] < found["scores"]["ndcg_at_10_best"]


def test_rows_of_two_long_instructions_can_be_told_apart(project: Path) -> None:
    texts = ["Judge whether the tool does what the query says", "Judge whether the tool does anything at all"]
    assert evaluate("--task", "data/tools", "--set", f"grid.reranker.instruction={json.dumps(texts)}") == 0
    lines = (project / "results" / "leaderboard.md").read_text().splitlines()
    details = [line.split("|")[2] for line in lines if line.startswith("| + ")]
    assert len(details) == len(set(details)) == 2
    assert all("Judge whether the tool" in detail for detail in details)


def test_a_recipe_and_instructions_of_one_s_own(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "short.yaml").write_text('query_template: "{query}\\n<Document>:"\ndefault_instruction: Judge it.\n')
    (project / "mine.yaml").write_text("otherwise: default\ntasks:\n  tools: Find the tool.\n")
    own = ["--set", "reranker.recipe=short.yaml", "--set", "reranker.instruction=mine.yaml"]
    assert evaluate(*TOOLS, *own) == 0
    assert evaluate(*TOOLS, *own) == 0
    assert "done before" in capsys.readouterr().out
    first = manifests(project / "results")["reranker"]
    identity = first["identity"]["reranker"]
    assert identity["recipe"].startswith("short@")
    assert identity["instruction"].startswith("mine@")
    assert first["instruction"]["examples"] == ["Find the tool."]
    assert first["instruction"]["origins"] == {"set": first["counts"]["queries"]}
    settings = json.loads((project / "results" / first["mteb_result"]).with_name("model_meta.json").read_text())
    assert settings["experiment_kwargs"]["recipe"] == identity["recipe"]

    (project / "mine.yaml").write_text("otherwise: default\ntasks:\n  tools: Find any other tool.\n")
    assert evaluate(*TOOLS, *own) == 0
    found = [json.loads(path.read_text()) for path in (project / "results").glob("runs/Qwen3*/*/tools/manifest.json")]
    assert len({manifest["identity"]["digest"] for manifest in found}) == 2
    assert len({manifest["digest"] for manifest in found}) == 2


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("reranker.recipe=gone.yaml", "gone.yaml: no such file"),
        ("reranker.instruction=bad.yaml", "bad.yaml: taks: unknown key; did you mean 'tasks'?"),
        ("reranker.instruction=strict.yaml", "configs/base.yaml: reranker.instruction: instruction set strict has"),
        ("reranker.instruction=qwn", "--set: reranker.instruction: unknown instruction 'qwn'; did you mean 'qwen'?"),
    ],
)
def test_a_mistake_in_a_file_of_one_s_own_is_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], setting: str, expected: str
) -> None:
    (project / "bad.yaml").write_text("taks: {tools: Find the tool.}\n")
    (project / "strict.yaml").write_text("otherwise: error\ntasks: {hammers: Find the hammer.}\n")
    assert evaluate(*TOOLS, "--set", setting) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert not (project / "results" / "runs").exists()
