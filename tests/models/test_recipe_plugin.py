"""Recipes of another package, found by their entry points: `tests/plugin`, laid out as an installer leaves it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.processes import PLUGIN, beside_the_plugin

ROOT = Path(__file__).parents[2]


def score(folder: Path, recipe: str) -> subprocess.CompletedProcess[str]:
    content = {"device": "cpu", "reranker": {"model": "demo:qwen3-python", "recipe": recipe}, "tasks": ["SmallPython"]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    pair = ["--query", "rain", "--document", "it rained", "--instruction", "find weather"]
    return beside_the_plugin(folder, ["score", *pair, "--config", "mine.yaml"])


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
    path = os.pathsep.join([str(PLUGIN), str(ROOT / "src")])
    printed = subprocess.check_output(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, text=True
    )
    *packaged, built_in = printed.split()
    names, digests = zip(*(name.split("@") for name in packaged), strict=True)
    assert names == ("terse", "terse_file", "terse_object")
    assert len(set(digests)) == 1
    assert len(digests[0]) == 8
    assert built_in == "card"


def test_a_package_s_recipe_serves_the_models_that_it_names_and_a_broken_one_beside_it_harms_nobody(
    tmp_path: Path,
) -> None:
    program = (
        "from rerank_eval.models.recipes import known_recipe\n"
        "print(known_recipe('Made-Up/Terse-Reranker').name, known_recipe('made-up/other'))"
    )
    path = os.pathsep.join([str(PLUGIN), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        capture_output=True,
        check=True,
    )
    name, other = done.stdout.split()
    assert name.startswith("terse@")
    assert other == "None"
    assert "a package's recipe is left out: recipe 'misspelt': instruct_tempalte: unknown key" in done.stderr
    listed = beside_the_plugin(tmp_path, ["recipes"])
    assert listed.returncode == 0
    assert "made-up/terse-reranker" in listed.stdout


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
