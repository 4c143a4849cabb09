"""Device, driver, dtypes and compiler: what does not work here is told before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rerank_eval.doctor.arithmetic import check_attention, check_compile, check_dtype
from rerank_eval.doctor.device import Driver, _container, check_device, check_driver, memory, read_driver
from rerank_eval.doctor.findings import failure
from rerank_eval.doctor.rerankers import check_memory
from tests.doctor.conftest import reranker

CPU = torch.device("cpu")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


@pytest.mark.parametrize(
    ("driver", "level", "words"),
    [
        (Driver("13.0", available=True, files=("nvidia0",)), "ok", "can use it"),
        (
            Driver("13.0", False, ("nvidia0",), "NVRM version 535.1", reason="RuntimeError: driver is too old"),
            "failure",
            "built for CUDA 13.0 and cannot use nvidia0 (RuntimeError: driver is too old), driver: NVRM version 535.1",
        ),
        (Driver("13.0", False, ("nvidia0",)), "failure", "no kernel driver is loaded"),
        (Driver("13.0", False, ("nvidia0",), hidden=True), "warning", "CUDA_VISIBLE_DEVICES hides nvidia0"),
        (
            Driver(None, False, ("nvidia0", "nvidia1")),
            "warning",
            "nvidia0, nvidia1 is here, and torch is a build",
        ),
        (Driver("13.0", False), "ok", "no NVIDIA device here"),
    ],
)
def test_a_torch_that_does_not_fit_the_driver_is_told(driver: Driver, level: str, words: str) -> None:
    [finding] = check_driver(driver)
    assert finding.level == level
    assert words in finding.found
    assert bool(finding.remedy) == (level != "ok")


@no_gpu
def test_a_cpu_build_beside_a_gpu_s_device_file_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").write_text("")
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90\nGCC version\n")
    driver = read_driver(tmp_path, tmp_path / "version")
    assert (driver.files, driver.version) == (("nvidia0",), "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90")
    [finding] = check_driver(driver)
    assert finding.level == ("failure" if torch.version.cuda else "warning")


@no_gpu
def test_a_device_that_is_not_there_is_a_failure() -> None:
    [finding] = check_device("cuda:7")
    assert finding.level == "failure"
    assert "'cuda:7' is not available" in finding.found
    assert "--set device=auto" in finding.remedy


def test_a_cpu_that_may_use_one_thread_of_many_cores_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
        [finding] = check_device("cpu")
        assert finding.level == "warning"
        assert "1 threads on 8 cores" in finding.found
    finally:
        torch.set_num_threads(threads)


def test_a_container_s_memory_limit_counts(tmp_path: Path) -> None:
    assert _container(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert _container(tmp_path) == (450, 1000)
    (tmp_path / "memory.max").write_text("max\n")
    assert _container(tmp_path) is None
    free, size = memory(CPU)
    assert 0 < free <= size


def test_a_model_larger_than_the_memory_is_a_failure_and_not_loaded(demo: Path) -> None:
    free, _ = memory(CPU)
    subject = reranker("demo:qwen3-random", dtype="float32")
    [finding] = check_memory(subject, free // 4 + 1, CPU)
    assert finding.level == "failure"
    assert "GiB needed in float32" in finding.found
    assert "--set reranker.dtype=bfloat16" in finding.remedy
    assert list(check_memory(subject, 10_000_000, CPU)) == []
    [finding] = check_memory(reranker("demo:qwen3-random", dtype="bfloat16"), 600_000_000, CPU)
    assert finding.level == "warning"
    assert "rerank-eval plan" in finding.remedy
    [finding] = check_memory(reranker("demo:qwen3-random", dtype="bfloat16"), 1_600_000_000, CPU)
    assert ("too slow even to be tried here" in finding.found) == (finding.level == "warning")


@no_gpu
def test_dtypes_are_tried_on_the_device() -> None:
    [finding] = check_dtype("float32", CPU, "reranker.dtype")
    assert finding.level == "ok"
    [finding] = check_dtype("float8", CPU, "reranker.dtype")
    assert finding == failure(
        "dtype float8",
        "reranker.dtype: dtype float8 needs a CUDA device of compute capability 8.9 or more; use bfloat16 or int8",
        "--set reranker.dtype=bfloat16",
    )
    for dtype in ("bfloat16", "float16"):  # how slow they are is the processor's to say
        [finding] = check_dtype(dtype, CPU, "reranker.dtype")
        assert finding.level in {"ok", "warning"}
        assert "float32" in finding.found


def test_attention_is_named() -> None:
    [finding] = check_attention(CPU, torch.float32, (4, 2, 32), "some model")
    assert finding.level == "ok"
    assert "document by document" in finding.found


def test_a_missing_compiler_is_told_where_a_run_would_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    [finding] = check_compile(True, CPU)
    assert finding.level == "failure"
    assert "the C compiler /nowhere/g++ of CXX is not here" in finding.found
    assert "--set reranker.compile=false" in finding.remedy
    assert list(check_compile(None, CPU)) == []
    assert list(check_compile(False, CPU)) == []


@pytest.mark.slow
def test_compiling_is_tried() -> None:
    [finding] = check_compile(True, CPU)
    assert finding.level == "ok", finding.found
    assert "is right on cpu" in finding.found
