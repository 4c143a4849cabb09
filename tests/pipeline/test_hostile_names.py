"""Names and files of a results folder that mean harm: they stay text, and stay inside the folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from rerank_eval.cli import _run
from rerank_eval.names import slug
from tests.pipeline.folders import write_beir_folder

ROOT = Path(__file__).parents[2]
NAMES = [
    "=cmd|' /C calc'!A0 [red]x[/] [link=https://example.org]here[/link] $\\frac{1}{ \\input{/etc/passwd}",
    "../../../../tmp/x\x1b]0;owned\x07\x9b31m \u202egnp.exe",
    "a|b\n\n# Heading\n[x](https://example.org) </script><script>document.title='owned'</script>",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    shutil.copytree(ROOT / "configs", folder / "configs")
    write_beir_folder(folder / "tools")
    arguments = ["eval", "--config", "configs/base.yaml", "--task", "./tools", "--set", "retriever.model=bm25"]
    arguments += ["--set", "grid.retriever.top_k=[5, 10]", "--set", "reranker=null"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert _run(arguments) == 0
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path / "own")
    monkeypatch.chdir(tmp_path / "own")
    return tmp_path / "own"


def manifests(project: Path) -> list[Path]:
    return sorted(project.glob("results/runs/*/*/*/manifest.json"))


def rename(path: Path, name: str) -> None:
    """Put a name wherever a manifest has one."""
    manifest: dict[str, Any] = json.loads(path.read_text())
    manifest["row"] |= {"label": name, "detail": name, "notes": [name]}
    manifest["retriever"]["label"] = name
    manifest["task"] |= {"name": name, "dataset": name, "revision": name}
    manifest["identity"]["retriever"]["model"] = name
    path.write_text(json.dumps(manifest))


def outside(project: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in project.parent.rglob("*")
        if path.is_file() and not path.is_relative_to(project / "results")
    }


@pytest.mark.parametrize("name", NAMES)
def test_names_stay_text_in_every_output(project: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for path in manifests(project):
        rename(path, name)
    before = outside(project)
    capsys.readouterr()
    identity = json.loads(manifests(project)[0].read_text())["identity"]["digest"]
    commands = [
        ["leaderboard"],
        ["leaderboard", "--format", "card"],
        ["leaderboard", "--format", "tex"],
        ["runs"],
        ["report"],
        ["compare", *(json.loads(path.read_text())["identity"]["digest"] for path in manifests(project))],
        ["inspect", identity],
        ["verify"],
    ]
    for command in commands:
        assert _run(command) == (10 if command == ["verify"] else 0), command
        printed = capsys.readouterr()
        for text in (printed.out, printed.err):
            assert not set(text) & set("\x1b\x07\x9b\u202e\ud800"), command
    assert outside(project) == before
    results = project / "results"
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "<script>document.title" not in page
    for path in (results / "leaderboard.md", results / "leaderboard.csv", results / "leaderboard.tex"):
        text = path.read_text(encoding="utf-8")
        assert not set(text) & set("\x1b\x07\x9b\u202e")
    for line in (results / "leaderboard.csv").read_text().splitlines():
        assert not line.startswith(("=", "+", "-", "@"))
        assert ",=" not in line
    assert r"\input{" not in (results / "leaderboard.tex").read_text()
    assert "\n# Heading" not in (results / "leaderboard.md").read_text()


@pytest.mark.parametrize("name", [*NAMES, "..", ".", "", "/etc/passwd", "a" * 5000, "con\x00"])
def test_a_name_never_becomes_a_path(name: str) -> None:
    made = slug(name)
    assert Path("x", made).resolve().parent == Path("x").resolve()
    assert made not in {"", ".", ".."}
    assert len(made) <= 120


def test_links_that_lead_outside_are_written_over_not_through(project: Path) -> None:
    secret = project.parent / "secret.txt"
    secret.write_text("mine")
    for name in ("leaderboard.md", "leaderboard.csv", "report.html"):
        path = project / "results" / name
        path.unlink(missing_ok=True)
        path.symlink_to(secret)
    for path in manifests(project):
        own = path.parent / "per_query.parquet"
        own.unlink()
        own.symlink_to(secret)
    assert _run(["leaderboard"]) == 0
    assert _run(["report"]) == 3
    assert _run(["verify"]) == 10
    assert secret.read_text() == "mine"


def test_links_in_a_circle_end_in_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = project / "loop"
    loop.symlink_to(loop)
    capsys.readouterr()
    arguments = ["eval", "--config", "configs/base.yaml", "--set", "retriever.model=bm25", "--set", "reranker=null"]
    assert _run([*arguments, "--task", "./tools", "--set", "results_dir=loop/results"]) == 6
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert _run(["leaderboard", "--results", "loop"]) == 2
    assert _run([*arguments, "--task", "./loop"]) == 2


@pytest.mark.parametrize("name", ["a b", "ümläut", "名前", "-x", "a'b\"c", "[red]", "a\nb", "$HOME", "%s", "=1"])
def test_a_folder_of_an_odd_name_is_a_task(project: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_beir_folder(project / name)
    arguments = ["eval", "--config", "configs/base.yaml", "--set", "retriever.model=bm25", "--set", "reranker=null"]
    arguments += ["--set", "retriever.top_k=5", "--set", "results_dir=odd"]
    assert _run([*arguments, "--task", f"./{name}"]) == 0
    [folder] = (project / "odd" / "runs").glob("*/*/*")
    assert folder.name == slug(folder.name)
    assert os.path.commonpath([folder.resolve(), project / "odd"]) == str(project / "odd")
