from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from rerank_eval.config import schema
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.engine.recipes.card import RECIPE as CARD
from rerank_eval.errors import ConfigError
from rerank_eval.models.instruction_sets import find_instruction_set
from rerank_eval.models.recipes import RecipeFile, find_recipe

WHERE = "own.yaml: reranker.recipe"


def write(path: Path, **content: object) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_the_names_in_the_config_are_the_engine_s() -> None:
    assert tuple(RECIPES) == schema.RECIPES.builtins
    for name in RECIPES:
        assert RECIPES[name].name == name
        assert find_recipe(name, WHERE) is RECIPES[name]


def test_every_field_of_a_recipe_can_be_given() -> None:
    assert set(RecipeFile.model_fields) - {"extends"} == {field.name for field in dataclasses.fields(CARD)}


def test_a_recipe_from_a_file(tmp_path: Path) -> None:
    recipe = find_recipe(
        write(tmp_path / "short.yaml", instruct_template="Task: {instruction}\n", yes="true", no="false"), WHERE
    )
    assert recipe.prompt("q", "d", "find").startswith(CARD.prefix + "Task: find\n<Query>: q\n<Document>: d")
    assert (recipe.yes, recipe.no) == ("true", "false")
    assert recipe.name.startswith("short@")


def test_its_name_follows_its_content(tmp_path: Path) -> None:
    one = find_recipe(write(tmp_path / "mine.yaml", extends="mteb"), WHERE)
    same = find_recipe(write(tmp_path / "mine.yaml", extends="mteb", closing=""), WHERE)
    other = find_recipe(write(tmp_path / "mine.yaml", extends="mteb", closing="."), WHERE)
    named = find_recipe(write(tmp_path / "mine.yaml", extends="mteb", name="x"), WHERE)
    assert one == same
    assert one.name != other.name
    assert named.name == f"x@{one.name.partition('@')[2]}"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"extends": "crad"}, "mine.yaml: extends: unknown recipe 'crad'; did you mean 'card'?"),
        ({"sufix": "x"}, "mine.yaml: sufix: unknown key; did you mean 'suffix'?"),
        ({"query_template": "{qery}"}, "query_template must hold {query} once"),
        ({"suffix": ""}, "the suffix is empty"),
        ({"yes": "no"}, "yes and no must be two answers"),
        ({"truncation": "left"}, "mine.yaml: truncation: Input should be 'body', 'message', 'document' or 'prompt'"),
        ({"name": "a/b"}, "mine.yaml: name: String should match"),
    ],
)
def test_a_malformed_recipe_gives_one_line(tmp_path: Path, content: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_recipe(write(tmp_path / "mine.yaml", **content), WHERE)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"own\.yaml: reranker\.recipe: unknown recipe 'crd'; did you mean 'card'"):
        find_recipe("crd", WHERE)
    with pytest.raises(ConfigError, match="no such file"):
        find_recipe(str(tmp_path / "gone.yaml"), WHERE)


def test_the_documentation_s_recipe_and_instruction_set_are_read(tmp_path: Path) -> None:
    """`yes` and `no` are truths in YAML 1.1, also as keys."""
    page = (Path(__file__).parents[2] / "docs" / "rerankers.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```yaml\n# ([\w-]+\.yaml), for[^\n]*\n(.*?)```", page, re.DOTALL))
    for name, text in blocks.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    recipe = find_recipe(str(tmp_path / "my-recipe.yaml"), WHERE)
    assert (recipe.yes, recipe.no) == ("relevant", "irrelevant")
    instructions = find_instruction_set(str(tmp_path / "my-instructions.yaml"), WHERE)
    assert instructions is not None
    assert instructions.tasks["SciFact"]
