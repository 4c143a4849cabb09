"""`inspect` as a user calls it, on a small BEIR folder and an embedded task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rerank_eval.cli import _run
from tests.pipeline.folders import configs_with_random_weights, write_beir_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspection")
    configs_with_random_weights(folder)
    write_beir_folder(folder / "tools")
    arguments = ["eval", "--config", "configs/base.yaml", "--task", "./tools", "--task", "PyInstructionRetrieval"]
    arguments += ["--set", "retriever.model=bm25", "--set", "retriever.top_k=10", "--set", "reranker.max_length=256"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert _run(arguments) == 0
    return folder


@pytest.fixture
def project(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    return finished


def inspected(*arguments: str) -> dict[str, Any]:
    assert _run(["inspect", *arguments, "--json", "out.json"]) == 0
    found: dict[str, Any] = json.loads(Path("out.json").read_text())["tasks"]
    return found


def frame(project: Path, model: str, name: str, file: str) -> pd.DataFrame:
    (path,) = (project / "results" / "runs").glob(f"{model}/*/{name}/{file}.parquet")
    return pd.read_parquet(path)


def test_the_worst_queries_are_those_that_lost_most(project: Path) -> None:
    rows = inspected("Qwen3-random (demo)", "--task", "./tools", "--worst", "3")["tools"]
    own = frame(project, "Qwen3*", "tools", "per_query")
    lost = (own["oracle_ndcg_at_10"] - own["ndcg_at_10"]).sort_values(ascending=False).tolist()
    assert [row["lost"] for row in rows] == pytest.approx(lost[:3])
    assert all(row["text"] for row in rows)


def test_one_query_with_ranks_before_and_after(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = (frame(project, model, "tools", "scores") for model in ("BM25", "Qwen3*"))
    query = after["query_id"].iloc[0]
    row = inspected("Qwen3-random (demo)", "--task", "./tools", "--query", query, "--render", "2")["tools"]
    expected = dict(zip(*(before[before["query_id"] == query][name] for name in ("doc_id", "rank")), strict=True))
    assert {one["doc_id"]: one["before"] for one in row["candidates"]} == expected
    assert [one["rank"] for one in row["candidates"]] == list(range(1, len(expected) + 1))
    second = row["candidates"][1]
    assert second["text"] in row["prompt"]["text"]
    assert f"<Instruct>: {row['instruction']}\n" in row["prompt"]["text"]
    assert "<Query>: " + row["text"] in row["prompt"]["text"]
    assert f"tokens: {row['prompt']['tokens']}" in capsys.readouterr().out


def test_a_query_s_own_instruction_is_shown(project: Path) -> None:
    own = frame(project, "Qwen3*", "PyInstructionRetrieval", "scores")
    query = own["query_id"].iloc[0]
    (row,) = inspected("Qwen3-random (demo)", "--query", query).values()
    from rerank_eval.tasks.embedded import EMBEDDED

    content = EMBEDDED["PyInstructionRetrieval"].content("small", "test")
    assert row["instruction"] == content.instructions[query]
    assert {one["doc_id"] for one in row["candidates"] if one["relevance"]} <= set(content.qrels[query])


def test_what_retrieval_missed(project: Path) -> None:
    rows = inspected("BM25", "--task", "./tools", "--missed")["tools"]
    delivered = frame(project, "BM25", "tools", "scores").groupby("query_id")["doc_id"].agg(set)
    for row in rows:
        assert row["missed"]
        assert not set(row["missed"]) & delivered[row["query_id"]]
    own = frame(project, "BM25", "tools", "per_query")
    assert sum(len(row["missed"]) for row in rows) == sum(
        round(one["n_relevant"] * (1 - one["recall_at_100"])) for one in own.to_dict("records")
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["Qwen"], "no config, file, identity or model"),
        (["BM25", "--task", "tolls"], "--task 'tolls': not in this run; did you mean 'tools'?"),
        (["BM25", "--task", "./tools", "--query", "nobody"], "--query 'nobody': not in tools"),
        (["BM25", "--query", "nobody"], "--query 'nobody': in 0 tasks of this run"),
        (["BM25", "--task", "tools", "--missed"], "tools was read from a folder; name it, as --task path/to/tools"),
    ],
)
def test_mistakes_are_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    if arguments[-1] == "--missed":
        (project / "elsewhere").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        if arguments[-1] == "--missed":
            patch.chdir(project / "elsewhere")
            arguments = [*arguments, "--results", str(project / "results")]
        assert _run(["inspect", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1


def test_a_retriever_s_prompt_cannot_be_rendered(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = frame(project, "BM25", "tools", "scores")["query_id"].iloc[0]
    assert _run(["inspect", "BM25", "--task", "./tools", "--query", query, "--render", "1"]) == 2
    assert "it is for causal rerankers" in capsys.readouterr().err
