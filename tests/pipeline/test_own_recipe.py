"""A checkpoint's own recipe through the whole path, and a made-up family of decoders that is one file."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import AutoTokenizer

from rerank_eval.cli import _run
from rerank_eval.models.demo import SHIPPED
from tests.models.checkpoints import as_cross_encoder, copy_of
from tests.pipeline.folders import write_beir_folder

ROOT = Path(__file__).parents[2]
TEMPLATE = (
    "{%- for m in messages if m.role == 'document' %}Text: {{ m.content }}{{ '\n' }}{% endfor -%}"
    "{%- for m in messages if m.role == 'query' %}Question: {{ m.content }}{% endfor -%}"
    "{%- for m in messages if m.role == 'system' %} ({{ m.content }}){% endfor -%}{{ ' ??' }}"
)
FAMILY = """
name: terse
extends: card
prefix: ""
instruct_template: ""
query_template: "{query} | "
instructed_query_template: "{query} ({instruction}) | "
document_template: "{document}"
suffix: " =>"
default_instruction: null
truncation: document
softmax_dtype: float32
yes: 'true'
no: null
scale: 2
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_beir_folder(tmp_path / "tools")
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    true = tokenizer.encode("true", add_special_tokens=False)
    as_cross_encoder(copy_of(tmp_path / "own"), true[0], None, TEMPLATE)
    (tmp_path / "terse.yaml").write_text(FAMILY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, *settings: str) -> int:
    fixed = ("retriever.model=bm25", "retriever.top_k=5", "reranker.model=./own", "reranker.max_length=256")
    arguments = [part for setting in (*fixed, *settings) for part in ("--set", setting)]
    task = ["--task", "./tools"] if command == "eval" else ["-q", "which tool?", "-d", "A vise holds work."]
    return _run([command, "--config", "configs/base.yaml", *task, *arguments])


def manifests(project: Path) -> list[dict[str, Any]]:
    found = [
        json.loads(path.read_text()) | {"_at": path.parent} for path in project.glob("results/runs/own/*/*/*.json")
    ]
    return [one for one in found if "row" in one]


def test_what_the_files_state_is_scored_recorded_and_shown(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval") == 0
    [manifest] = manifests(project)
    settings, recipe = manifest["identity"]["reranker"], manifest["recipe"]
    assert re.fullmatch(r"checkpoint@[0-9a-f]{8}", settings["recipe"])
    assert (manifest["config"]["reranker"]["recipe"], recipe["name"]) == ("auto", settings["recipe"])
    assert (recipe["no"], recipe["suffix"], recipe["order"]) == (None, " ??", ["instruction", "document", "query"])
    scores = pd.read_parquet(manifest["_at"] / "scores.parquet")
    before = (manifest["_at"] / "scores.parquet").read_bytes()
    capsys.readouterr()
    assert run("eval") == 0
    assert "done before: reranker own" in capsys.readouterr().out
    assert run("eval", "reranker.engine=reference") == 0
    other = next(one for one in manifests(project) if one["identity"]["reranker"]["engine"] == "reference")
    again = pd.read_parquet(other["_at"] / "scores.parquet")
    merged = scores.merge(again, on=["query_id", "doc_id"], suffixes=("", "_plain"))
    assert len(merged) == len(scores) > 0
    assert (merged["score"] - merged["score_plain"]).abs().max() < 1e-4
    assert scores["score"].nunique() > 1
    shutil.rmtree(manifest["_at"])
    assert run("eval") == 0  # from the score cache
    assert (manifest["_at"] / "scores.parquet").read_bytes() == before


def test_score_shows_the_recipe_and_its_probability(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("score") == 0
    printed = capsys.readouterr().out
    assert "Text: A vise holds work.\nQuestion: which tool? ??" in printed
    assert re.search(
        r"recipe: +checkpoint@\w+, from the checkpoint's own files; the margin is the logit of \d+ alone", printed
    )
    assert run("score", "reranker.recipe=terse.yaml") == 0
    printed = capsys.readouterr().out
    assert "its chat template writes another prompt than recipe terse@" in printed
    assert "which tool? | A vise holds work. =>" in printed
    assert "named by the config; the margin is the logit of 'true' alone" in printed
    found = re.findall(r"^(?:margin|P\(yes\)): +(-?\d\.\d+)$", printed, re.MULTILINE)
    margin, probability = map(float, found)
    assert probability == pytest.approx(1 / (1 + math.exp(-margin / 2)), abs=1e-6)


def test_a_decoder_of_no_known_prompt_is_refused_before_anything_is_retrieved(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "own" / "chat_template.jinja").unlink()
    assert run("eval") == 4
    assert "neither local/own's files nor its name say with which prompt it was trained" in capsys.readouterr().err
    assert not list(project.glob("results/runs/*"))


def test_recipes_lists_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["recipes"]) == 0
    printed = capsys.readouterr().out
    for name, model in (("mxbai_v2", "mixedbread-ai/mxbai-rerank-base-v2"), ("ctxl_v2", "document, query")):
        assert re.search(rf"^{name} .*{model}", printed, re.MULTILINE)
