"""Recipes of another package, found by their entry points: `tests/plugin`, laid out as an installer leaves it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from rerank_eval.config.schema import RECIPES

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "plugin"


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PLUGIN), str(ROOT / "src")]), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def score(folder: Path, recipe: str) -> subprocess.CompletedProcess[str]:
    content = {"device": "cpu", "reranker": {"model": "demo:qwen3-python", "recipe": recipe}, "tasks": ["SmallPython"]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    pair = ["--query", "rain", "--document", "it rained", "--instruction", "find weather"]
    return python("-m", "rerank_eval", "score", *pair, "--config", "mine.yaml", folder=folder)


def test_a_config_scores_with_a_package_s_recipe(tmp_path: Path) -> None:
    done = score(tmp_path, "terse")
    assert done.returncode == 0, done.stderr
    assert "<|im_start|>user\nTask: find weather\n<Query>: rain\n<Document>: it rained<|im_end|>" in done.stdout
    assert "margin:" in done.stdout


def test_its_three_forms_give_one_recipe_with_its_content_s_digest_in_its_name(tmp_path: Path) -> None:
    program = (
        "from rerank_eval.models.recipes import find_recipe\n"
        "for name in ('terse', 'terse_file', 'terse_object', 'card'): print(find_recipe(name, '').name)"
    )
    *packaged, built_in = python("-c", program, folder=tmp_path).stdout.split()
    names, digests = zip(*(name.split("@") for name in packaged), strict=True)
    assert names == ("terse", "terse_file", "terse_object")
    assert len(set(digests)) == 1
    assert len(digests[0]) == 8
    assert built_in == "card"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("misspelt", "recipe 'misspelt': instruct_tempalte: unknown key; did you mean 'instruct_template'?"),
        ("no_recipe", "recipe 'no_recipe': Input should be a valid dictionary"),
        ("terze", "unknown recipe 'terze'; did you mean 'terse'?"),
        ("TERSE", "unknown recipe 'TERSE'; did you mean 'terse'?"),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_line(tmp_path: Path, recipe: str, message: str) -> None:
    done = score(tmp_path, recipe)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_package_s_metadata_is_what_its_project_file_says() -> None:
    declared = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]["entry-points"][RECIPES.group]
    installed = ConfigParser()
    installed.read(PLUGIN / "rank_biased-1.0.dist-info" / "entry_points.txt")
    assert dict(installed[RECIPES.group]) == declared
