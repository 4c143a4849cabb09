"""`rerank-eval verify`: a number either follows from its files or is told not to."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rerank_eval.analysis import render, tables
from rerank_eval.cli import _run
from rerank_eval.reproduce.mteb_results import read_results
from rerank_eval.results.manifest import file_digest, seal_of
from rerank_eval.results.records import load_manifests
from tests.pipeline.folders import configs_with_random_weights, write_beir_folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with results of BM25 and of random weights, whose numbers are no round ones."""
    folder = tmp_path_factory.mktemp("verify")
    configs_with_random_weights(folder)
    write_beir_folder(folder / "data" / "tools")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        chosen = ("--set", "retriever.model=bm25", "--set", "retriever.top_k=10")
        assert _run(["eval", "--config", "configs/base.yaml", "--task", "data/tools", *chosen]) == 0
    return folder


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A copy of its results to spoil."""
    shutil.copytree(finished / "results", tmp_path / "results", ignore=shutil.ignore_patterns(".lock"))
    return tmp_path / "results"


def test_p_mrr_follows_although_mteb_files_fewer_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(__file__).parents[2] / "configs", "configs")
    arguments = ["eval", "--task", "PyInstructionRetrieval", "--set", "retriever.model=bm25", "--set", "reranker=null"]
    assert _run([*arguments, "--config", "configs/base.yaml"]) == 0
    assert _run(["verify"]) == 0


def verify(results: Path, *arguments: str) -> int:
    return _run(["verify", *arguments, "--results", str(results)])


def reranked(results: Path) -> Path:
    return next(results.glob("runs/Qwen3*/*/tools"))


def edit(path: Path, **changes: Any) -> None:
    """Change a manifest as a careful forger would, who seals it again."""
    manifest = json.loads(path.read_text())
    for key, value in changes.items():
        manifest[key] = {**manifest[key], **value}
    path.write_text(json.dumps({**manifest, "seal": seal_of(manifest)}))


def test_untouched_results_follow(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(results) == 0
    printed = capsys.readouterr().out
    assert printed.count("follows from its files") == 2
    assert "leaderboard.csv: follows from the manifests" in printed
    assert "2 result(s) follow from their files" in printed
    assert "FAULT" not in printed


def test_one_altered_byte_anywhere_is_found(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [path for path in results.rglob("*") if path.is_file()]
    spoilt = [
        path
        for path in files
        if path.suffix in {".parquet", ".trec", ".json", ".csv", ".md", ".tex", ".html"}
        and path.name not in {"identity.json", "model_meta.json"}
    ]
    assert len(spoilt) >= 15
    for path in spoilt:
        whole = path.read_bytes()
        for place in (len(whole) // 3, len(whole) - 9):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert verify(results) == 10, (path, place)
            assert "FAULT" in capsys.readouterr().out
        path.write_bytes(whole)
    assert verify(results) == 0


@pytest.mark.parametrize("suffix", ["md", "csv", "tex", "html"])
def test_a_number_altered_in_any_leaderboard_is_found(
    results: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = results / f"leaderboard.{suffix}"
    number = json.loads((reranked(results) / "manifest.json").read_text())["scores"]["main"] * 100
    content = path.read_text()
    altered = content.replace(f"{number:.2f}", f"{number + 10:.2f}")
    assert altered != content
    path.write_text(altered)
    assert verify(results) == 10
    assert f"FAULT: {path} is not what these results give" in capsys.readouterr().out


def test_a_table_of_data_that_came_back_follows(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run on the old data finds done makes its table, though results on other data are newer."""
    folder = finished.parent / "came-back"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    corpus = folder / "data" / "tools" / "corpus.jsonl"
    old = corpus.read_text()

    def evaluate(top_k: int) -> None:
        chosen = ("--set", "retriever.model=bm25", "--set", f"retriever.top_k={top_k}")
        assert _run(["eval", "--config", "configs/base.yaml", "--task", "data/tools", *chosen]) == 0

    last = old.splitlines()[-1]
    corpus.write_text(old.replace(last, last.replace('"text": "', '"text": "new ')))
    assert corpus.read_text() != old
    evaluate(9)
    corpus.write_text(old)
    evaluate(10)
    assert verify(folder / "results") == 0


