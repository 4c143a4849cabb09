"""Ways out: what a start that fails says, and that it leaves nothing; commands as they can be typed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rerank_eval import typed
from rerank_eval.cli import _run
from rerank_eval.commands import app
from rerank_eval.config import RerankerConfig
from rerank_eval.errors import DeviceError, OfflineError
from rerank_eval.models.resolve import resolve_model
from rerank_eval.rerankers import load_reranker
from tests.pipeline.folders import write_beir_folder

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def commands(error: str) -> list[list[str]]:
    """The commands of an error, as a shell takes them apart."""
    quoted = error.split("`")[1::2]
    return [shlex.split(one) for one in quoted]


HUB = ["--config", "configs/qwen3-0.6b.yaml"]
MISSING = {
    "a task alone": (["eval", "--task", "SciFact"], ["Qwen3-Embedding-0.6B", "Qwen3-Reranker-0.6B", "mteb/scifact"]),
    "a suite": (["eval", "--task", "MTEB-R", *HUB], ["Qwen3-Embedding-0.6B", "mteb/arguana", "ArguAna's data"]),
    "a model": (["eval", "--config", "configs/base.yaml", "--set", "reranker.model=a/b"], ["a/b"]),
    "mirrors": (
        ["eval", "--task", "SciFact", *HUB, "--set", "data_root=m/d", "--set", "model_root=m/m"],
        ["m/m/Qwen/Qwen3-Embedding-0.6B (no such folder)", "m/m/Qwen/Qwen3-Reranker", "m/d/mteb/scifact (no such"],
    ),
    "the lab": (["lab", "--task", "SciFact", *HUB, "-i", "none", "-i", "task"], ["Reranker-0.6B", "mteb/scifact"]),
    "compare": (["compare", "configs/qwen3-0.6b.yaml", "--run"], ["Qwen3-Embedding", "Reranker-0.6B", "mteb/scifact"]),
    "reproduce": (["reproduce", "--model", "Qwen3-Reranker-4B"], ["Qwen3-Embedding", "Reranker-4B", "mteb/arguana"]),
}


@pytest.mark.parametrize("case", MISSING)
def test_all_that_is_missing_is_named_with_one_command_and_the_one_after_it(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    arguments, words = MISSING[case]
    monkeypatch.setattr("rerank_eval.pipeline.run.load_backend", lambda *_: pytest.fail("a model was loaded"))
    code = _run(arguments)
    error = capsys.readouterr().err
    assert code == (4 if case == "mirrors" else 5)
    assert len(error.strip().splitlines()) == 1
    assert all(word in error for word in words), error
    fetch, then = commands(error)[:2]
    begin = shlex.split(typed.program())
    assert fetch[: len(begin) + 1] == [*begin, "fetch"]
    assert then[: len(begin) + len(arguments)] == [*begin, *arguments]
    # What the two commands say is what the command line takes: neither is a usage error.
    for one in (fetch, then):
        own = one[len(begin) :]
        assert _run([own[0], "--help"]) == 0
        taken = {option for group in app.registered_commands for option in [group.name]}
        assert own[0] in taken | {"lab", "compare", "reproduce", "fetch"}
    assert _run([*fetch[len(begin) :], "--dry-run"]) == 5  # the hub is out of reach, and nothing else is wrong with it
    assert not (project / "results").exists()
    if case == "reproduce":
        assert "Qwen/Qwen3-Reranker-4B" in fetch
        assert "Qwen/Qwen3-Reranker-8B" not in fetch


STARTS = {
    "a device": (["eval", "--set", "device=cuda:7"], 7),
    "the lab's device": (["lab", "-t", "PyModuleRetrieval", "-i", "none", "-i", "task", "--set", "device=cuda:7"], 7),
    "compare's device": (["compare", "configs/base.yaml", "--run", "--set", "device=cuda:7"], 7),
    "reproduce's device": (["reproduce", "--set", "device=cuda:7"], 7),
    "a tracker": (["eval", "--set", "tracking={tool: mlflow}"], 2),
    "compare's tracker": (["compare", "configs/base.yaml", "--run", "--set", "tracking={tool: mlflow}"], 2),
    "a hub task": (["eval", "--task", "SciFact"], 5),
    "a model's folder": (["eval", "--set", "reranker.model=./nowhere"], 4),
    "a torn corpus": (["eval", "--task", "torn", "--config", "configs/base.yaml", "--set", "retriever.model=bm25"], 3),
}


@pytest.mark.parametrize("case", STARTS)
def test_a_failed_start_leaves_nothing(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    if "tracker" in case:
        monkeypatch.setitem(sys.modules, "mlflow", None)
    if case == "a torn corpus":
        write_beir_folder(project / "torn")
        corpus = project / "torn" / "corpus.jsonl"
        corpus.write_text(corpus.read_text() + '{"_id": ')
    before = sorted(project.rglob("*"))
    arguments, code = STARTS[case]
    assert _run(arguments) == code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert sorted(project.rglob("*")) == before


def test_what_was_there_before_a_failed_start_stays(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "results").mkdir()
    (project / "results" / "notes.txt").write_text("mine")
    write_beir_folder(project / "torn")
    (project / "torn" / "corpus.jsonl").write_text('{"_id": ')
    assert _run(["eval", "--task", "torn", "--set", "retriever.model=bm25"]) == 3
    assert (project / "results" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "reranker.model=demo:qwen3-pyton"], "did you mean 'demo:qwen3-python'"),
        (["--set", "reranker.model=bm25"], "unknown reranker 'bm25'; valid: Qwen/Qwen3-Reranker-0.6B, demo:"),
        (
            ["--set", "retriever.model=demo:qwen3-python"],
            "unknown retriever 'demo:qwen3-python'; valid: Qwen/Qwen3-Emb",
        ),
        (["--config", "offlin.yaml"], "did you mean 'configs/offline.yaml'"),
        (["--config", "offlin"], "did you mean 'configs/offline.yaml'"),
        (["--config", "qwen3-8.b"], "did you mean 'configs/qwen3-8b.yaml'"),
        (["--config", "elsewhere/offline.yaml"], "did you mean 'configs/offline.yaml'"),
        (["--config", "configs/ofline.yml"], "did you mean 'configs/offline.yaml'"),
    ],
)
def test_a_suggestion_is_valid_where_it_is_made(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (project / "configs" / ".ofline.yaml").write_text("tasks: [Embedded]\n")
    (project / "configs" / "ofline.yaml").mkdir()
    assert _run(["eval", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_hub_models_suggestion_is_of_its_kind_and_near() -> None:
    """An embedder's name is no help where a reranker is wanted, and a model that mteb does not know is no mistake."""
    for name, where, suggested in (
        ("Qwen/Qwen3-Rernker-0.6B", "c.yaml: reranker.model", "Qwen/Qwen3-Reranker-0.6B"),
        ("Qwen/Qwen3-Embeding-0.6B", "c.yaml: retriever.model", "Qwen/Qwen3-Embedding-0.6B"),
        ("Qwen/Qwen3-Embeding-0.6B", "c.yaml: reranker.model", None),
        ("Qwen/Qwen3-Rernker-0.6B", "c.yaml: retriever.model", None),
        ("Alibaba-NLP/gte-multilingual-reranker-base", "c.yaml: reranker.model", None),
        ("someone/unheard-of", "c.yaml: reranker.model", None),
    ):
        with pytest.raises(OfflineError, match="not in the hub cache") as caught:
            resolve_model(name, None, where)
        assert (f"did you mean '{suggested}'" in str(caught.value)) == (suggested is not None)
        assert ("did you mean" in str(caught.value)) == (suggested is not None)


