"""The published tables beside the model card's: what they hold, and how much less strictly they are judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from rerank_eval.cli import _run
from rerank_eval.errors import ConfigError, ReproductionError
from rerank_eval.reproduce.published import LOOSE, Published, load_per_task, load_published, published_names
from rerank_eval.shipped import evals_root
from rerank_eval.tasks.suites import SuiteTask, load_suites
from tests.analysis.published_files import write_task

PAPER = {
    "jina-embeddings-v3": (55.81, 58.90, 73.94),
    "Qwen3-Reranker-0.6B": (56.28, 57.70, 65.18),
    "Qwen3-Reranker-4B": (61.16, 67.52, 73.91),
    "bge-reranker-v2-m3": (56.51, 69.32, 36.28),
}
ETTIN = {
    "Qwen3-Reranker-4B": 63.67,
    "mxbai-rerank-large-v2": 61.15,
    "Qwen3-Reranker-0.6B": 59.40,
    "bge-reranker-v2-m3": 55.26,
    "zerank-2": 53.00,
}


@pytest.fixture(autouse=True)
def _anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scores_of(task: SuiteTask, score: float) -> dict[str, dict[str, float]]:
    return {split: dict.fromkeys(task.subset_names, score) for split in task.splits}


def write_suite(folder: Path, suite: str, score: float) -> None:
    """Write every task of a suite with one score, and a mean over tasks as its members."""
    for task in load_suites()[suite].tasks:
        for name in task.members or (task.name,):
            write_task(folder, name, scores_of(task, score))


def judged(stem: str) -> dict[tuple[str, str], dict[str, Any]]:
    cells = json.loads(Path(f"results/{stem}.json").read_text())["cells"]
    return {(cell["model"], cell["name"]): cell for cell in cells}


def test_the_numbers_are_those_of_the_paper_and_the_blog() -> None:
    paper, blog = load_published("jina-reranker-v3"), load_published("ettin")
    assert {model.name: tuple(model.scores.values()) for model in paper.models} == PAPER
    assert all(tuple(model.scores) == ("BEIR", "MIRACL", "CoIR") for model in paper.models)
    assert {model.name: model.scores["MTEB-R"] for model in blog.models} == ETTIN
    assert set(published_names()) == {"model-card", "jina-reranker-v3", "ettin"}


def test_only_the_card_is_known_in_full() -> None:
    known = {name: load_published(name).known_in_full for name in published_names()}
    assert known == {"model-card": True, "jina-reranker-v3": False, "ettin": False}
    assert load_per_task(load_published("ettin"), "ettin") is None
    limits = load_published().tolerances
    assert limits is not None
    assert limits.close * max(one.points for one in limits.suites.values()) == LOOSE.points


def test_the_very_score_of_a_paper_is_close_and_far_from_it_is_off(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("clone/results/jinaai__jina-embeddings-v3/1")
    write_suite(folder, "BEIR", 0.5581)
    write_suite(folder, "CoIR", 0.7394 - 0.02)
    judge = ["reproduce", "--published", "jina-reranker-v3", "--only-judge", "--results", "clone"]
    assert _run(judge) == 0
    assert "12 cells: 2 close, 10 not run; close at best" in " ".join(capsys.readouterr().out.split())
    found = judged("reproduction-jina-reranker-v3")
    beir = found["jina-embeddings-v3", "BEIR"]
    assert (beir["verdict"], round(beir["ours"], 6), beir["tolerance"]) == ("close", 55.81, 3.0)
    assert any(note.startswith("tasks: which data sets") for note in beir["notes"])
    assert found["jina-embeddings-v3", "MIRACL"]["ours"] is None
    text = Path("results/reproduction-jina-reranker-v3.md").read_text()
    assert f"± 3: {LOOSE.reason}" in text
    write_suite(folder, "CoIR", 0.7394 - 0.031)
    assert _run(judge) == ReproductionError.exit_code
    assert "1 of 12 cells are off the published numbers: jina-embeddings-v3 on CoIR" in capsys.readouterr().err


def test_a_mean_over_tasks_needs_all_of_them_and_mteb_s_own_file_comes_first() -> None:
    folder = Path("clone/results/jinaai__jina-embeddings-v3/1")
    write_suite(folder, "BEIR", 0.5)
    [whole] = [task for task in load_suites()["BEIR"].tasks if task.members]
    for number, name in enumerate(whole.members):
        write_task(folder, name, scores_of(whole, 0.5 + number / 100))
    judge = ["reproduce", "--published", "jina-reranker-v3", "--only-judge", "--results", "clone", "--suite", "BEIR"]
    cell = ("jina-embeddings-v3", "BEIR")
    _run(judge)
    mean = 0.5 + sum(range(12)) / 12 / 100
    assert judged("reproduction-jina-reranker-v3")[cell]["ours"] == pytest.approx(100 * (14 * 0.5 + mean) / 15)
    (folder / f"{whole.members[3]}.json").unlink()
    assert _run(judge) == 0
    found = judged("reproduction-jina-reranker-v3")[cell]
    assert (found["verdict"], found["ours"]) == ("incomplete", None)
    assert found["missing"] == ["no result of CQADupstackRetrieval (1 of 15 tasks)"]
    write_task(folder, whole.name, scores_of(whole, 0.8))
    _run(judge)
    assert judged("reproduction-jina-reranker-v3")[cell]["ours"] == pytest.approx(100 * (14 * 0.5 + 0.8) / 15)


@pytest.mark.parametrize("score", [0.6367, 0.1])
def test_a_mean_over_retrievers_is_shown_beside_a_run_and_judges_nothing(
    score: float, capsys: pytest.CaptureFixture[str]
) -> None:
    write_suite(Path("clone/results/Qwen__Qwen3-Reranker-4B/1"), "MTEB-R", score)
    row = ["reproduce", "--published", "ettin", "--model", "qwen3-reranker-4b"]
    assert _run([*row, "--only-judge", "--strict", "--results", "clone"]) == 0
    assert "1 cells: 1 beside; beside: a mean over several" in " ".join(capsys.readouterr().out.split())
    [cell] = judged("reproduction-ettin").values()
    assert (cell["verdict"], cell["published"], cell["tolerance"]) == ("beside", 63.67, None)
    assert cell["difference"] == pytest.approx(100 * score - 63.67)
    assert any("published as a mean over several retrievers" in note for note in cell["notes"])
    assert _run([*row, "--config", "qwen3-4b"]) == 2
    assert "so no run reproduces them" in capsys.readouterr().err


def test_a_name_or_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["reproduce", "--published", "etin", "--only-judge"]) == 2
    error = capsys.readouterr().err
    assert "--published 'etin': no such table and no such file" in error
    assert "ettin" in error.partition("file;")[2]
    for name in ("model-card.yaml", "qwen3-embedding-0.6b.json"):
        shutil.copy(evals_root() / "published" / name, tmp_path)
    mine = load_published("./model-card.yaml")
    assert mine == load_published()
    assert load_per_task(mine, "./model-card.yaml") == load_per_task(load_published())
    (tmp_path / "qwen3-embedding-0.6b.json").unlink()
    with pytest.raises(ConfigError, match=r"qwen3-embedding-0\.6b\.json: cannot be read"):
        load_per_task(mine, "./model-card.yaml")


@pytest.mark.parametrize("key", ["recipe", "mteb", "per_task"])
def test_a_protocol_with_a_gap_is_close_at_best_within_its_own_tolerances(key: str, tmp_path: Path) -> None:
    shutil.copy(evals_root() / "published" / "qwen3-embedding-0.6b.json", tmp_path)
    content = yaml.safe_load((evals_root() / "published" / "model-card.yaml").read_text())
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "gap.yaml").write_text(yaml.safe_dump({name: content[name] for name in content if name != key}))
    write_suite(tmp_path / "clone/results/BAAI__bge-reranker-v2-m3/1", "CMTEB-R", 0.7216)
    for stem, verdict in (("whole", "reproduced"), ("gap", "close")):
        table = ["--published", f"{stem}.yaml", "--model", "BGE-reranker-v2-m3", "--suite", "CMTEB-R"]
        assert _run(["reproduce", *table, "--only-judge", "--results", "clone"]) == 0
        [cell] = judged(f"reproduction-{stem}").values()
        assert (cell["verdict"], cell["tolerance"]) == (verdict, 0.5)


def test_a_table_without_a_retriever_has_no_row_of_one() -> None:
    content = load_published("jina-reranker-v3").model_dump() | {"retriever": None}
    with pytest.raises(ValueError, match="retriever: is left out"):
        Published.model_validate(content)