def test_data_that_were_numbered_anew_follow(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A query that goes moves all the others up; their scores are the store's, under the ids of before."""
    folder = finished.parent / "numbered-anew"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    queries = folder / "data" / "tools" / "queries.jsonl"
    rows = [json.loads(line) for line in queries.read_text().splitlines()]
    texts = [row["text"] for row in rows]
    rows = [row | {"text": text} for row, text in zip(rows, texts[1:] + texts[:1], strict=True)]
    queries.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = ("--set", "retriever.model=bm25", "--set", "retriever.top_k=10")
    assert _run(["eval", "--config", "configs/base.yaml", "--task", "data/tools", *chosen]) == 0
    capsys.readouterr()
    assert verify(folder / "results") == 0
    assert "pairs stand in the score cache under other ids" in capsys.readouterr().out


def test_a_forged_number_with_a_new_seal_is_found(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = reranked(results) / "manifest.json"
    scores = json.loads(manifest.read_text())["scores"]
    edit(manifest, scores={"main": scores["main"] + 0.05, "ndcg_at_10": scores["ndcg_at_10"] + 0.05})
    assert verify(results) == 10
    printed = capsys.readouterr().out
    assert "ndcg_at_10 comes to" in printed
    assert "the manifest's ndcg_at_10 do not follow from per_query.parquet" in printed


def test_forged_scores_with_new_digests_meet_the_score_store(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All digests made anew, every metric consistent: the store still knows what the model said."""
    from rerank_eval.metrics.compute import PAIRS, PER_QUERY
    from rerank_eval.results.verification import _judged_again

    folder = reranked(results)
    frame = pd.read_parquet(folder / PAIRS)
    frame["score"] += (frame["relevance"] > 0) * 100.0
    frame = frame.sort_values("score", ascending=False, kind="stable")
    frame["rank"] = frame.groupby("query_id").cumcount() + 1
    order = {query: number for number, query in enumerate(pd.read_parquet(folder / PAIRS)["query_id"].unique())}
    frame = frame.assign(_q=frame["query_id"].map(order)).sort_values(["_q", "rank"]).drop(columns="_q")
    frame.to_parquet(folder / PAIRS, index=False)
    judged = _judged_again(folder)
    judged.per_query.to_parquet(folder / PER_QUERY, index=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {name: file_digest(folder / name) for name in manifest["files"]}
    main = judged.summary["ndcg_at_10"]
    manifest |= {"files": files, "digest": judged.digest}
    manifest["scores"] |= {**judged.summary, "main": main}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "seal": seal_of(manifest)}))
    assert verify(results) == 10
    assert "the score cache has another score for" in capsys.readouterr().out


def test_missing_and_foreign_files_are_told(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = reranked(results)
    (folder / "qrels.parquet").unlink()
    (folder / "notes.parquet").write_text("not of ours")
    assert verify(results) == 10
    printed = capsys.readouterr().out
    assert "qrels.parquet is missing" in printed
    assert "notes.parquet is not of this result" in printed


def test_changed_candidates_are_told(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = next(results.glob("runs/BM25/*/tools/manifest.json"))
    manifest = json.loads(first.read_text())
    manifest["digest"] = "0" * 16
    first.write_text(json.dumps({**manifest, "seal": seal_of(manifest)}))
    assert verify(results, reranked(results).parent.name) == 10
    assert "its candidates are no longer those that stand here" in capsys.readouterr().out


def test_candidates_that_were_left_out_are_told(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer candidates make a better number: an irrelevant one that is not there cannot stand first."""
    folder = next(results.glob("runs/BM25/*/tools"))
    frame = pd.read_parquet(folder / "scores.parquet")
    more = frame.head(1).assign(doc_id="another", rank=99)
    pd.concat([frame, more]).to_parquet(folder / "scores.parquet", index=False)
    assert verify(results, reranked(results).parent.name) == 10
    assert "1 candidates are not among its pairs" in capsys.readouterr().out


def test_a_path_that_leads_out_is_not_followed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = reranked(results) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["mteb_result"] = "../../../etc/passwd"
    path.write_text(json.dumps({**manifest, "seal": seal_of(manifest)}))
    assert verify(results) == 10
    assert "leads out of the results folder" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"schema": 1}', '{"task": 3, "row": []}'])
def test_a_broken_manifest_is_a_fault_and_no_traceback(results: Path, content: str) -> None:
    (reranked(results) / "manifest.json").write_text(content)
    assert verify(results) == 10


def test_names_that_are_not_there(results: Path) -> None:
    assert verify(results, "nothing-of-that-name") == 2
    assert verify(results, "--task", "Tols") == 2
    assert verify(results / "none") == 2


def as_older_releases_wrote(results: Path) -> None:
    """Take main scores from mteb, rounded to five digits, in manifests and tables; nothing said that they were."""
    for path in results.glob("runs/*/*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        cells = [{key: one[key] for key in ("subset", "split", "n_queries")} for one in manifest["scores"]["cells"]]
        for cell, own in zip(cells, manifest["scores"]["cells"], strict=True):
            cell["main"] = own["mteb"]
        manifest["scores"] |= {"cells": cells, "main": sum(cell["main"] for cell in cells) / len(cells)}
        path.write_text(json.dumps({**manifest, "seal": seal_of(manifest)}))
    records = load_manifests(results)
    board = tables.leaderboard([replace(one, main=one.written) for one in records], {})
    for path, text in render.render_all(board, results).items():
        path.write_text(text)


def test_results_of_older_releases_follow(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_older_releases_wrote(results)
    exact = json.loads((reranked(results) / "manifest.json").read_text())["scores"]
    assert exact["main"] != exact["ndcg_at_10"]
    assert verify(results) == 0
    assert "FAULT" not in capsys.readouterr().out
    assert [one.main for one in load_manifests(results) if one.kind == "reranker"] == [exact["ndcg_at_10"]]
    manifest = reranked(results) / "manifest.json"
    edit(manifest, scores={"main": exact["main"] + 1e-4})
    assert verify(results) == 10


def test_a_number_is_checked_to_its_last_digit(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mteb's five digits would let through what moves a rounded number."""
    manifest = reranked(results) / "manifest.json"
    scores = json.loads(manifest.read_text())["scores"]
    assert scores["main"] == scores["ndcg_at_10"] == scores["cells"][0]["main"] != scores["cells"][0]["mteb"]
    near = scores["main"] + 1e-9
    edit(manifest, scores={"main": near, "cells": [{**scores["cells"][0], "main": near}]})
    assert verify(results) == 10
    assert "ndcg_at_10 comes to" in capsys.readouterr().out


def test_mteb_files_of_another_model_are_told(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mteb = results / json.loads((reranked(results) / "manifest.json").read_text())["mteb_result"]
    meta = mteb.with_name("model_meta.json")
    meta.write_text(meta.read_text().replace('"name": "', '"name": "other/'))
    assert verify(results) == 10
    assert "names another model or revision than the manifest" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["task", "row", "model", "runs", "results", "mteb"])
def test_any_folder_of_a_result_will_do(results: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    task = reranked(results)
    folders = {"task": task, "row": task.parent, "model": task.parents[1], "runs": results / "runs", "results": results}
    count = 1 if name in {"task", "row", "model"} else 2
    assert _run(["verify", str(folders.get(name, results / "mteb"))]) == 0
    assert f"{count} result(s) follow" in capsys.readouterr().out


def test_any_file_of_a_result_will_do(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = reranked(results)
    mteb = results / json.loads((folder / "manifest.json").read_text())["mteb_result"]
    own = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    beside = [path for path in mteb.parent.iterdir() if path.is_file()]
    assert len(own) >= 5
    assert {"model_meta.json", mteb.name} <= {path.name for path in beside}
    for path in (*own, *beside):
        assert _run(["verify", str(path)]) == 0, path
        printed = capsys.readouterr().out
        assert f"{folder}: " in printed
        assert "1 result(s) follow" in printed
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text()[:99])
    assert _run(["verify", str(folder / "scores.parquet")]) == 10  # whatever state it is in


def test_a_leaderboard_is_verified_with_its_results(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = results / "leaderboard.md"
    assert _run(["verify", str(board)]) == 0
    assert f"{board}: follows from the manifests" in capsys.readouterr().out
    board.write_text(board.read_text() + "\n")
    assert _run(["verify", str(board)]) == 10
    assert "the leaderboard does not follow from its results" in capsys.readouterr().err


def test_what_belongs_to_no_result_is_told(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = results.parent / "ours.trec"
    other.write_bytes((reranked(results) / "default.test.trec").read_bytes())
    (reranked(results) / "theirs.csv").write_text("of somebody else's")
    for path in (other, reranked(results) / "theirs.csv", results / "scores"):
        assert _run(["verify", str(path)]) == 2
        error = capsys.readouterr().err
        assert f"{path}: belongs to no result; verify takes identities" in error
        assert "--qrels" not in error
    for command in ("inspect", "report"):
        assert _run([command, str(other)]) == 2
        assert "--" not in capsys.readouterr().err.replace(str(other), "")
    assert _run(["verify", str(results / "gone.json")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_inspect_takes_a_file_of_a_result(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = reranked(results)
    mteb = results / json.loads((folder / "manifest.json").read_text())["mteb_result"]
    for path in (folder, folder / "per_query.parquet", mteb):
        assert _run(["inspect", str(path)]) == 0
        assert capsys.readouterr().out.startswith(folder.parent.name)


@pytest.mark.parametrize("older", [False, True])
def test_numbers_of_our_own_are_reproduced_unrounded(results: Path, older: bool) -> None:
    """What is rounded twice may be off by a digit: from mteb's file, 64.4045 would be 64.405, and 64.41."""
    if older:
        as_older_releases_wrote(results)
    manifest = json.loads((reranked(results) / "manifest.json").read_text())
    model = Path(manifest["mteb_result"]).parts[2].replace("__", "/")
    [experiment] = read_results(results, [model], {"tools": "ndcg_at_10"}).experiments
    assert list(experiment.files["tools"].cells.values()) == [manifest["scores"]["ndcg_at_10"]]
    (results / "runs").rename(results / "gone")  # in mteb's layout alone
    [experiment] = read_results(results, [model], {"tools": "ndcg_at_10"}).experiments
    assert list(experiment.files["tools"].cells.values()) == [round(manifest["scores"]["ndcg_at_10"], 5)]
