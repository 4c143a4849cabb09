from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mteb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mteb import ResultCache
from mteb.models.model_meta import ModelMeta
from mteb.results import TaskResult

from rerank_eval.errors import ConfigError
from rerank_eval.reproduce.mteb_results import read_results
from tests.analysis.published_files import RETRIEVER, make_rules, task_names, write_task

RULES, NAMES = make_rules(), task_names()
MODEL = "org/model"
TASKS = {"FiQA2018": "ndcg_at_10", "LEMBPasskeyRetrieval": "ndcg_at_1"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "main_score": json_values,
        "hf_subset": st.sampled_from(["default", "other"]) | json_values,
        "ndcg_at_10": json_values,
        "previous_results_model_meta": json_values | st.fixed_dictionaries({"model_name": json_values}),
    },
)
results = st.fixed_dictionaries(
    {},
    optional={
        "scores": st.dictionaries(st.sampled_from(["test", "dev"]), st.lists(entries, max_size=3) | json_values)
        | json_values,
        "mteb_version": json_values,
        "dataset_revision": json_values,
        "task_name": st.just("FiQA2018") | json_values,
    },
)
metas = json_values | st.fixed_dictionaries(
    {"experiment_kwargs": json_values | st.dictionaries(st.sampled_from(["id", "top_k", "retriever"]), json_values)}
)


@given(raw=st.one_of(results.map(json.dumps), json_values.map(json.dumps), st.text()), meta=metas, nested=st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_json_whatever_gives_a_traceback(tmp_path: Path, raw: str, meta: Any, nested: bool) -> None:
    folder = tmp_path / "Qwen__Qwen3-Embedding-0.6B" / "rev"
    folder = folder / "experiments" / "x" if nested else folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "FiQA2018.json").write_text(raw, encoding="utf-8", errors="surrogatepass")
    (folder / "model_meta.json").write_text(json.dumps(meta), encoding="utf-8")
    found = read_results(tmp_path, [RETRIEVER], NAMES)
    for experiment in found.experiments:
        for file in experiment.files.values():
            assert all(math.isfinite(value) and -1 <= value <= 1 for value in file.cells.values())
    assert all(problem.isprintable() for problem in found.problems)
    checked = RULES.check(found, {}, [model.name for model in RULES.published.models], ["MTEB-R"])
    assert {cell.ours for cell in checked.cells} == {None}  # one file is never a suite


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\xfe", b"[" * 100_000, b'{"scores": {"test": [' + b"9" * 5000 + b"]}}", b'{"scores": {}}']
)
def test_bytes_that_are_no_result_are_counted(tmp_path: Path, raw: bytes) -> None:
    folder = tmp_path / "org__model" / "rev"
    folder.mkdir(parents=True)
    (folder / "FiQA2018.json").write_bytes(raw)
    found = read_results(tmp_path, [MODEL], TASKS)
    assert found.experiments == ()
    assert len(found.problems) == 1
    assert "FiQA2018.json: not " in found.problems[0]


def test_what_mteb_writes_is_read_as_mteb_reads_it(tmp_path: Path) -> None:
    task = mteb.get_task("LEMBPasskeyRetrieval")
    scores = {
        split: {"default": {"main_score": 0.1 * index, "ndcg_at_1": 0.1 * index}}
        for index, split in enumerate(task.eval_splits, start=1)
    }
    result = TaskResult.from_task_results(task, scores, evaluation_time=1.0)
    plain = {"name": MODEL, "revision": "rev1"}
    cache = ResultCache(tmp_path / "mteb")
    for kwargs in (None, {"top_k": 100, "retriever": "E"}, {"top_k": 10, "retriever": "E"}):
        cache.save_to_cache(result, ModelMeta.create_empty(overwrites={**plain, "experiment_kwargs": kwargs}))
    for root in (tmp_path, tmp_path / "mteb", tmp_path / "mteb" / "results"):
        found = read_results(root, [MODEL], TASKS)
        assert found.problems == ()
        assert [one.settings for one in found.experiments] == [
            {},
            {"retriever": "E", "top_k": 10},
            {"retriever": "E", "top_k": 100},
        ]
        for one in found.experiments:
            [file] = one.files.values()
            assert (one.revision, file.dataset_revision) == ("rev1", task.metadata.revision)
            assert file.mteb_version == result.mteb_version
            mean = sum(file.cells.values()) / len(file.cells)
            assert mean == pytest.approx(result.get_score())
            assert set(file.cells) == {(split, "default") for split in task.eval_splits}


def test_an_experiment_whose_settings_are_unknown_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "org__model" / "rev1" / "experiments" / "top_k_100"
    write_task(folder, "FiQA2018", {"test": {"default": 0.5}})
    found = read_results(tmp_path, [MODEL], TASKS)
    assert found.experiments == ()
    assert "model_meta.json: cannot be read" in found.problems[0]
    (folder / "model_meta.json").write_text('{"name": "org/model"}')
    assert "says not which settings" in read_results(tmp_path, [MODEL], TASKS).problems[0]


def test_a_file_of_another_task_or_with_a_subset_twice_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "org__model" / "rev1"
    write_task(folder, "FiQA2018", {"test": {"default": 0.5}}, task_name="SciFact")
    assert "names another task" in read_results(tmp_path, [MODEL], TASKS).problems[0]
    path = write_task(folder, "FiQA2018", {"test": {"default": 0.5}})
    content = json.loads(path.read_text())
    content["scores"]["test"] *= 2
    path.write_text(json.dumps(content))
    assert "holds subset 'default' twice" in read_results(tmp_path, [MODEL], TASKS).problems[0]


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        read_results(tmp_path / "nowhere", [MODEL], TASKS)
