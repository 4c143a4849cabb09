"""The command as a whole: exit codes, lines, JSON, time; one failing check never stops the others."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mteb
import pytest
import yaml

from rerank_eval.cli import _run
from rerank_eval.errors import ConfigError, SetupError
from rerank_eval.models.checkpoint import load_tokenizer
from tests.doctor.taught import changed, swap_answers, swap_ids
from tests.mirror.hub_layout import Repository
from tests.pipeline.folders import write_beir_folder

ROOT = Path(__file__).parents[2]
EMBEDDER, RERANKER = "Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-Reranker-0.6B"
LINE = re.compile(r"^(ok|warning|failure) +(.+?): (.+)$")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_beir_folder(tmp_path / "tools")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small_config(folder: Path, **keys: Any) -> Path:
    """Write a config that needs no seconds: BM25, and the demo reranker."""
    content = {"tasks": ["./tools"], "retriever": {"model": "bm25"}, "reranker": {"model": "demo:qwen3-random"}}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content | keys))
    return path


def lines(printed: str) -> dict[str, tuple[str, str]]:
    """Return name -> (level, what was found); each line that is no finding is a remedy or the sum."""
    found = {}
    for line in printed.splitlines():
        match = LINE.match(line)
        if match:
            found[match[2]] = (match[1], match[3])
        else:
            assert line.startswith(" " * 10 + "-> ") or re.match(r"^\d+ ok, |^written: ", line), line
    return found


def test_a_healthy_set_up_ends_in_0_within_a_minute(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["doctor", "--config", str(small_config(project)), "--json", "doctor.json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found = lines(captured.out)
    assert "failure" not in {level for level, _ in found.values()}
    expected = ["python", "packages", "imports", "config", "results_dir", "device", "hub", "data"]
    expected += ["tokenizer of Qwen3-random (demo)", "engines of Qwen3-random (demo)"]
    assert set(expected) <= set(found)
    written = json.loads((project / "doctor.json").read_text())
    assert written["seconds"] < 60
    assert written["counts"]["failure"] == 0
    assert [finding["name"] for finding in written["findings"]] == list(found)
    assert set(written["findings"][0]) == {"level", "name", "found", "remedy"}
    assert written["environment"]["packages"]["mteb"]
    assert not (project / "results").exists()


def test_what_is_wrong_in_one_place_does_not_hide_what_is_wrong_in_another(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "results").write_text("")
    (project / "tools" / "corpus.jsonl").unlink()
    config = small_config(project, reranker={"model": RERANKER, "dtype": "float8"}, device="cuda:7")
    assert _run(["doctor", "--config", str(config), "--no-weights"]) == SetupError.exit_code == 9
    captured = capsys.readouterr()
    assert re.fullmatch(r"error: \d of \d+ checks failed; the lines above say what to do\n", captured.err)
    assert "Traceback" not in captured.out
    failed = {name for name, (level, _) in lines(captured.out).items() if level == "failure"}
    assert failed == {"results_dir", "device", "data of tools", f"reranker {RERANKER}"}
    assert captured.out.count("-> ") >= len(failed)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "configs/ofline.yaml"], "did you mean 'configs/offline.yaml'"),
        (["--set", "reranker.dtype=bf16"], "did you mean 'bfloat16'"),
        (["--task", "SciFcat"], "did you mean 'SciFact'"),
    ],
)
def test_a_config_that_cannot_be_read_is_a_line_and_the_machine_is_looked_at(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert _run(["doctor", "--no-weights", *arguments]) == SetupError.exit_code
    found = lines(capsys.readouterr().out)
    assert found["config"][0] == "failure"
    assert words in found["config"][1]
    assert "device" in found


def test_an_unknown_option_is_not_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["doctor", "--frobnicate"]) == ConfigError.exit_code
    assert "No such option" in capsys.readouterr().err


def mirror(root: Path, name: str, source: Path) -> Path:
    """Lay a checkpoint out as `hf download --local-dir` does, of the revision that mteb pins."""
    folder = shutil.copytree(source, root / name)
    Repository(folder, str(mteb.get_model_meta(name, fetch_from_hf=False).revision)).note_downloads()
    return folder


@pytest.fixture
def models(tmp_path: Path, taught_embedder: Path, taught_reranker: Path) -> Path:
    root = tmp_path / "models"
    mirror(root, EMBEDDER, taught_embedder)
    mirror(root, RERANKER, taught_reranker)
    return root


def examine(models: Path) -> int:
    command = ["doctor", "--config", "configs/qwen3-0.6b.yaml", "--task", "./tools", "--set", f"model_root={models}"]
    return _run(command)


@pytest.mark.slow
def test_the_hub_s_config_with_models_that_answer_rightly(
    project: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert examine(models) == 0
    found = lines(capsys.readouterr().out)
    assert "6 of 6 pairs as expected" in found["pairs by Qwen3-Reranker-0.6B"][1]
    assert "6 of 6" in found["pairs by Qwen3-Embedding-0.6B"][1]
    assert found["pooling of Qwen3-Embedding-0.6B"][1] == "the last token, which is <|endoftext|> (151643)"
    assert found["engines of Qwen3-Embedding-0.6B"][0] == "ok"


@pytest.mark.slow
def test_the_hub_s_config_with_answers_exchanged(
    project: Path, models: Path, taught_reranker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(models / RERANKER)
    mirror(models, RERANKER, changed(taught_reranker, tmp_path / "swapped", swap_answers))
    assert examine(models) == SetupError.exit_code
    found = lines(capsys.readouterr().out)
    assert {name for name, (level, _) in found.items() if level == "failure"} == {"pairs by Qwen3-Reranker-0.6B"}
    shutil.rmtree(models / RERANKER)
    swapped = shutil.copytree(taught_reranker, tmp_path / "ids")
    swap_ids(swapped)
    mirror(models, RERANKER, swapped)
    load_tokenizer.cache_clear()  # one process sees one checkpoint under a name
    assert examine(models) == SetupError.exit_code
    found = lines(capsys.readouterr().out)
    failed = {name for name, (level, _) in found.items() if level == "failure"}
    assert failed == {"tokenizer of Qwen3-Reranker-0.6B", "pairs by Qwen3-Reranker-0.6B"}


@pytest.mark.slow
def test_the_default_config_from_a_cold_start_takes_less_than_a_minute(tmp_path: Path) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "rerank_eval", "doctor", "--set", f"results_dir={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - started < 60
    assert "failure" not in done.stdout.replace("0 failure(s)", "")
    assert done.stderr == ""
