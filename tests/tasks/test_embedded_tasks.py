"""The embedded tasks' content: determinism, one right answer, splits, sizes, and rules that the documents bear out."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys

import mteb
import pytest

from rerank_eval.errors import ConfigError
from rerank_eval.tasks.embedded import EMBEDDED, SIZES, build, describe
from rerank_eval.tasks.embedded.base import UNBUILT, Content
from rerank_eval.tasks.embedded.function_task import PyFunctionRetrieval
from rerank_eval.tasks.embedded.instruction_task import PyInstructionRetrieval
from rerank_eval.tasks.embedded.module_task import MAX_CHARACTERS, PyModuleRetrieval, cut, question
from rerank_eval.tasks.embedded.stdlib import library
from rerank_eval.tasks.embedded.texts import normalised, split_of

NAMES = list(EMBEDDED)
FINGERPRINT = """
import hashlib, json
from rerank_eval.tasks.embedded import EMBEDDED, build
found = {}
for name in EMBEDDED:
    task = build(name, "small")
    task.load_data()
    data = task.dataset["default"]["test"]
    ids = [*data["corpus"]["id"], *data["queries"]["id"], *sum((data["top_ranked"] or {}).values(), [])]
    found[name] = [task.metadata.dataset["revision"], hashlib.sha256("\\n".join(ids).encode()).hexdigest()]
