from __future__ import annotations

from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from rerank_eval.analysis.cards import to_card, to_model_index
from rerank_eval.errors import ConfigError
from rerank_eval.results.records import ResultRecord
from rerank_eval.tasks.suites import published_suites

NAMES = ["MTEB-R", "CMTEB-R", "MMTEB-R", "MLDR", "MTEB-Code", "FollowIR"]
SUITES = {name: [f"{name}-1", f"{name}-2"] for name in NAMES}


def record(task: str, main: float, **changes: Any) -> ResultRecord:
    values: dict[str, Any] = {
        "kind": "reranker",
        "label": "Qwen3-Reranker-4B",
        "detail": "card, bfloat16",
        "order": 1,
        "notes": (),
        "identity": "a1",
        "candidates": "c1",
        "retriever": "Qwen3-Embedding-0.6B",
        "top_k": 100,
        "task": task,
        "revision": "r1",
        "main_score": "ndcg_at_10",
        "main": main,
        "finished": 1.0,
        "recall": 0.9,
        "oracle": 0.9,
        "model": "Qwen/Qwen3-Reranker-4B",
        "dataset": f"mteb/{task}",
    }
    return ResultRecord(**(values | changes))


def test_the_card_s_table_averages_whole_suites_alone() -> None:
    records = [record("MTEB-R-1", 0.6), record("MTEB-R-2", 0.7), record("MLDR-1", 0.5)]
    first = {"kind": "retriever", "label": "Qwen3-Embedding-0.6B", "model": "Qwen/Qwen3-Embedding-0.6B", "order": 0}
    records += [record(f"FollowIR-{n}", 0.05 * n, identity="c1", **first) for n in (1, 2)]
    lines = to_card(records, SUITES).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["Model", "Param", *NAMES]
    assert cells[2] == ["Qwen3-Embedding-0.6B", "0.6B", "–", "–", "–", "–", "–", "7.50"]
    assert cells[3] == ["Qwen3-Reranker-4B", "4B", "65.00", "–", "–", "–", "–", "–"]


def test_the_columns_are_the_suites_with_published_numbers_in_the_card_s_order() -> None:
    assert published_suites() == NAMES


def test_two_runs_of_a_model_are_told_apart_and_escaped() -> None:
    records = [record("MTEB-R-1", 0.6, detail="a|b"), record("MTEB-R-1", 0.5, identity="a2", detail="none")]
    table = to_card(records, SUITES)
    assert "a\\|b" in table
    assert "(none)" in table


def test_the_hub_s_own_library_reads_the_block_back() -> None:
    text = to_model_index([record("SciFact", 0.70123), record("FiQA2018", 0.41)])
    data = yaml.safe_load(text)
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == "Qwen3-Reranker-4B"
    found = {one.dataset_name: one for one in results}
    assert found["SciFact"].metric_value == 70.12
    assert found["SciFact"].dataset_type == "mteb/SciFact"
    assert found["SciFact"].dataset_revision == "r1"
    assert ModelCardData(**data).to_dict()["model-index"]


def test_a_block_is_about_one_run() -> None:
    with pytest.raises(ConfigError, match="2 runs are here"):
        to_model_index([record("A", 0.5), record("A", 0.6, identity="a2")])
