"""A package's reranker and retriever, and code of one's own, from a config through cache and workers to results."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rerank_eval.config import RerankerConfig, RetrieverConfig
from rerank_eval.config.schema import RECIPES
from rerank_eval.engine import kernels
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.errors import ModelError, RerankEvalError
from rerank_eval.metrics.registry import METRICS
from rerank_eval.models.resolve import resolve_model
from rerank_eval.registry import RERANKERS, RETRIEVERS
from rerank_eval.rerankers.cross_encoder import score_groups
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker
from rerank_eval.retrievers.family import Chosen, retriever_settings
from rerank_eval.tasks.suites import SUITES
from tests.pipeline.folders import write_beir_folder
from tests.processes import PLUGIN, beside_the_plugin

CONFIG = """\
tasks: [./tools]
retriever: {model: words, top_k: 20}
reranker: {model: overlap, options: {penalty: 0.01}}
device: cpu
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    write_beir_folder(folder / "tools", queries=12)
    (folder / "run.yaml").write_text(CONFIG)
    return folder


def evaluate(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    settings = [part for one in options for part in ("--set", one)]
    return beside_the_plugin(project, ["eval", "--config", "run.yaml", *settings])


def overlap_runs(project: Path, results: str = "results") -> dict[Any, tuple[dict[str, Any], pd.DataFrame]]:
    """(top_k, penalty) -> manifest and scores of each run of the reranker."""
    found = {}
    for path in (project / results / "runs").rglob("manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["row"]["kind"] == "reranker":
            key = manifest["retriever"]["top_k"], manifest["identity"]["reranker"]["options"]["penalty"]
            found[key] = manifest, pd.read_parquet(path.parent / "scores.parquet")
    return found


@pytest.fixture(scope="module")
def evaluated(project: Path) -> subprocess.CompletedProcess[str]:
    return evaluate(project)


def test_a_package_s_parts_are_named_in_a_config(project: Path, evaluated: subprocess.CompletedProcess[str]) -> None:
    assert evaluated.returncode == 0, evaluated.stderr
    assert 'options={"penalty":0.01}' in evaluated.stdout
    assert "states no revision" in evaluated.stdout  # the retriever; the reranker states one
    _, reranker = overlap_runs(project)[20, 0.01]
    sys.path.insert(0, str(PLUGIN))
    try:
        from word_overlap import Overlap  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(PLUGIN))
    corpus = {row["_id"]: row["text"] for row in map(json.loads, (project / "tools/corpus.jsonl").open())}
    queries = {row["_id"]: row["text"] for row in map(json.loads, (project / "tools/queries.jsonl").open())}
    assert len(reranker) == 12 * 20
    for query_id, rows in reranker.groupby("query_id"):
        texts = [corpus[document_id] for document_id in rows["doc_id"]]
        assert rows["score"].tolist() == Overlap(0.01).score(queries[query_id], texts, None)


def test_what_is_done_is_found_again_and_scores_come_from_the_cache(
    project: Path, evaluated: subprocess.CompletedProcess[str]
) -> None:
    again = evaluate(project)
    assert "computed 0, done before 2" in again.stdout
    # Other candidates: of each query's twenty-five, twenty are known, but not with another option.
    deeper = evaluate(project, "retriever.top_k=25", "grid={reranker.options.penalty: [0.01, 0.02]}")
    assert deeper.returncode == 0, deeper.stderr
    runs = overlap_runs(project)
    assert [runs[key][0]["timings"]["stored_pairs"] for key in ((20, 0.01), (25, 0.01), (25, 0.02))] == [0, 12 * 20, 0]


def test_the_package_s_metadata_is_what_its_project_file_says() -> None:
    declared = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]["entry-points"]
    installed = ConfigParser()
    installed.read(PLUGIN / "rank_biased-1.0.dist-info" / "entry_points.txt")
    assert {group: dict(installed[group]) for group in installed.sections()} == declared
    groups = {one.group for one in (METRICS, RERANKERS, RETRIEVERS, RECIPES, SUITES)} | {kernels.GROUP}
    assert set(declared) == groups


