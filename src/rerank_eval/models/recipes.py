"""Prompt recipes by name, or from a user's YAML file."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rerank_eval.config.schema import is_yaml_file
from rerank_eval.config.yaml_files import read_yaml
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.recipe import RECIPES, Recipe, SoftmaxDtype, Truncation
from rerank_eval.errors import ConfigError
from rerank_eval.files import at_home
from rerank_eval.names import did_you_mean, digest

_PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"


class RecipeFile(BaseModel):
    """A recipe as a user writes it: a recipe to start from, and what differs from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str | None = Field(default=None, pattern=_PLAIN_NAME)
    """What tables call it; the file's name without its ending when left out."""
    extends: str = "card"
    """Recipe to start from: `card`, `qwen_eval` or `mteb`."""
    prefix: str | None = None
    """System turn and opening of the user turn."""
    instruct_template: str | None = None
    """Line that holds `{instruction}`; left out of the prompt where there is no instruction."""
    query_template: str | None = None
    """Holds `{query}`; ends where the document begins."""
    document_template: str | None = None
    """Holds `{document}`."""
    closing: str | None = None
    """What closes the user turn before the suffix."""
    suffix: str | None = None
    """What stands behind the document; the answer is read at its last token."""
    default_instruction: str | None = None
    """Instruction where none is given."""
    truncation: Truncation | None = None
    """`body` cuts what stands between prefix and suffix, `message` all before the suffix."""
    joins_query_and_instruction: bool | None = None
    """Whether a query's own instruction also stands behind the query."""
    softmax_dtype: SoftmaxDtype | None = None
    """Where the head `recipe_softmax` takes its softmax."""
    reads_task_prompt: bool | None = None
    """Whether `instruction: task` gives each task its own instruction."""
    yes: str | None = None
    """The answer that says relevant, one token."""
    no: str | None = None
    """The answer that says irrelevant, one token."""


def find_recipe(name: str, where: str) -> Recipe:
    """Look a recipe up, or read it from a file.

    Args:
        name: `card`, `qwen_eval`, `mteb`, or the path of a YAML file, relative to the current folder.
        where: File and key that named it, for error messages.

    Returns:
        The recipe. One from a file has its content's digest in its name, so that results of two versions keep apart.

    Raises:
        ConfigError: There is no such recipe, or the file is malformed; names file and key.
    """
    if name in RECIPES:
        return RECIPES[name]
    if not is_yaml_file(name):
        raise ConfigError(f"{where}: unknown recipe {name!r}; {did_you_mean(name, RECIPES)}")
    path = at_home(name)
    data = read_yaml(path, "file")
    try:
        told = RecipeFile.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, RecipeFile)}") from None
    if told.extends not in RECIPES:
        raise ConfigError(f"{path}: extends: unknown recipe {told.extends!r}; {did_you_mean(told.extends, RECIPES)}")
    own: dict[str, Any] = told.model_dump(exclude={"name", "extends"}, exclude_none=True)
    title = told.name or path.stem
    try:
        recipe = dataclasses.replace(RECIPES[told.extends], name=title, **own)
    except EngineError as error:
        raise ConfigError(f"{path}: {error}") from None
    content = {key: value for key, value in dataclasses.asdict(recipe).items() if key != "name"}
    return dataclasses.replace(recipe, name=f"{title}@{digest(content, 8)}")


def explain(error: ValidationError, model: type[BaseModel], inner: type[BaseModel] | None = None) -> str:
    """Say in one line what is wrong with a file: the key, and the nearest valid one for an unknown key.

    Args:
        error: pydantic's error.
        model: What the file was read as.
        inner: What its entries were read as, where they have keys too.
    """
    # A misspelt key is also a missing one; and of a union's branches the one with keys says more.
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    location = [
        str(part) for part in problem["loc"] if inner is None or (part != "str" and inner.__name__ not in str(part))
    ]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        fields = (model if len(location) == 1 or inner is None else inner).model_fields
        return f"{key}: unknown key; {did_you_mean(location[-1], fields)}"
    return f"{key}: {problem['msg']}"
