from __future__ import annotations

import time
from typing import Any

import mteb
import pytest
from datasets import Dataset

from rerank_eval.errors import DataError, OfflineError
from rerank_eval.tasks import prepare
from tests.models.test_retriever import SmallTask


def test_hub_data_out_of_reach_is_told_at_once_with_the_command_to_fetch_it() -> None:
    task = mteb.get_task("SciFact")
    started = time.monotonic()
    with pytest.raises(OfflineError, match=r"SciFact \(mteb/scifact.*rerank-eval fetch --task SciFact --data-root DIR"):
        prepare.load(task)
    assert time.monotonic() - started < 20


def test_a_fingerprint_follows_data_and_not_loading() -> None:
    task = SmallTask()
    before = prepare.fingerprint(task)
    prepare.load(task)
    assert prepare.fingerprint(task) == before
    task.metadata = task.metadata.model_copy(update={"dataset": {"path": "local/small", "revision": "2"}})
    assert prepare.fingerprint(task) != before
    other = SmallTask()
    other.metadata = other.metadata.model_copy(update={"prompt": {"query": "another prompt"}})
    assert prepare.fingerprint(other) != before


def loaded(**changes: Any) -> SmallTask:
    task = SmallTask()
    task.load_data()
    task.dataset["default"]["test"].update(changes)
    return task


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpus": Dataset.from_dict({"id": [], "title": [], "text": []})}, "the corpus is empty"),
        ({"queries": Dataset.from_dict({"id": [], "text": []})}, "there are no queries"),
        ({"queries": Dataset.from_dict({"id": ["q1", "q1"], "text": ["a", "b"]})}, "query id 'q1' stands twice"),
        (
            {"corpus": Dataset.from_dict({"id": ["a", "a"], "title": ["", ""], "text": ["x", "y"]})},
            "document id 'a' stands twice",
        ),
        ({"relevant_docs": {}}, "no query has a judgement"),
        ({"relevant_docs": {"other": {"d1": 1}}}, "no query has a judgement"),
        ({"top_ranked": {"q1": ["d1", "gone"]}}, "candidate 'gone' of query 'q1' is not in the corpus"),
    ],
)
def test_what_cannot_be_judged_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        prepare.load(loaded(**changes))


def test_what_published_data_sets_do_is_told_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    import logging

    logging.getLogger("rerank_eval").propagate = True
    with caplog.at_level("WARNING", logger="rerank_eval"):
        task = loaded(relevant_docs={"q1": {"d1": 1, "gone": 1}, "nobody": {"d1": 1}})
        prepare.load(task)
    assert task.remarks == {"judged_queries_missing": 1, "judged_documents_missing": 1, "queries_unjudged": 1}
    assert "1 judged documents are not in the corpus; as in trec_eval, relevant ones stay in the ideal" in caplog.text
    assert "1 queries in the qrels are not among the queries and are left out, as mteb does" in caplog.text
    with caplog.at_level("WARNING", logger="rerank_eval"):
        prepare.load(loaded(relevant_docs={"q1": {"d1": 1}, "q2": {"d2": 1}}, top_ranked={"q1": ["d1"]}))
        prepare.load(loaded(relevant_docs={"q1": {"d1": 1}}))
    assert "1 queries have no candidates and count as 0 (such as 'q2')" in caplog.text
    assert "1 queries have no judgement and are left out, as mteb does (such as 'q2')" in caplog.text
