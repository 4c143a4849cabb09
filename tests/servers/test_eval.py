"""A server's reranker from the command line to the leaderboard: resumed, kept apart, guarded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerank_eval.cli import _run
from rerank_eval.results.manifest import Manifest
from rerank_eval.servers import client
from tests.pipeline.folders import write_beir_folder
from tests.servers.stand_in import StandIn, overlap

TOP_K, QUERIES = 20, 12
TEMPLATE = StandIn.template


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_beir_folder(tmp_path / "tools", queries=QUERIES)
    (tmp_path / "run.yaml").write_text(
        f"tasks: [tools]\nretriever: {{model: bm25, top_k: {TOP_K}}}\nreranker: {{model: bm25}}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client, "BACKOFF", 0.01)
    return tmp_path


def evaluate(server: StandIn, *settings: str, command: str = "eval") -> int:
    path = Path("run.yaml")
    path.write_text(
        f"tasks: [./tools]\nretriever: {{model: bm25, top_k: {TOP_K}}}\nreranker: {{model: '{server.url}'}}\n"
    )
    arguments = [command, "--config", "run.yaml"]
    return _run([*arguments, *(part for one in settings for part in ("--set", one))])


def manifests(folder: Path) -> list[Manifest]:
    found = [Manifest.read(path) for path in sorted(folder.glob("results/runs/*/*/tools/manifest.json"))]
    return [one for one in found if one.row.kind == "reranker"]


def pairs(server: StandIn) -> int:
    """Pairs of the task that were asked for: known pairs come in threes and ones."""
    return sum(len(body["documents"]) for _, body in server.requests if len(body["documents"]) > 3)


def test_a_run_over_http_ends_with_a_leaderboard(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with StandIn("vllm") as server:
        assert evaluate(server) == 0
        output = capfd.readouterr().out
        assert pairs(server) == QUERIES * TOP_K
        assert evaluate(server) == 0
        assert pairs(server) == QUERIES * TOP_K
    [one] = manifests(project)
    reranker = one.settings
    assert (reranker["api"], reranker["served_model"], reranker["server"]) == ("vllm-rerank", "demo", "vllm 0.32.0")
    assert reranker["template"] == "the server's"
    assert one.environment.computed_on == ["vllm 0.32.0"]
    work = one.timings.work
    assert {"latency_p50", "latency_p99", "retries", "served_tokens", "concurrency"} <= work.keys()
    assert 0 < work["latency_p50"] <= work["latency_p99"]
    assert "pairs/s, a query in" in output
    assert "demo (vllm)" in output


def test_every_command_that_reads_results_reads_a_servers(project: Path) -> None:
    with StandIn("vllm") as server:
        assert evaluate(server) == 0
    for command in ("leaderboard", "report", "runs", "verify"):
        assert _run([command, "--results", "results"]) == 0, command


def test_a_run_goes_on_where_the_server_died(
    project: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TRIES", 2)
    with StandIn("vllm") as server:
        server.refuse_on = "nothing yet"
        asked = server.post

        def dies(path: str, body: dict[str, Any]) -> tuple[int, Any]:
            if pairs(server) > 5 * TOP_K:
                server.drop_every = 1  # from now on each connection is closed
            return asked(path, body)

        monkeypatch.setattr(server, "post", dies)
        assert evaluate(server, "reranker.concurrency=2") == 11
        error = capfd.readouterr().err
        first = pairs(server)
    assert "what was scored is kept" in error
    assert "at query" in error
    assert 5 * TOP_K <= first < QUERIES * TOP_K
    with StandIn("vllm") as again:
        assert evaluate(again, "reranker.concurrency=2") == 0
        assert pairs(again) == QUERIES * TOP_K - first  # all that was answered is kept
    with StandIn("vllm") as whole:
        assert evaluate(whole, "results_dir=whole") == 0
    broken, unbroken = (
        next(iter(project.glob(f"{name}/runs/demo*/*/tools/default.test.trec"))) for name in ("results", "whole")
    )
    assert broken.read_bytes() == unbroken.read_bytes()


def test_another_model_in_mid_run_is_refused_and_leaves_nothing(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with StandIn("vllm", restart_at=16) as server:
        assert evaluate(server, "reranker.concurrency=1") == 4
        assert 0 < pairs(server) < QUERIES * TOP_K
        assert "was started anew and scores known pairs otherwise" in " ".join(capfd.readouterr().err.split())
    with StandIn("vllm") as again:
        assert evaluate(again, "reranker.concurrency=2") == 0
    with StandIn("vllm") as whole:
        assert evaluate(whole, "results_dir=whole") == 0
    runs = (next(project.glob(f"{name}/runs/demo*/*/tools/default.test.trec")) for name in ("results", "whole"))
    assert len({run.read_bytes() for run in runs}) == 1


def test_a_query_that_always_fails_is_named_and_the_others_stay(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with StandIn("vllm") as server:
        server.refuse_on = "number 7"
        assert evaluate(server) == 4
    error = capfd.readouterr().err
    assert "number 7'" in error
    assert "this text is refused" in error
    with StandIn("vllm") as again:
        assert evaluate(again) == 0
        assert pairs(again) < QUERIES * TOP_K / 2


def test_servers_that_answer_otherwise_are_kept_apart(project: Path) -> None:
    twice = {"template": TEMPLATE.replace("{instruction}", "{instruction}{instruction}")}  # the same without one
    for settings in ({}, {"version": "0.33.0"}, {"template": TEMPLATE + "!"}, {"name": "other"}, twice):
        with StandIn("vllm", **settings) as server:
            assert evaluate(server) == 0
            assert pairs(server) == QUERIES * TOP_K
    assert len({one.identity.digest for one in manifests(project)}) == 5


def test_another_model_behind_the_same_name_is_refused(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with StandIn("vllm") as server:
        assert evaluate(server) == 0
        (project / "tools" / "queries.jsonl").write_text(
            (project / "tools" / "queries.jsonl").read_text().replace("which tool can", "what can")
        )
        server.score = lambda query, document: -overlap(query, document)
        assert evaluate(server) == 4
        assert "it has another model, template or activation now; set reranker.revision" in capfd.readouterr().err
        assert evaluate(server, "reranker.revision=reversed") == 0
        server.score = lambda query, document: -overlap(query, document) * 1.01  # another dtype, say
        (project / "tools" / "queries.jsonl").write_text(
            (project / "tools" / "queries.jsonl").read_text().replace("what can", "what does")
        )
        assert evaluate(server, "reranker.revision=reversed") == 0
    said = capfd.readouterr()
    assert "have moved by up to" in " ".join((said.out + said.err).split())


def test_what_is_done_is_not_taken_for_another_models(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with StandIn("vllm") as server:
        assert evaluate(server) == 0
        assert evaluate(server) == 0
        server.score = lambda query, document: -overlap(query, document)
        assert evaluate(server) == 4
        assert "it has another model, template or activation now" in capfd.readouterr().err
        assert evaluate(server, "reranker.revision=reversed") == 0
    assert len(manifests(project)) == 2


def test_a_key_reaches_no_file(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RERANK_TEST_KEY", "sk-hunter2")
    with StandIn("vllm", key="sk-hunter2") as server:
        assert evaluate(server, "reranker.key=$RERANK_TEST_KEY") == 0
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-hunter2"}
        server.key = "sk-hunter2-changed"
        assert evaluate(server, "reranker.key=$RERANK_TEST_KEY") == 11
    output = capfd.readouterr()
    assert "sk-hunter2" not in output.out + output.err
    files = [path for path in project.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if b"hunter2" in path.read_bytes()]


def test_prompts_that_are_rendered_here_are_whole(project: Path) -> None:
    with StandIn("vllm", template=None, score=lambda _, prompt: overlap("hammer nails", prompt)) as server:
        assert (
            evaluate(server, "reranker.api=vllm-score", "reranker.recipe=card", "reranker.instruction=Find the tool")
            == 0
        )
        bodies = [body for path, body in server.requests if path == "/score" and len(body["text_2"]) > 3]
    assert len(bodies) == QUERIES
    for body in bodies:
        assert body["text_1"] == ""
        for prompt in body["text_2"]:
            assert prompt.startswith("<|im_start|>system\n")
            assert "<Instruct>: Find the tool\n<Query>: which tool can" in prompt
            assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    [one] = manifests(project)
    assert one.settings["recipe"] == "card"
    assert "template" not in one.settings


def test_what_the_server_would_refuse_is_cut_here_and_counted(project: Path) -> None:
    corpus = project / "tools" / "corpus.jsonl"
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    for row in rows[::3]:
        row["text"] += " and so on" * 300
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with StandIn("vllm") as server:
        assert evaluate(server, "reranker.checkpoint=demo:qwen3-python") == 0
        longest = max(len(text) for _, body in server.requests for text in body["documents"])
    [one] = manifests(project)
    assert one.truncation.pairs > 0
    assert longest < 300 * len(" and so on")
    assert one.counts["prompt_tokens"] > 0
    assert any("its template is not that recipe" in note for note in one.row.notes)  # the stand-in's


def test_plan_measures_the_server(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with StandIn("vllm", delay=0.05) as server:
        assert evaluate(server, "reranker.concurrency=4", command="plan") == 0
    output = " ".join(capfd.readouterr().out.split())
    assert "measured now, " in output
    # 20 documents in 50 ms, four at a time
    rate = float(output.partition("measured now, ")[2].partition(" pairs/s")[0].replace(",", ""))
    assert 300 < rate < 4 * TOP_K / 0.05


def test_plan_names_a_server_that_refuses_the_texts(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with StandIn("tei", refuse_on="Beijing") as server:
        assert evaluate(server, command="plan") == 4
    assert "this text is refused" in capfd.readouterr().err


def test_the_doctor_asks_the_server_known_pairs(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with StandIn("vllm") as server:
        assert evaluate(server, command="doctor") in {0, 9}
        output = capfd.readouterr().out
        assert "pairs as expected (by the server in" in output
        assert evaluate(server, "reranker.served_model=x", command="doctor") == 9
        assert "has no model 'x'" in capfd.readouterr().out


def test_a_server_that_is_not_there_is_one_line(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with StandIn("vllm") as server:
        pass
    assert evaluate(server) == 11
    error = capfd.readouterr().err
    assert "cannot be reached" in error
    assert "Traceback" not in error
