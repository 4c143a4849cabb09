from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rerank_eval.errors import ConfigError
from rerank_eval.reproduce import published as module
from rerank_eval.shipped import evals_root
from tests.analysis.published_files import make_rules

CARD = """
Qwen3-Embedding-0.6B | 61.82 | 71.02 | 64.64 | 50.26 | 75.41 | 5.09
Jina-multilingual-reranker-v2-base | 58.22 | 63.37 | 63.73 | 39.66 | 58.98 | -0.68
gte-multilingual-reranker-base | 59.51 | 74.08 | 59.44 | 66.33 | 54.18 | -1.64
BGE-reranker-v2-m3 | 57.03 | 72.16 | 58.36 | 59.51 | 41.38 | -0.01
Qwen3-Reranker-0.6B | 65.80 | 71.31 | 66.36 | 67.28 | 73.42 | 5.41
Qwen3-Reranker-4B | 69.76 | 75.94 | 72.74 | 69.97 | 81.20 | 14.84
Qwen3-Reranker-8B | 69.02 | 77.45 | 72.94 | 70.19 | 81.22 | 8.05
"""
SUITES = ("MTEB-R", "CMTEB-R", "MMTEB-R", "MLDR", "MTEB-Code", "FollowIR")


def test_the_42_cells_are_the_cards() -> None:
    table = module.load_published()
    rows = [line.split(" | ") for line in CARD.strip().splitlines()]
    assert table.suites == SUITES
    assert [model.name for model in table.models] == [row[0] for row in rows]
    for model, (_, *scores) in zip(table.models, rows, strict=True):
        assert [model.scores[suite] for suite in SUITES] == [float(score) for score in scores]


def test_the_retrievers_tasks_average_to_its_row_but_for_the_cut_after_two_decimals() -> None:
    rules = make_rules()
    row = rules.published.models[0]
    for suite in set(SUITES) - {"MLDR"}:
        scores = [rules.per_task.tasks[task.name].main_score for task in rules.suites[suite].tasks]
        mean = 100 * sum(scores) / len(scores)
        assert row.scores[suite] == pytest.approx(int(mean * 100) / 100), suite


def test_the_published_cells_are_all_that_count_save_for_mldr() -> None:
    rules = make_rules()
    for name, task in rules.tasks(SUITES).items():
        known, whole = rules.per_task.tasks[name], len(task.splits) * task.subsets
        assert known.cells == (2 if name == "MultiLongDocRetrieval" else whole)
        assert sum(map(len, known.scores.values())) == (2 if known.cells < whole else 0)


def _card(folder: Path) -> Path:
    return folder / "published" / "model-card.yaml"


def _change(**changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = yaml.safe_load(_card(folder).read_text()) | changes
        _card(folder).write_text(yaml.safe_dump(content))

    return apply


def _score(value: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = yaml.safe_load(_card(folder).read_text())
        content["models"][1]["scores"]["MLDR"] = value
        _card(folder).write_text(yaml.safe_dump(content))

    return apply


def _task(**changes: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "published" / "qwen3-embedding-0.6b.json"
        content = json.loads(path.read_text())
        content["tasks"]["ArguAna"] |= changes
        path.write_text(json.dumps(content))

    return apply


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_change(models=[]), "model-card.yaml: models: "),
        (_change(unknown=1), "model-card.yaml: unknown: "),
        (_change(retriever="a/b"), "exactly one retriever, a/b"),
        (_change(suites=["MTEB-R"]), "needs exactly MTEB-R"),
        (_score(".nan"), "model-card.yaml: models.1.scores.MLDR: "),
        (_score(float("nan")), "model-card.yaml: models.1.scores.MLDR: "),
        (_score(5026), "beyond the scale of 100"),
        (lambda folder: _card(folder).write_text("a: [1"), "model-card.yaml: line "),
        (lambda folder: _card(folder).unlink(), "model-card.yaml: no such config file"),
        (_task(main_score=70.9), "qwen3-embedding-0.6b.json: tasks.ArguAna.main_score: "),
    ],
)
def test_a_malformed_file_names_file_and_key_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], words: str
) -> None:
    shutil.copytree(evals_root(), tmp_path / "evals")
    damage(tmp_path / "evals")
    monkeypatch.setenv("RERANK_EVAL_EVALS", str(tmp_path / "evals"))
    with pytest.raises(ConfigError) as caught:
        make_rules()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
