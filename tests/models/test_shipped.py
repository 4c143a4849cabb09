"""The small reranker that comes with the project: a checkpoint like any other, and it gains what its card says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer

from rerank_demo.card import model_card
from rerank_demo.corpus import packages
from rerank_demo.figures import add_figures
from rerank_eval.cli import _run
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.loading import load_engine
from rerank_eval.engine.prompts import token_ids
from rerank_eval.models.demo import SHIPPED, WEIGHTS

ROOT = Path(__file__).parents[2]
GROUP = QueryGroup(
    "Return the n-th Fibonacci number.",
    "Given a function's description, retrieve the Python function that it describes",
    [
        "def connect(self, host, port):\n    self.socket.connect((host, port))\n",
        "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n",
    ],
)


def test_it_has_the_hubs_layout_and_is_small() -> None:
    names = {path.name for path in SHIPPED.iterdir()}
    assert {"config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "README.md"} <= names
    assert not [name for name in names if name.endswith((".py", ".bin", ".pt", ".pkl"))]
    assert (SHIPPED / WEIGHTS).stat().st_size <= 16_000_000
    assert AutoConfig.from_pretrained(SHIPPED).architectures == ["Qwen3ForCausalLM"]
    with safe_open(SHIPPED / WEIGHTS, "pt") as weights:
        assert {str(weights.get_slice(name).get_dtype()) for name in weights.keys()} == {"BF16"}  # noqa: SIM118


@pytest.mark.parametrize("word", ["yes", "no", "<|im_start|>", "<|im_end|>", "<think>", "</think>"])
def test_answers_and_markers_are_single_tokens(word: str) -> None:
    assert len(token_ids(AutoTokenizer.from_pretrained(SHIPPED), [word])[0]) == 1


@pytest.mark.parametrize("recipe", ["card", "qwen_eval", "mteb"])
def test_every_recipe_and_both_engines_rank_with_it(recipe: str) -> None:
    margins = [
        load_engine(SHIPPED, recipe=recipe, device="cpu", engine=engine).score(GROUP).margins
        for engine in ("packed", "reference")
    ]
    np.testing.assert_allclose(margins[0], margins[1], atol=1e-4)
    assert margins[0][1] > margins[0][0] + 1.0


def test_the_card_is_the_one_that_the_training_run_wrote() -> None:
    record = json.loads((SHIPPED / "training.json").read_text(encoding="utf-8"))
    assert model_card(record) == (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert [one["name"] for one in record["packages"]] == [one.name for one in packages()]
    assert record["bytes"] == (SHIPPED / WEIGHTS).stat().st_size
    assert {one["scope"] for one in record["test"]} == {"PyFunctionRetrieval", "PyInstructionRetrieval"}


def test_figures_of_comparisons_go_into_the_card(tmp_path: Path) -> None:
    folder = shutil.copytree(SHIPPED, tmp_path / "checkpoint")
    row = {"scope": "T", "suite": False, "measure": "ndcg_at_10", "system": "ours", "queries": 7, "baseline": 0.25}
    row |= {"mean": 0.5, "difference": 0.25, "low": 0.125, "high": 0.375, "p": 0.0004, "wins": 1}
    suite = {**row, "scope": "Embedded", "suite": True}
    (tmp_path / "c.json").write_text(json.dumps({"baseline": "BM25", "differences": [row, suite]}), encoding="utf-8")
    add_figures(folder, [tmp_path / "c.json"])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| T (nDCG@10) | 7 | ours | 0.500 | 0.250 (BM25) | +0.250 (+0.125 to +0.375) | < 0.001 |" in card
    assert "Embedded (nDCG@10)" not in card


def _differences(folder: Path, *arguments: str) -> dict[str, dict[str, float]]:
    """Run a comparison over the small tasks; returns its rows by what is compared."""
    command = ["compare", str(ROOT / "configs" / "demo-reranker.yaml"), "--run", "--name", "found"]
    assert _run([*command, *arguments, "--set", "embedded.size=small", "--set", f"results_dir={folder}"]) == 0
    found = json.loads((folder / "comparisons" / "found.json").read_text(encoding="utf-8"))
    return {one["system"]: one for one in found["differences"]}


@pytest.mark.slow
def test_it_improves_what_bm25_found(tmp_path: Path) -> None:
    [gain] = _differences(tmp_path, "--against", "retriever").values()
    assert gain["measure"] == "ndcg_at_10"
    assert gain["difference"] > 0.05
    assert gain["p"] < 0.01


@pytest.mark.slow
def test_it_follows_instructions(tmp_path: Path) -> None:
    sets = ("--task", "PyInstructionRetrieval", "--set", "grid.reranker.instruction=[none, task]")
    [gain] = _differences(tmp_path, *sets).values()
    assert gain["measure"] == "p-MRR"
    assert gain["mean"] > 0.0
    assert gain["mean"] > gain["baseline"]
