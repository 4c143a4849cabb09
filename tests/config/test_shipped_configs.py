"""Configs by their names: which file is read, and copies to edit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rerank_eval.cli import _run
from rerank_eval.config import load_config
from rerank_eval.config.files import find_config, is_config
from rerank_eval.errors import ConfigError
from rerank_eval.shipped import config_names, shipped_config


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, text: str) -> Path:
    file = Path(path)
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def test_a_config_of_this_folder_wins_over_the_shipped_one(here: Path) -> None:
    name = Path("qwen3-8b")
    (here / "qwen3-8b").mkdir()  # a folder of results, say
    assert find_config(name) == (name, shipped_config("qwen3-8b"))
    assert load_config(name).path == name
    assert load_config(name).base.reranker.model == "Qwen/Qwen3-Reranker-8B"
    second = write("configs/qwen3-8b.yaml", "tasks: [NFCorpus]")
    assert find_config(name) == (second, second)
    first = write("qwen3-8b.yaml", "tasks: [SCIDOCS]")
    assert find_config(name) == (first, first)
    assert load_config(name).base.tasks == ["SCIDOCS"]
    (here / "qwen3-8b").rmdir()
    file = write("qwen3-8b", "tasks: [FiQA2018]")
    assert load_config(file).base.tasks == ["FiQA2018"]


@pytest.mark.parametrize("own", ["mine", "offline"])
def test_a_file_extends_a_shipped_config_by_its_name(here: Path, own: str) -> None:
    path = write(f"{own}.yaml", "extends: offline\nretriever: {top_k: 7}\n")
    shipped, loaded = load_config(shipped_config("offline")), load_config(path)
    assert loaded.base.retriever.top_k == 7
    assert len(loaded.runs) == len(shipped.runs) == 2
    assert loaded.base.reranker == shipped.base.reranker


def test_a_file_beside_it_comes_before_the_shipped_one(here: Path) -> None:
    write("sub/base.yaml", "tasks: [SciFact]")
    assert load_config(write("sub/own.yaml", "extends: base\n")).base.tasks == ["SciFact"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: qwen3-8", "did you mean 'qwen3-8b'?"),
        ("extends: qwen3-8b.yaml", "did you mean 'qwen3-8b'?"),
        ("extends: own", "the files extend each other in a circle"),
        (f"extends: {'a' * 252}", "cannot be read|no such config file"),
    ],
)
def test_a_parent_that_is_not_there_is_one_line(here: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.compile(words.replace("?", r"\?"))) as caught:
        load_config(write("own.yaml", text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["qwen3-8", "qwen3-8b.yaml", "configs/qwen3-8b.yaml"])
def test_a_config_that_is_not_here_is_suggested_by_its_shipped_name(here: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"no such config file; did you mean 'qwen3-8b'\?"):
        load_config(Path(name))


def test_an_unlike_name_lists_what_there_is(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"valid: ablate-candidates, .*, qwen3-4b and [0-9] more"):
        load_config(Path("#" * 300))


def test_a_run_is_no_config(here: Path) -> None:
    assert is_config("offline")
    assert is_config("any.yaml")
    assert not is_config("BM25")
    assert not is_config("3f2a9c")
    (here / "offline").mkdir()
    assert not is_config("offline")


def test_configs_are_listed_with_what_they_are_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["configs"]) == 0
    listed = capsys.readouterr().out
    assert set(config_names()) <= set(listed.split())
    assert "Does the number format matter?" in listed
    assert "read from" not in listed
    write("offline.yaml", "description: My own.")
    assert _run(["configs"]) == 0
    [row] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("offline")]
    assert row.split() == ["offline", "My", "own.", "offline.yaml"]


@pytest.mark.parametrize("name", config_names())
def test_a_copy_says_what_the_shipped_config_says(here: Path, name: str) -> None:
    assert _run(["init", name]) == 0
    copy, shipped = load_config(here / f"{name}.yaml"), load_config(shipped_config(name))
    assert copy.base.extends is None
    assert (copy.base, copy.runs, copy.variants) == (shipped.base, shipped.runs, shipped.variants)
    assert str(shipped_config(name).parent) not in (here / f"{name}.yaml").read_text()


def test_a_copy_overwrites_nothing_unless_forced(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write("offline.yaml", "tasks: [SciFact]\n")
    assert _run(["init"]) == 2
    assert "offline.yaml: is here already; --force overwrites it" in capsys.readouterr().err
    assert file.read_text() == "tasks: [SciFact]\n"
    assert _run(["init", "--force"]) == 0
    assert load_config(file).runs == load_config(shipped_config("offline")).runs


@pytest.mark.parametrize("name", ["offlin", "../offline", "schema"])
def test_a_copy_of_nothing_is_one_line(here: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert _run(["init", name]) == 2
    assert f"{name}: no such config; " in capsys.readouterr().err
    assert list(here.iterdir()) == []
