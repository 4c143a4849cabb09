"""The documentation names what is there; what `docs/hooks.py` makes of the code is complete; README's example runs."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from rerank_eval.config import json_schema
from rerank_eval.errors import ConfigError, VerificationError

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_paths_and_commands_that_are_there(
    hooks: ModuleType, page: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = page.relative_to(ROOT / "docs").as_posix()
    with caplog.at_level(logging.WARNING):
        hooks.on_page_markdown(page.read_text(encoding="utf-8"), SimpleNamespace(file=SimpleNamespace(src_uri=name)))
    assert caplog.messages == []


def test_links_of_the_files_beside_the_site_lead_somewhere(hooks: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        hooks.on_pre_build(None)
    assert caplog.messages == []


def test_what_is_not_there_is_told(hooks: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    hooks.on_page_markdown("`src/gone.py` and `rerank-eval gone` and\n```sh\nrerank-eval lost --now\n```\n", page)
    assert caplog.messages == [
        "page.md names src/gone.py, which is not there",
        "page.md names the command gone, which is not there",
        "page.md names the command lost, which is not there",
    ]


def test_readme_is_one_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_config_key_stands_in_the_table(hooks: ModuleType) -> None:
    schema, table = json_schema(), hooks.config_keys()
    sections = {
        "": schema,
        "reranker.": schema["$defs"]["RerankerConfig"],
        "workers.": schema["$defs"]["WorkersConfig"],
    }
    for prefix, section in sections.items():
        for key in section["properties"]:
            assert f"| `{prefix}{key}` |" in table
    assert "| `reranker.dtype` | `float32` |" in table


def test_every_command_stands_with_its_options_and_examples(hooks: ModuleType) -> None:
    text = hooks.commands()
    assert {"## eval", "## store", "### store verify"} <= set(text.splitlines())
    assert "| `--against` |" in text
    assert "```sh\nrerank-eval doctor\n" in text


def test_exit_codes_are_those_of_the_errors(hooks: ModuleType) -> None:
    rows = dict(re.findall(r"\| (\d+) \| (.+) \|", hooks.exit_codes()))
    assert set(map(int, rows)) == {*range(13), 130, 143}
    assert rows[str(ConfigError.exit_code)] == (ConfigError.__doc__ or "").splitlines()[0]
    assert rows[str(VerificationError.exit_code)] == (VerificationError.__doc__ or "").splitlines()[0]


@pytest.mark.slow
def test_the_example_of_readme_runs(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    script = next(block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "my.yaml" in block)
    program = f"{sys.executable} -m rerank_eval"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["bash", "-euc", script.replace(".venv/bin/rerank-eval", program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "report.html").is_file()
    assert "Qwen3-python" in (tmp_path / "results" / "leaderboard.md").read_text(encoding="utf-8")
