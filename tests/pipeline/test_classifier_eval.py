"""Sequence classifiers through the whole path, and the model card's three rows from a mirror of miniatures."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from rerank_eval.cli import _run
from rerank_eval.config import RerankerConfig, load_config
from rerank_eval.errors import ModelError
from rerank_eval.models.ref import ModelRef
from rerank_eval.pipeline.plan import Plan, RunSpec, make_plan, reranker_identity
from rerank_eval.rerankers import load_reranker
from rerank_eval.rerankers.loading import prepare_reranker
from tests.mirror.hub_layout import Repository
from tests.models.test_retriever import DOCUMENTS, QUERIES, SmallTask
from tests.pipeline.folders import write_beir_folder
from tests.tiny_classifiers import POSITIONS, gte, save, save_as_jina, save_as_new, tokenizer, xlm_roberta

ROOT = Path(__file__).parents[2]
BGE, GTE, JINA = (
    "BAAI/bge-reranker-v2-m3",
    "Alibaba-NLP/gte-multilingual-reranker-base",
    "jinaai/jina-reranker-v2-base-multilingual",
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the configs, a BEIR folder whose first query has an instruction, and a classifier."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    folder = write_beir_folder(tmp_path / "tools")
    lines = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    lines[0]["instruction"] = "only vises are wanted"
    (folder / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    save(xlm_roberta(), tmp_path / "bge")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(*settings: str) -> int:
    fixed = ("retriever.model=bm25", "retriever.top_k=10", "reranker.model=./bge")
    arguments = [part for setting in (*fixed, *settings) for part in ("--set", setting)]
    return _run(["eval", "--config", "configs/base.yaml", "--task", "./tools", *arguments])


def reranked(folder: Path) -> list[dict[str, Any]]:
    found = [
        json.loads(path.read_text()) | {"_folder": path.parent} for path in folder.glob("results/runs/bge/*/*/*.json")
    ]
    return [manifest for manifest in found if "row" in manifest]


def test_from_a_folder_to_a_leaderboard(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate() == 0
    [manifest] = reranked(project)
    identity = manifest["identity"]["reranker"]
    assert identity["max_length"] == POSITIONS
    assert {"recipe", "engine", "head"}.isdisjoint(identity)
    instruction = manifest["instruction"]
    assert (instruction["place"], instruction["distinct"]) == ("behind the query", 2)
    assert instruction["examples"] == ["only vises are wanted", None]
    assert manifest["truncation"] == {"pairs": 0, "rate": 0.0, "overlong_queries": 0}
    work = manifest["timings"]["work"]
    assert work["computed_tokens"] == work["prompt_tokens"] == manifest["counts"]["prompt_tokens"] > 0
    scores = pd.read_parquet(manifest["_folder"] / "scores.parquet")
    corpus = {row["_id"]: row["text"] for row in map(json.loads, (project / "tools" / "corpus.jsonl").open())}
    queries = {row["_id"]: row for row in map(json.loads, (project / "tools" / "queries.jsonl").open())}
    model, words = xlm_roberta(), tokenizer()
    for row in scores[scores["query_id"].isin(["q0", "q3"])].itertuples():
        query = queries[row.query_id]
        text = f"{query['text']} {query['instruction']}" if "instruction" in query else query["text"]
        with torch.inference_mode():
            expected = model(**words([text], [corpus[row.doc_id].strip()], return_tensors="pt")).logits.item()
        assert row.score == pytest.approx(expected, abs=1e-5)
    before = (manifest["_folder"] / "scores.parquet").read_bytes()
    capsys.readouterr()
    assert evaluate("reranker.token_budget=256") == 0  # what cannot change a score is not in the identity
    assert "done before: reranker bge" in capsys.readouterr().out
    shutil.rmtree(manifest["_folder"])
    assert evaluate("reranker.token_budget=256") == 0
    assert (manifest["_folder"] / "scores.parquet").read_bytes() == before


def test_what_was_cut_is_told_and_the_plain_code_is_another_row(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("reranker.max_length=64", "grid.reranker.engine=[packed, reference]") == 0
    first, second = sorted(reranked(project), key=lambda manifest: manifest["timings"]["work"]["padding_tokens"])
    padding = [one["timings"]["work"]["padding_tokens"] for one in (first, second)]
    assert padding[1] > 0 == padding[0]
    assert "engine" not in first["identity"]["reranker"]
    assert second["identity"]["reranker"]["engine"] == "reference"
    assert first["scores"]["main"] == second["scores"]["main"]
    (project / "tools" / "corpus.jsonl").write_text(
        re.sub(r'"text": "', '"text": "' + "word " * 60, (project / "tools" / "corpus.jsonl").read_text())
    )
    capsys.readouterr()
    assert evaluate("reranker.max_length=64") == 0
    assert "100.0% of prompts cut to max_length" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("reranker.instruction=default", "reranker.instruction: local/bge is a sequence classifier"),
        ("reranker.instruction=qwen", "reranker.instruction: local/bge is a sequence classifier"),
        ("reranker.max_length=301", "reranker.max_length: 301 exceeds the 300 positions"),
        ("reranker.dtype=int8", "reranker.dtype: int8 is for causal rerankers"),
    ],
)
def test_a_setting_that_does_not_fit_ends_the_run_before_anything_is_retrieved(
    project: Path, capsys: pytest.CaptureFixture[str], setting: str, words: str
) -> None:
    assert evaluate(setting) == ModelError.exit_code
    printed = capsys.readouterr()
    assert words in printed.err
    assert not list(project.glob("results/runs/*"))


def test_score_shows_what_a_classifier_reads(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["score", "--config", "configs/base.yaml", "--set", "reranker.model=./bge", "-q", "which tool"]
    assert _run([*arguments, "-d", "the vise", "-i", "a small one"]) == 0
    printed = capsys.readouterr().out
    assert "[CLS] which tool a small one [SEP] [SEP] the vise [SEP]" in printed
    assert "tokens:  12\n" in printed  # "vise" is two word pieces
    logit, sigmoid = (float(re.search(rf"{name}: +(-?\d\.\d+)", printed)[1]) for name in ("logit", "sigmoid"))  # type: ignore[index]
    assert sigmoid == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    assert "P(yes)" not in printed


def test_it_works_in_a_plain_mteb_evaluate(project: Path) -> None:
    predictions = {
        "mteb_model_meta": {"model_name": "test/model", "revision": "1"},
        "default": {"test": {query: dict.fromkeys(DOCUMENTS, 1.0) for query in QUERIES}},
    }
    (project / "SmallTask_predictions.json").write_text(json.dumps(predictions))
    reranker = load_reranker(RerankerConfig(model="./bge"), "cpu")
    task = SmallTask().convert_to_reranking(project, top_k=100)
    score = mteb.evaluate(reranker, task, cache=None, co2_tracker=False).task_results[0].get_score()
    assert 0 < score <= 1
    assert reranker.counts.pairs == len(QUERIES) * len(DOCUMENTS)
    assert reranker.mteb_model_meta.experiment_kwargs["max_length"] == POSITIONS


# The model card's rows


def mirrored_plan(project: Path, root: Path) -> Plan:
    """Plan the model card's config from a mirror, without the rows whose models are not in it."""
    config = yaml.safe_load((project / "configs" / "model-card.yaml").read_text())
    config["grid"]["reranker"] = [row for row in config["grid"]["reranker"] if row["model"] in {BGE, GTE, JINA}]
    config |= {"retriever": {"model": "bm25", "max_length": None, "instruction": "task"}, "model_root": str(root)}
    (project / "configs" / "three.yaml").write_text(yaml.safe_dump(config))
    return make_plan(load_config(project / "configs" / "three.yaml"))