def test_a_package_s_suite_is_listed_and_a_broken_one_is_left_out(project: Path) -> None:
    listed = beside_the_plugin(project, ["tasks", "Two-Tasks"])
    assert listed.returncode == 0, listed.stderr
    assert "PyFunctionRetrieval" in listed.stdout
    assert "suite 'broken' of an installed package: benchmark: Field required; it is left out" in listed.stderr


@pytest.mark.slow
def test_workers_give_the_same_scores(project: Path, evaluated: subprocess.CompletedProcess[str]) -> None:
    workers = "workers={address: local, num_workers: 1}"
    done = evaluate(project, "results_dir=many", workers, "reranker.model=python:word_overlap:Overlap")
    assert done.returncode == 0, done.stderr
    (_, alone), (manifest, many) = (overlap_runs(project, folder)[20, 0.01] for folder in ("results", "many"))
    assert manifest["environment"]["workers"]
    pd.testing.assert_frame_equal(alone, many, check_exact=True)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code of one's own, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("mine", "helper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "helper.py").write_text("def count(query, document):\n    return document.count(query)\n")
    (tmp_path / "mine.py").write_text(
        """
import helper

class Mine:
    def __init__(self, factor=1, device="?"):
        self.factor, self.device = factor, device
    def score(self, query, documents):
        return [self.factor * helper.count(query, document) for document in documents]

class Pairs:
    def predict(self, pairs):
        return [len(document) - len(query) for query, document in pairs]

class Short(Mine):
    def score(self, query, documents):
        return super().score(query, documents)[1:]

class Words(Mine):
    def score(self, query, documents):
        return ["high"] * len(documents)

class Raises(Mine):
    def score(self, query, documents):
        return 1 / 0

class Instructed(Mine):
    def score(self, query, documents, instruction=None):
        return [0.0 if instruction is None else len(instruction)] * len(documents)

class Nothing:
    pass

def function(query, documents):
    return range(len(documents))

OBJECT = Mine(3)
"""
    )
    return tmp_path


def scores(name: str, **settings: Any) -> list[float]:
    config = RerankerConfig(model=f"python:mine:{name}", **settings)
    ref = resolve_model(config.model, None, "reranker.model")
    engine = load_reranking_engine(config, ref, "cpu")
    _, instruction = prepare_reranker(config, ref).policy.choose("own", None)
    [found] = score_groups(engine, [QueryGroup("a", instruction, ["a", "banana", "b"])])
    assert found.scores.tolist() == found.margins.tolist()
    return found.scores.tolist()


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("Mine", {"instruction": "none"}, [1, 3, 0]),
        ("Mine", {"instruction": "none", "options": {"factor": 2}}, [2, 6, 0]),
        ("OBJECT", {"instruction": "none"}, [3, 9, 0]),
        ("Pairs", {"instruction": "none"}, [0, 5, 0]),
        ("Pairs", {}, [-4, 1, -4]),  # a query's own instruction stands behind it
        ("function", {}, [0, 1, 2]),
        ("Instructed", {}, [3, 3, 3]),
        ("Instructed", {"instruction": "four words make one"}, [19, 19, 19]),
    ],
)
def test_classes_objects_and_functions_score(
    mine: Path, name: str, settings: dict[str, Any], expected: list[float]
) -> None:
    assert scores(name, **settings) == expected


