"""The benchmark's parts, and a small run of the whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from rerank_bench.dtypes import kendall_tau
from rerank_bench.plot import draw
from rerank_bench.shapes import SHAPES, write_checkpoint
from rerank_bench.table import insert
from rerank_bench.workloads import WORKLOADS, Texts
from rerank_eval.engine.prompts import PromptTokenizer
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.engine.shapes import Shape

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("bench") / "tiny", SHAPES["tiny"], "float32", "cpu")


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(checkpoint)


def test_linear_work_per_token_is_that_of_the_published_models():
    """Computed by hand from their config.json: 0.881, 7.267 and 13.892 GFLOP a token."""
    for name, expected in (("0.6b", 0.881), ("4b", 7.267), ("8b", 13.892)):
        assert 2 * SHAPES[name].layer_parameters / 1e9 == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["tiny", "0.6b-2-layers"])
def test_the_cut_vocabulary_weighs_what_it_does_in_the_real_model(name):
    shape = SHAPES[name]
    assert shape.vocabulary * shape.hidden / shape.layer_parameters == pytest.approx(0.353, abs=1e-3)


def test_useful_flops_of_a_small_case_by_hand():
    shape = Shape(layers=2, hidden=4, intermediate=8, heads=2, key_value_heads=1, head_dim=3)
    # q and o: 4 x 6 each, k and v: 4 x 3 each, gate, up and down: 4 x 8 each, twice
    assert shape.layer_parameters == 2 * (24 + 24 + 12 + 12 + 3 * 32)
    # 3 prefix tokens, documents of 2 and 1: keys seen 1+2+3, then 4+5, then 4
    keys = 6 + 9 + 4
    assert shape.useful_flops(3, [2, 1]) == 2 * shape.layer_parameters * 6 + 4 * 2 * 2 * 3 * keys


def test_answers_are_single_tokens_in_the_cut_vocabulary(tokenizer, checkpoint):
    assert len(tokenizer) == SHAPES["tiny"].vocabulary
    for word in ("yes", "no", "<think>", "<|im_end|>"):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1
    text = "Parse the header: naïve café, 水 🎉!\n"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_have_the_token_counts_they_name(tokenizer, name):
    load = WORKLOADS[name]
    texts = Texts(tokenizer, load, 100 if load.document < 1000 else 4)
    first, again = next(texts.groups(3, 1)), next(texts.groups(3, 1))
    assert first == again
    assert next(texts.groups(4, 1)) != first
    made = PromptTokenizer(tokenizer, RECIPES["card"], 8192).factored(first)
    assert len(made.shared) == pytest.approx(load.prefix, rel=0.05)
    assert np.mean([len(ids) for ids in made.own]) == pytest.approx(load.document, rel=0.15)
    assert not made.truncated.any()


def test_kendalls_tau_agrees_with_scipy():
    generator = np.random.default_rng(1)
    first, second = generator.random((2, 60)).astype(np.float32)
    assert kendall_tau(first, second) == pytest.approx(kendalltau(first, second).statistic)
    assert kendall_tau(first, first) == 1.0


def test_the_plot_is_drawn_from_the_json_alone(tmp_path):
    peer = {"pairs_per_second": 10.0, "times_as_long_as_ours": 1.0}
    document = {
        "shape": "tiny",
        "dtype": "float32",
        "machine": {"device": "a <processor>", "torch": "2"},
        "workloads": {"short": {"peers": {"ours": peer, "model card": peer}}},
        "growth": [{"pairs": 10, "seconds": 1.0, "peak_bytes": 5}],
    }
    text = draw(document, tmp_path / "x.svg").read_text()
    assert text.lstrip().startswith("<?xml")
    assert text == draw(document, tmp_path / "y.svg").read_text()


def test_the_table_stands_between_the_markers(tmp_path):
    peer = {
        "pairs_per_second": 10.0,
        "tokens_per_second": 3000.0,
        "share_of_matmul_rate": 0.5,
        "peak_bytes": 2**20,
        "times_as_long_as_ours": 2.0,
        "times_as_long_range": [1.9, 2.1],
    }
    effect = {"largest_margin_difference": 0.01, "kendall_tau_mean": 0.99, "largest_difference_alone": 0.0}
    document = {
        "shape": "tiny",
        "dtype": "float32",
        "device": "cpu",
        "machine": {"device": "x", "threads": 2, "torch": "2", "transformers": "5"},
        "matmul_flops": 1e11,
        "workloads": {"short": {"peers": {"ours": peer, "model card": peer}}},
        "growth": [{"pairs": 1000, "seconds": 1.0, "peak_bytes": 2**20}],
        "dtypes": {"int8": effect, "float8": {"not run": "no GPU"}},
    }
    path = tmp_path / "doc.md"
    path.write_text(f"head\n{BEGIN}\nold\n{END}\ntail\n")
    insert(path, [document])
    text = path.read_text()
    assert text.startswith("head\n")
    assert text.endswith("\ntail\n")
    assert "old" not in text
    assert "| short passages | model card | 10.0 | 3,000 | 50% | 1 | 2.0 (1.9 to 2.1) |" in text
    assert "| 1,000 | 1.00 | 1 |" in text
    assert "| float8 | not run: no GPU | | |" in text
    path.write_text("no markers")
    with pytest.raises(ValueError, match="no <!-- bench:begin -->"):
        insert(path, [document])


@pytest.mark.slow
def test_a_small_benchmark_runs_and_its_peers_agree(tmp_path):
    command = [sys.executable, "-m", "rerank_bench", "--workloads", "followir", "--rounds", "1", "--growth", "1"]
    command += ["--output", str(tmp_path), "--checkpoints", str(tmp_path / "checkpoints")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads((tmp_path / "tiny-cpu-float32.json").read_text())
    peers = document["workloads"]["followir"]["peers"]
    assert {"ours", "model card", "mteb", "sentence-transformers"} <= set(peers)
    for label, row in peers.items():
        assert row["largest_difference_in_p_yes"] < 1e-5, label
        assert row["times_as_long_as_ours"] > 1 or label == "ours"
    assert document["dtypes"]["float32"]["largest_difference_alone"] == 0
    assert document["growth"][0]["pairs"] == 20 * 1
    assert (tmp_path / "tiny-cpu-float32.svg").is_file()