def test_a_program_is_named_as_it_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / ".venv" / "bin" / "rerank-eval"
    script.parent.mkdir(parents=True)
    script.write_text("")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for argument in (".venv/bin/rerank-eval", str(script)):
        monkeypatch.setattr(sys, "argv", [argument])
        assert typed.command("eval", "--task", "my folder") == ".venv/bin/rerank-eval eval --task 'my folder'"
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin")
    assert typed.command("eval") == "rerank-eval eval"
    other = tmp_path / "elsewhere" / "bin"
    shutil.copytree(script.parent, other)
    monkeypatch.setenv("PATH", f"{other}:/usr/bin")  # another installation is first
    assert typed.command("eval") == ".venv/bin/rerank-eval eval"
    monkeypatch.setattr(sys, "argv", ["/somewhere/rerank_eval/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert typed.command("eval") == ".venv/bin/python -m rerank_eval eval"


def test_a_command_that_is_printed_runs_when_it_is_typed(project: Path) -> None:
    """Through the installed script, started by its path from a folder without it on PATH."""
    script = Path(sys.executable).parent / "rerank-eval"
    if not script.is_file():
        pytest.skip("the package is not installed as a script")
    environment = os.environ | {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([script, "runs"], cwd=project, env=environment, capture_output=True, text=True, check=False)
    (told,) = commands(done.stderr)
    assert told == [str(script), "eval"]
    helped = subprocess.run([*told, "--help"], cwd=project, env=environment, capture_output=True, check=False)
    assert helped.returncode == 0


def test_the_library_checks_what_the_command_line_checks(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="device 'cuda:7' is not available"):
        load_reranker(RerankerConfig(), device="cuda:7")
    with pytest.raises(DeviceError, match="unknown device 'gpu'"):
        load_reranker(RerankerConfig(), device="gpu")
