"""What the two stages do to a task's data before a model sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerank_eval.errors import DataError
from rerank_eval.pipeline import stages
from rerank_eval.tasks.candidates import drop_excluded, rules_of
from tests.models.test_retriever import SmallTask


def native() -> SmallTask:
    task = SmallTask()
    task.native = {"q1": ["q1", "d1", "d3"], "q2": ["d2"]}
    task.load_data()
    return task


def test_a_query_s_own_document_is_taken_from_native_candidates() -> None:
    task = native()
    task.metadata = task.metadata.model_copy(update={"type": "Reranking"})
    drop_excluded(task, rules_of(task, "auto", "drop"))
    assert task.dataset["default"]["test"]["top_ranked"] == {"q1": ["d1", "d3"], "q2": ["d2"]}


def test_judgements_of_queries_that_are_not_there_do_not_count() -> None:
    task = native()
    task.dataset["default"]["test"]["relevant_docs"]["nobody"] = {"d1": 1}
    assert set(stages.judgements(task)["default", "test"]) == {"q1", "q2"}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"mteb_model_meta": {}, "default": {}}),
        json.dumps({"mteb_model_meta": {}, "default": {"test": []}}),
    ],
)
def test_a_damaged_candidate_file_is_one_clear_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "SmallTask_predictions.json"
    path.write_text(content)
    with pytest.raises(
        DataError, match=r"not usable as candidates for SmallTask.*run again, and they are retrieved anew"
    ):
        stages._convert(SmallTask(), path, 10)
