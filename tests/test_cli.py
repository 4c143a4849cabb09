"""Every mistake of a user's ends in one line and a documented exit code, before any model is loaded."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rerank_eval import cli, errors
from rerank_eval.cli import _run
from rerank_eval.session.choice import choose_config
from tests.pipeline.folders import write_beir_folder

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    write_beir_folder(tmp_path / "data" / "tools")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def no_corpus(folder: Path) -> None:
    (folder / "corpus.jsonl").unlink()


def empty_corpus(folder: Path) -> None:
    (folder / "corpus.jsonl").write_text("")


def broken_line(folder: Path) -> None:
    path = folder / "corpus.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:-5]
    path.write_text("\n".join(lines) + "\n")


def duplicate_document(folder: Path) -> None:
    path = folder / "corpus.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[0]]) + "\n")


def unknown_document(folder: Path) -> None:
    with (folder / "qrels" / "test.tsv").open("a") as handle:
        handle.write("q0\tnowhere\t1\nq1\tnowhere\t1\n")


def unknown_query(folder: Path) -> None:
    with (folder / "qrels" / "test.tsv").open("a") as handle:
        handle.write("nobody\td0-0\t1\nnobody\td0-1\t1\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_corpus, r"corpus\.jsonl"),
        (empty_corpus, r"corpus\.jsonl.*(empty|no documents)"),
        (broken_line, r"corpus\.jsonl(:|, line )3\b"),
        (duplicate_document, r"corpus\.jsonl(:|, line )61\b.*d0-0"),
        (unknown_document, r"test\.tsv(:|, line )14\b.*nowhere"),
        (unknown_query, r"test\.tsv(:|, line )14\b.*nobody"),
    ],
)
def test_a_broken_beir_folder_names_file_and_line(
    project: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], words: str
) -> None:
    damage(project / "data" / "tools")
    assert _run(["eval", "--task", "data/tools", "--config", "configs/base.yaml"]) == errors.DataError.exit_code
    error = capsys.readouterr().err
    assert re.search(words, error), error
    assert len(error.strip().splitlines()) == 1
    assert not list((project / "results").rglob("manifest.json"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["eval", "--task", "PyFunctionRetreival"], 2, "did you mean 'PyFunctionRetrieval'"),
        (["eval", "--task", "SciFcat"], 2, "did you mean 'SciFact'"),
        (["eval", "--task", "data/nowhere"], 2, "data/nowhere"),
        (["eval", "--config", "configs/ofline.yaml"], 2, "did you mean 'configs/offline.yaml'"),
        (["eval", "--set", "reranker.dtype=bf16"], 2, "did you mean 'bfloat16'"),
        (["eval", "--set", "reranker.model=./nowhere"], 4, "reranker.model: nowhere: no config.json there"),
        (["eval", "--task", "SciFact"], 5, "configs/qwen3-0.6b.yaml: not here"),
        (["eval", "--task", "SciFact", "--config", "configs/base.yaml"], 5, "SciFact"),
        (["eval", "--frobnicate"], 2, "No such option"),
        (["tasks", "MTEB-Q"], 2, "did you mean 'MTEB-R'"),
        (["score", "-q", "a", "-d", "b", "--set", "reranker=null"], 2, "reranker: is null"),
        (["leaderboard", "--results", "nowhere"], 2, "no results there"),
        (["reproduce", "--only-judge", "--results", "nowhere"], 2, "nowhere: no such folder"),
        (["reproduce", "--only-judge", "--results", "data"], 2, "data: no result of the table's models"),
        (["reproduce", "--model", "Qwen3-Reranker-8"], 2, "did you mean 'Qwen3-Reranker-8B'"),
        (["reproduce", "--suite", "MTEB"], 2, "--suite 'MTEB': not in the published table"),
        (["reproduce", "--config", "configs/base.yaml"], 2, "configs/base.yaml: has no run of Qwen3-Embedding-0.6B"),
        (["reproduce"], 5, "configs/model-card.yaml: not here"),
    ],
)
def test_a_mistake_is_one_line_and_a_documented_exit_code(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert _run(arguments) == code
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1


def test_a_file_where_the_results_folder_should_be_is_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "results").write_text("")
    assert _run(["eval", "--task", "data/tools"]) == errors.StorageError.exit_code
    assert "a file stands where a folder is needed" in capsys.readouterr().err


def test_the_first_line_says_which_config_was_chosen_and_why(project: Path) -> None:
    assert choose_config([], None) == (Path("configs/offline.yaml"), "the default: no GPU and no hub needed")
    assert choose_config(["PyFunctionRetrieval"], None)[0] == Path("configs/offline.yaml")
    assert choose_config(["MTEB-R"], None)[0] == Path("configs/qwen3-0.6b.yaml")
    assert choose_config(["SciFact"], None)[0] == Path("configs/qwen3-0.6b.yaml")
    assert choose_config(["SciFact"], Path("x.yaml")) == (Path("x.yaml"), "you named it")
    assert choose_config([], Path("qwen3-8b")) == (Path("configs/qwen3-8b.yaml"), "you named it")
    shutil.rmtree(project / "configs")
    assert choose_config([], None)[0] == Path("offline")
    assert choose_config([], Path("qwen3-8b")) == (Path("qwen3-8b"), "you named it; comes with rerank-eval")


def test_score_shows_the_exact_prompt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    arguments = ["score", "-q", "What is the capital of China?", "-d", "The capital of China is Beijing."]
    assert _run([*arguments, "-i", "Given a web search query, retrieve relevant passages that answer the query"]) == 0
    printed = capsys.readouterr().out
    assert "<|im_start|>user\n<Instruct>: Given a web search query" in printed
    assert "<Query>: What is the capital of China?\n<Document>: The capital of China is Beijing.<|im_end|>" in printed
    assert re.search(r"tokens:  \d+\n", printed)
    assert re.search(r"margin:  -?\d+\.\d{6}\nP\(yes\):  0\.\d{6}\n", printed)
    assert "trained by this project on Python functions alone" in " ".join(printed.split())


def test_tasks_lists_every_suite_with_its_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["tasks"]) == 0
    printed = capsys.readouterr().out
    for name in ("MTEB-R", "CMTEB-R", "MMTEB-R", "MLDR", "MTEB-Code", "FollowIR", "Embedded", "BelebeleRetrieval"):
        assert name in printed
    assert "8 splits" in printed  # LEMBPasskey's, which would push the numbers off the screen
    assert max(map(len, printed.splitlines())) <= 120
    assert _run(["tasks", "mldr"]) == 0
    printed = capsys.readouterr().out
    assert "380,000" in printed
    assert "SciFact" not in printed


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "rerank-eval config"


@pytest.mark.parametrize("command", ["", "doctor", "eval", "tasks", "schema", "score", "leaderboard", "reproduce"])
def test_help_teaches_and_is_quick(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rerank_eval", *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Usage:" in done.stdout
    assert " torch" not in done.stderr  # help must not take the seconds that importing torch takes
    assert " mteb" not in done.stderr


def test_every_error_class_has_its_own_documented_exit_code() -> None:
    classes = errors.RerankEvalError.__subclasses__()
    codes = [cls.exit_code for cls in classes]
    assert len(set(codes)) == len(codes)
    for cls in classes:
        assert f"| {cls.exit_code} | {cls.__name__} |" in (errors.__doc__ or "")
        assert str(cls.exit_code) in (cli.__doc__ or "")


HANGS = """
import os, signal, time
from rerank_eval import cli
cli._UNWIND_SECONDS = 0.5
def app(**_):
    os.kill(os.getpid(), signal.SIGTERM)
    try:
        time.sleep(60)
    finally:
        time.sleep(60)
cli.app = app
cli.main([])
"""


def test_a_process_that_is_told_to_end_ends_though_what_it_waits_for_does_not() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, timeout=50, check=False)
    assert done.returncode == 143, done.stderr
    assert done.stderr.startswith(b"interrupted: what was scored is kept")


@pytest.mark.parametrize(
    "setting",
    [
        "results_dir=~nosuchuser/x",
        "data_root=~nosuchuser/x",
        "model_root=~nosuchuser/x",
        "reranker.model=~nosuchuser/x",
        "reranker.recipe=~nosuchuser/x.yaml",
        "reranker.instruction=~nosuchuser/x.yaml",
        'tasks=["~nosuchuser/x"]',
    ],
)
def test_the_home_of_nobody_is_one_line(project: Path, capsys: pytest.CaptureFixture[str], setting: str) -> None:
    assert _run(["eval", "--config", "configs/base.yaml", "--task", "data/tools", "--set", setting]) == 2
    assert "there is no such user's home; give the whole path" in capsys.readouterr().err
