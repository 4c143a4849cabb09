"""Quantised dtypes, compiled layers, and the memory that loading takes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from huggingface_hub import save_torch_state_dict
from transformers import AutoConfig, AutoModelForCausalLM

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.loading import load_engine
from rerank_eval.models.demo import WEIGHTS, DemoShape

GROUP = QueryGroup(
    "which rivers flow?", "find", [f"word {i} and more text about things " * (1 + i % 9) for i in range(30)]
)


@pytest.mark.parametrize("attention", ["segments", "cpu_flash"])
def test_int8_stays_near_float32_and_does_not_depend_on_company(demo, attention):
    exact = load_engine(demo, recipe="card", device="cpu").score(GROUP).margins
    engine = load_engine(demo, recipe="card", device="cpu", dtype="int8", attention=attention)
    found = engine.score(GROUP).margins
    difference = np.abs(found - exact)
    assert 1e-4 < difference.max() < 0.1
    assert np.corrcoef(found, exact)[0, 1] > 0.99
    alone = engine.score(QueryGroup(GROUP.query, GROUP.instruction, GROUP.documents[7:8])).margins
    assert abs(alone[0] - found[7]) < 0.03  # bfloat16's products do depend on the number of rows


@pytest.mark.slow
def test_compiled_layers_give_the_same_margins_and_compile_once(demo):
    plain = load_engine(demo, recipe="card", device="cpu").score(GROUP).margins
    engine = load_engine(demo, recipe="card", device="cpu", compile_layers=True)
    assert engine.settings["compiled"] == 1
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    np.testing.assert_allclose(engine.score(GROUP).margins, plain, rtol=0, atol=1e-5)
    for count in (1, 5, 17):
        part = engine.score(QueryGroup(GROUP.query, GROUP.instruction, GROUP.documents[:count])).margins
        np.testing.assert_allclose(part, plain[:count], rtol=0, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


LOADING = """
import sys, threading, time

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

import torch
from rerank_eval.engine.loading import load_engine
load_engine(sys.argv[2], recipe="card", device="cpu", dtype=sys.argv[3])  # imports, tokenizer
base, peak, stop = anonymous(), [0], threading.Event()

def watch():
    while not stop.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
engine = load_engine(sys.argv[1], recipe="card", device="cpu", dtype=sys.argv[3])
stop.set()
thread.join()
print(peak[0] - base)
"""


@pytest.mark.parametrize(
    ("dtype", "copies"), [pytest.param("bfloat16", 0.35, marks=pytest.mark.slow), ("float32", 2.35)]
)
def test_loading_shards_never_holds_the_weights_twice(demo, variant, dtype, copies):
    """In the file's dtype the weights are the file's own pages; in float32 one copy of twice the size."""
    shards = variant(asdict(DemoShape(8, 512, 2048, 4, 2, 128, tie_word_embeddings=False)))
    (shards / WEIGHTS).unlink()
    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(shards)).state_dict()
    weights = {name: torch.full(value.shape, 0.01, dtype=torch.bfloat16) for name, value in shapes.items()}
    save_torch_state_dict(weights, shards, max_shard_size="80MB")
    size = sum(path.stat().st_size for path in shards.glob("*.safetensors"))
    assert len(list(shards.glob("*.safetensors"))) >= 3
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(shards), str(demo), dtype],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < copies * size


def test_torchao_missing_is_said_in_one_line(demo, monkeypatch):
    monkeypatch.setattr("rerank_eval.engine.quantize.find_spec", lambda _: None)
    with pytest.raises(
        EngineError, match=r"dtype int8 needs the package torchao: pip install 'rerank-eval\[quantized\]'"
    ):
        load_engine(demo, recipe="card", device="cpu", dtype="int8")