def test_the_model_card_s_three_rows_are_planned_and_load(project: Path) -> None:
    rows = {
        run.reranker.model: run.reranker
        for run in load_config(ROOT / "configs" / "model-card.yaml").runs
        if run.reranker
    }
    saved = {BGE: (save, xlm_roberta), GTE: (save_as_new, gte), JINA: (save_as_jina, xlm_roberta)}
    positions = {BGE: 8192 + 1, GTE: 8192, JINA: 1024 + 1}  # + 1: the miniature's padding token is 0, theirs is 1
    for name, (write, make) in saved.items():
        folder = write(make(max_position_embeddings=positions[name]), project / "mirror" / name)
        Repository(folder, rows[name].revision or "").note_downloads()
    plan = mirrored_plan(project, project / "mirror")
    found = {row.ref.name: row for row in plan.rerankers()}
    assert {name: row.identity["max_length"] for name, row in found.items()} == {BGE: 8192, GTE: 8192, JINA: 1024}
    assert {name: row.identity["dtype"] for name, row in found.items()} == {
        BGE: "float16",
        GTE: "float16",
        JINA: "bfloat16",
    }
    assert {row.identity["revision"] for row in found.values()} == {rows[name].revision for name in saved}
    assert not any(rows[name].trust_remote_code for name in saved)
    assert "max_length=1024" in found[JINA].detail


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        ({}, "a8f9a1005f72"),
        ({"max_length": 512}, "9b6bab5d50e6"),
        ({"max_length": 8192}, "a8f9a1005f72"),
        ({"recipe": "qwen_eval", "dtype": "bfloat16"}, "6e8074e29512"),
        ({"engine": "reference", "head": "recipe_softmax"}, "ae60dac3d3f1"),
    ],
)
def test_a_causal_reranker_s_identity_is_what_it_was(options: dict[str, Any], digest: str) -> None:
    """Written down from the version in which max_length was 8192 by default: results made with it stay valid."""
    run = load_config(ROOT / "configs" / "base.yaml").base
    name = "Qwen/Qwen3-Reranker-0.6B"
    ref = ModelRef(name, "Qwen3-Reranker-0.6B", name, "c" * 40, "hub", "Qwen3ForCausalLM")
    first = RunSpec("retriever", 0, run, ref, {"stage": "retriever", "model": "x"})
    config = RerankerConfig(model=name, **options)
    identity = reranker_identity(prepare_reranker(config, ref), first)
    assert RunSpec("reranker", 0, run, ref, identity, first).digest == digest