print(json.dumps(found))
"""


def contents(name: str) -> list[Content]:
    return [EMBEDDED[name].content("small", "test"), EMBEDDED[name].content("full", "test")]


def test_two_processes_build_the_same() -> None:
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FINGERPRINT], env=environment, capture_output=True, text=True, check=True
    )
    here: dict[str, list[str]] = {}
    exec(FINGERPRINT.replace("print(json.dumps(found))", "here.update(found)"), {"here": here})  # noqa: S102
    assert list(here) == NAMES
    assert json.loads(done.stdout.splitlines()[-1]) == here


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_sound(name: str) -> None:
    for content in contents(name):
        assert set(content.qrels) == set(content.queries)
        assert all(content.qrels.values())
        assert {one for relevant in content.qrels.values() for one in relevant} <= set(content.documents)
        # TREC run files are split at white space.
        assert not [one for one in [*content.documents, *content.queries] if re.search(r"\s", one)]
        assert all(text.strip() for text in [*content.documents.values(), *content.queries.values()])


@pytest.mark.parametrize("name", ["PyFunctionRetrieval", "PyModuleRetrieval"])
def test_each_query_has_one_answer_that_does_not_repeat_it(name: str) -> None:
    content = EMBEDDED[name].content("full", "test")
    queries = [normalised(text) for text in content.queries.values()]
    documents = [normalised(text) for text in content.documents.values()]
    assert len(set(queries)) == len(queries)
    assert len(set(documents)) == len(documents)
    for query, relevant in content.qrels.items():
        assert len(relevant) == 1
        assert normalised(content.queries[query]) not in normalised(content.documents[relevant[0]])


def test_function_documents_do_not_hold_their_docstrings() -> None:
    content = PyFunctionRetrieval.content("full", "test")
    for one, code in content.documents.items():
        tree = ast.parse(code)
        assert isinstance(tree.body[0], ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(tree.body[0]) is None, one


@pytest.mark.parametrize("name", NAMES)
def test_train_and_test_ask_about_disjoint_packages(name: str) -> None:
    packages = []
    for split in ("train", "test"):
        content = EMBEDDED[name].content("full", split)
        packages.append({re.split(r"[.:]", one)[0] for relevant in content.qrels.values() for one in relevant})
        assert {split_of(package) for package in packages[-1]} == {split}
    assert len(packages[0]) > 5
    assert len(packages[1]) > 5


def test_every_function_is_a_document_of_the_test_split() -> None:
    for size in ("medium", "full"):
        assert list(PyFunctionRetrieval.content(size, "test").documents) == [one.id for one in library().functions]


def test_sizes() -> None:
    counts = {(name, size): describe(name, size) for name in NAMES for size in SIZES}

    def pair(name: str, size: str) -> tuple[int, int]:
        found = counts[name, size]
        return found["n_queries"], found["n_documents"]

    assert pair("PyFunctionRetrieval", "small") == (100, 1500)
    assert pair("PyFunctionRetrieval", "medium")[0] == 500
    assert pair("PyFunctionRetrieval", "full")[0] > 1000
    assert pair("PyModuleRetrieval", "small") == (32, 48)
    assert pair("PyModuleRetrieval", "medium") == (100, 200)
    assert pair("PyModuleRetrieval", "full")[1] > 200
    assert pair("PyInstructionRetrieval", "small")[0] == 40
    assert pair("PyInstructionRetrieval", "medium")[0] > 80
    assert pair("PyInstructionRetrieval", "full")[0] > 200
    for found in counts.values():
        assert found["revision"].startswith(f"py{sys.version_info.major}.{sys.version_info.minor}.")
        assert 10 < found["query_characters"] < found["document_characters"]
    assert len({found["revision"] for found in counts.values()}) == len(counts)


def test_smaller_is_part_of_larger() -> None:
    for name in ("PyFunctionRetrieval", "PyModuleRetrieval"):
        small, medium, full = (EMBEDDED[name].content(size, "test") for size in SIZES)
        assert set(small.queries) < set(medium.queries) < set(full.queries)


def test_modules_are_cut_at_a_line_end() -> None:
    content = PyModuleRetrieval.content("small", "test")
    lengths = [len(text) for text in content.documents.values()]
    assert max(lengths) <= MAX_CHARACTERS["small"]
    assert sum(length > MAX_CHARACTERS["small"] - 200 for length in lengths) > 10
    assert cut("ab\ncd\nef", 5) == "ab\ncd"
    assert cut("ab\ncd\nef", 4) == "ab"
    assert cut("abcdef", 3) == "abc"
    assert cut("abc", 3) == "abc"


def test_a_short_first_sentence_takes_the_second_along() -> None:
    assert question("CSV support. Reads and writes. Fast.") == "CSV support. Reads and writes."
    long = "Read and write files of comma separated values in any dialect."
    assert question(f"{long} More.") == long
    assert question("") == ""


@pytest.mark.parametrize("name", NAMES)
def test_build_gives_an_unloaded_task_with_its_own_metadata(name: str) -> None:
    task = build(name, "small")
    assert isinstance(task, EMBEDDED[name])
    assert not task.data_loaded
    assert task.metadata is not type(task).metadata
    assert type(task).metadata.dataset == {"path": f"rerank-eval/{name}", "revision": UNBUILT}
    assert task.metadata.dataset["path"] == f"rerank-eval/{name}"
    assert re.fullmatch(r"py[\w.+]+-small-[0-9a-f]{12}", task.metadata.dataset["revision"])
    assert task.metadata.eval_splits == ["test"]
    assert task.metadata.prompt["query"]


@pytest.mark.parametrize("name", NAMES)
def test_loading_twice_and_again_after_unloading(name: str) -> None:
    task = build(name, "small")
    metadata = task.metadata
    task.load_data()
    data = task.dataset["default"]["test"]
    task.load_data()
    assert task.dataset["default"]["test"] is data
    before = (data["corpus"].to_list(), data["queries"].to_list(), data["relevant_docs"], data["top_ranked"])
    # mteb drops queries and replaces candidates in place: a later load must not see that.
    data["relevant_docs"].clear()
    data["top_ranked"] = {}
    task.unload_data()
    assert not task.data_loaded
    assert task.metadata is metadata
    task.load_data()
    data = task.dataset["default"]["test"]
    after = (data["corpus"].to_list(), data["queries"].to_list(), data["relevant_docs"], data["top_ranked"])
    assert after[:2] == before[:2]
    assert after[2] == {query: dict.fromkeys(ids, 1) for query, ids in task.content("small", "test").qrels.items()}
    assert bool(after[3]) == (name == "PyInstructionRetrieval")
    assert data["corpus"].column_names == ["id", "title", "text"]
    assert set(data["corpus"]["title"]) == {""}


def test_the_train_split_can_be_asked_for() -> None:
    task = build("PyFunctionRetrieval", "small").filter_eval_splits(["train"])
    task.load_data()
    assert list(task.dataset["default"]) == ["train"]
    assert set(task.dataset["default"]["train"]["queries"]["id"]).isdisjoint(
        PyFunctionRetrieval.content("small", "test").queries
    )


def test_wrong_names_end_in_one_line() -> None:
    with pytest.raises(ConfigError, match="did you mean 'PyModuleRetrieval'"):
        build("PyModulRetrieval", "small")
    with pytest.raises(ConfigError, match="did you mean 'medium'"):
        build("PyModuleRetrieval", "medum")  # type: ignore[arg-type]


def test_bm25_retrieves_and_the_task_loads_again() -> None:
    task = build("PyFunctionRetrieval", "small")
    revision = task.metadata.dataset["revision"]
    result = mteb.evaluate(
        mteb.get_model("mteb/baseline-bm25s"), task, cache=None, co2_tracker=False, show_progress_bar=False
    )[0]
    score = result.scores["test"][0]
    assert result.dataset_revision == revision
    # By chance a query's one document is among the first ten of 1,500 with a probability below 0.01.
    assert 0.3 < score["main_score"] == score["ndcg_at_10"] < 0.7
    assert 0.6 < score["recall_at_100"] < 1
    assert not task.data_loaded
    assert task.metadata.dataset["revision"] == revision


def test_instruction_candidates_are_complete_and_their_order_tells_nothing() -> None:
    content = PyInstructionRetrieval.content("full", "test")
    places = []
    for pair in content.changed:
        og, changed = f"{pair}-og", f"{pair}-changed"
        assert content.queries[og] == content.queries[changed]
        assert content.instructions[og] != content.instructions[changed]
        listed = content.candidates[og]
        assert listed == content.candidates[changed]
        assert len(listed) == len(set(listed)) == 80
        assert set(content.qrels[changed]) < set(content.qrels[og]) < set(listed)
        assert set(content.changed[pair]) == set(content.qrels[og]) - set(content.qrels[changed])
        places += [listed.index(one) / 79 for one in content.qrels[og]]
    # Uniform places have mean 0.5 and standard error 0.29 / sqrt(n): thousands of places stay well within 0.05.
    assert len(places) > 1000
    assert abs(sum(places) / len(places) - 0.5) < 0.05
