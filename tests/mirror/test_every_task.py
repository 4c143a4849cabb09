"""Every task of the six suites through both stages, from a mirror in the hub's own layout, without a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from huggingface_hub import constants

from rerank_eval.cli import _run
from rerank_eval.tasks import mirror
from rerank_eval.tasks.suites import load_suites
from tests.mirror.miniatures import SUITES, expected_cells, suite_tasks, write_mirror
from tests.mirror.runs import cells_of, leaderboard_row, manifests, mteb_cells, run_eval, write_config

KINDS = [
    "SCIDOCS",  # as most are
    "ArguAna",  # queries that carry a document's id
    "StatcanDialogueDatasetRetrieval",  # several subsets in several splits, another main score
    "LEMBPasskeyRetrieval",  # several splits
    "CodeEditSearchRetrieval",  # v1 format, folders without configurations
    "COIRCodeSearchNetRetrieval",  # v1 format
    "TwitterHjerneRetrieval",  # ids that are numbers in the file
    "News21InstructionRetrieval",  # candidates and instructions of its own, changed judgements
]


def check(folder: Path, tasks: Sequence[str]) -> None:
    """Check that both stages gave each task a result with all its cells, averaged as the suites say."""
    for kind in ("retriever", "reranker"):
        found = manifests(folder, kind)
        assert sorted(found) == sorted(tasks)
        for name, manifest in found.items():
            cells = cells_of(manifest)
            assert sorted(cells) == sorted(expected_cells(name)), name
            assert cells == pytest.approx(mteb_cells(folder, manifest), abs=1e-5), name
            assert manifest["scores"]["main"] == pytest.approx(math.fsum(cells.values()) / len(cells)), name
            assert manifest["task"]["source"] == {"kind": "mirror", "commit": manifest["task"]["revision"]}
            assert not Path(manifest["task"]["dataset"]).is_absolute()


def scores(folder: Path, manifest: dict[str, Any]) -> pd.DataFrame:
    kind = manifest["row"]["kind"]
    identity = manifest["identity"]["candidates" if kind == "retriever" else "digest"]
    [path] = (folder / "results" / "runs").glob(f"*/{identity}/{manifest['task']['name']}/scores.parquet")
    return pd.read_parquet(path)


@pytest.fixture(scope="module")
def one_of_each(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    root = write_mirror(folder / "mirror", KINDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        patch.setattr(mirror, "_usual_cache", lambda: folder / "cache")
        assert _run(["eval", "--config", str(write_config(folder, root, KINDS))]) == 0
    return folder


def test_one_task_of_each_kind_runs_from_the_mirror(one_of_each: Path) -> None:
    check(one_of_each, KINDS)


def test_a_query_s_own_document_is_never_its_candidate(one_of_each: Path) -> None:
    for kind in ("retriever", "reranker"):
        frame = scores(one_of_each, manifests(one_of_each, kind)["ArguAna"])
        assert set(frame["query_id"]) & set(frame["doc_id"])
        assert (frame["query_id"] != frame["doc_id"]).all()
        assert (frame.groupby("query_id").size() == 5).all()


def test_followir_keeps_its_own_candidates_and_reads_each_query_s_instruction(one_of_each: Path) -> None:
    for kind in ("retriever", "reranker"):
        manifest = manifests(one_of_each, kind)["News21InstructionRetrieval"]
        assert manifest["task"]["candidates"] == "native"
        assert (scores(one_of_each, manifest).groupby("query_id").size() == 20).all()
        assert manifest["scores"]["p_mrr"] == pytest.approx(manifest["scores"]["main"], abs=1e-12)
    assert manifest["instruction"]["distinct"] == 8


def test_the_retriever_is_right_about_most_queries(one_of_each: Path) -> None:
    """The miniatures can be told apart: a query's words stand in its document, whatever the layout."""
    found = manifests(one_of_each, "retriever")
    assert all(found[name]["scores"]["main"] > 0.7 for name in KINDS if "Instruction" not in name)


@pytest.mark.slow
def test_every_task_of_every_suite_runs_from_the_mirror(tmp_path: Path) -> None:
    tasks = suite_tasks()
    root = write_mirror(tmp_path / "mirror", tasks)
    done = run_eval(tmp_path, write_config(tmp_path, root, SUITES))
    assert done.returncode == 0, done.stderr + done.stdout
    check(tmp_path, tasks)
    for kind in ("retriever", "reranker"):
        found, row = manifests(tmp_path, kind), leaderboard_row(tmp_path, kind)
        for suite in SUITES:
            listed = load_suites()[suite].tasks
            assert sum(len(expected_cells(task.name)) for task in listed) == sum(
                task.subsets * len(task.splits) for task in listed
            )
            assert all(found[task.name]["task"]["main_score"] == task.main_score for task in listed)
            mean = math.fsum(found[task.name]["scores"]["main"] for task in listed) / len(listed)
            assert row[f"mean {suite}"] == pytest.approx(100 * mean, abs=1e-6), suite