@pytest.mark.parametrize(
    ("name", "settings", "line"),
    [
        ("Gone", {}, "reranker.model: python:mine:Gone: module mine has no Gone"),
        ("Nothing", {}, "Nothing has neither score"),
        ("Mine", {"dtype": "bfloat16"}, "reranker.dtype: Mine is Python code"),
        ("Mine", {"max_length": 512}, "reranker.max_length: Mine is Python code"),
        ("Mine", {"instruction": "four words make one"}, "reranker.instruction: Mine takes no instruction"),
        ("Mine", {"options": {"facto": 2}}, "reranker.options: Mine cannot be made with .*facto"),
        ("OBJECT", {"options": {"factor": 2}}, "reranker.options: OBJECT is no class"),
        ("Short", {}, r"query 'a': Short returned shape \(2,\) for 3 documents"),
        ("Words", {}, "Words returned no list of numbers"),
        ("Raises", {}, "query 'a': Raises raised ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_wrong_is_one_line(mine: Path, name: str, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ModelError, match=line):
        scores(name, **settings)


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("python:nowhere:Mine", "there is no module nowhere"),
        ("python:broken:Mine", r"importing broken failed \(ValueError: at import\)"),
        ("python:needs:Mine", "needs imports absent_package, which is not installed"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(mine: Path, model: str, line: str) -> None:
    (mine / "broken.py").write_text("raise ValueError('at import')")
    (mine / "needs.py").write_text("import absent_package")
    with pytest.raises(ModelError, match=line):
        resolve_model(model, None, "reranker.model")


def test_code_is_the_identity_and_so_is_what_it_imports_from_its_folder(mine: Path) -> None:
    def revision() -> str:
        return resolve_model("python:mine:Mine", None, "reranker.model").revision

    first = revision()
    (mine / "unrelated.py").write_text("x = 1")
    assert revision() == first
    (mine / "helper.py").write_text("def count(query, document):\n    return 0\n")
    assert revision() != first


def test_an_object_of_the_program_is_reused_only_by_its_revision() -> None:
    class Live:
        def score(self, query: str, documents: list[str]) -> list[float]:
            return [0.0] * len(documents)

    unstated, stated = Live(), Live()
    stated.revision = "3"  # type: ignore[attr-defined]
    RERANKERS.register("test-unstated", unstated)
    RERANKERS.register("test-stated", stated)
    found, known = (resolve_model(f"test-{name}", None, "reranker.model") for name in ("unstated", "stated"))
    assert resolve_model("test-unstated", None, "reranker.model") == found
    assert (len(found.notes), len(known.notes)) == (1, 0)
    stated.revision = "4"  # type: ignore[attr-defined]
    assert resolve_model("test-stated", None, "reranker.model").revision != known.revision


def test_a_checkpoint_takes_no_options() -> None:
    config = RerankerConfig(options={"a": 1})
    with pytest.raises(RerankEvalError, match=r"reranker\.options: .* is no Python code"):
        prepare_reranker(config, resolve_model(config.model, None, "reranker.model"))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"model": "python:mine:Mine"}, "Mine has no search"),
        ({"model": "bm25", "options": {"k": 1}}, r"retriever\.options: .* is no Python code"),
    ],
)
def test_a_retriever_that_is_none_is_one_line(mine: Path, settings: dict[str, Any], line: str) -> None:
    config = RetrieverConfig(**settings)
    with pytest.raises(ModelError, match=line):
        retriever_settings(Chosen(config, resolve_model(config.model, None, "retriever.model")))


class Reversed:
    """A family of somebody else's: it serves no model by itself, and is named by `kind`."""

    def serves(self, ref: Any) -> bool:
        return False

    def prepare(self, config: RerankerConfig, ref: Any, prompting: Any) -> Any:
        return RERANKERS.get("causal").prepare(config, ref, prompting)

    def load(self, prepared: Any, device: str) -> Any:
        return RERANKERS.get("causal").load(prepared, device)


def test_a_family_is_named_by_kind() -> None:
    RERANKERS.register("test-family", Reversed())
    config = RerankerConfig(model="demo:qwen3-random", kind="test-family")
    ref = resolve_model(config.model, None, "reranker.model")
    own, plain = (
        prepare_reranker(RerankerConfig(model="demo:qwen3-random", kind=kind), ref) for kind in ("test-family", "auto")
    )
    assert own.identity == plain.identity
    engine = load_reranking_engine(config, ref, "cpu")
    assert engine.score(QueryGroup("a", None, ["b"])).scores.shape == (1,)
