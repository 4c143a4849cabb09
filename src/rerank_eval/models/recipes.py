"""Prompt recipes by name, from an installed package or from a user's YAML file.

A package declares its own in pyproject.toml; the object is a `Recipe`, a mapping with the keys of `RecipeFile`, or the
path of a YAML file:

    [project.entry-points."rerank_eval.recipes"]
    terse = "my_package.recipes:TERSE"
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rerank_eval.config.files import read_yaml
from rerank_eval.config.schema import RECIPES, is_yaml_file
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.recipe import Reads, Recipe, SoftmaxDtype, Tokenize, Truncation
from rerank_eval.errors import ConfigError
from rerank_eval.files import at_home
from rerank_eval.names import did_you_mean, digest

logger = logging.getLogger(__name__)

AUTO = "auto"
"""The recipe that a checkpoint's files state, or that the registry has for its name."""
_PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"
_MAY_BE_NULL = {"no", "default_instruction", "instructed_query_template", "bos"}
_OF_NO_PROMPT = ("name", "models", "max_length", "dtype")
"""What of a recipe changes no prompt and no score; `max_length` stands in the identity by itself."""
_FIRST_FIELDS = (
    "prefix",
    "instruct_template",
    "query_template",
    "document_template",
    "closing",
    "suffix",
    "default_instruction",
    "truncation",
    "joins_query_and_instruction",
    "softmax_dtype",
    "reads_task_prompt",
    "yes",
    "no",
)
"""Fields of the first release, which always stand in a digest; a later one does where it is not its default."""


class RecipeFile(BaseModel):
    """A recipe as a user writes it: a recipe to start from, and what differs from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str | None = Field(default=None, pattern=_PLAIN_NAME)
    """What tables call it; the file's name without its ending when left out."""
    extends: str = "card"
    """Built-in recipe to start from."""
    prefix: str | None = None
    """System turn and opening of the user turn."""
    instruct_template: str | None = None
    """Line that holds `{instruction}`; left out of the prompt where there is no instruction."""
    query_template: str | None = None
    """Holds `{query}`."""
    instructed_query_template: str | None = None
    """Holds `{query}` and `{instruction}`, for both where there is an instruction: `{query} {instruction}` puts it
    behind the query."""
    order: tuple[str, ...] | None = None
    """`instruction`, `query` and `document` in the prompt's order."""
    separator: str | None = None
    """Stands behind the query and behind the document."""
    tokenize: Tokenize | None = None
    """`whole`: the prompt is one text; `apart`: prefix, query, separator, document, closing and suffix are tokenised
    one by one."""
    bos: bool | None = None
    """Whether the tokenizer's beginning-of-sequence token stands first."""
    document_template: str | None = None
    """Holds `{document}`."""
    closing: str | None = None
    """What closes the user turn before the suffix."""
    suffix: str | None = None
    """What stands behind the document; the answer is read at its last token."""
    default_instruction: str | None = None
    """Instruction where none is given."""
    truncation: Truncation | None = None
    """`body` cuts what stands between prefix and suffix, `message` all before the suffix, `prompt` the whole
    prompt but for its suffix, `document` the document."""
    joins_query_and_instruction: bool | None = None
    """Whether a query's own instruction also stands behind the query."""
    softmax_dtype: SoftmaxDtype | None = None
    """Where the head `recipe_softmax` takes its softmax."""
    reads_task_prompt: bool | None = None
    """Whether `instruction: task` gives each task its own instruction."""
    yes: str | int | None = None
    """The answer that says relevant: a text of one token, or a token's id."""
    no: str | int | None = None
    """The answer that says irrelevant; null where the logit of `yes` alone is the score."""
    scale: float | None = Field(default=None, gt=0)
    """Divides the margin before the sigmoid that makes a probability of it."""
    models: tuple[str, ...] | None = None
    """Checkpoints on the hub that were trained with it, for which `recipe: auto` takes it."""
    max_length: int | None = None
    """The authors' limit in tokens."""
    dtype: str | None = None
    """The dtype that the authors publish scores in."""
    reads: Reads | None = None
    """`last`: the answer is read at the last token; `pooled`: a classifier pools the states of all tokens, so that the
    suffix may be empty and there are no answers."""


def find_recipe(name: str, where: str) -> Recipe | None:
    """Look a recipe up, or read it from a file.

    Args:
        name: `auto`, a built-in recipe's name, an installed package's, or the path of a YAML file, relative to the
            current folder.
        where: File and key that named it, for error messages.

    Returns:
        The recipe; None for `auto`, which the checkpoint decides. One that is not built in has its content's digest in
        its name, so that results of two versions keep apart.

    Raises:
        ConfigError: There is no such recipe, or it is malformed; names file and key.
    """
    if name == AUTO:
        return None
    if name in RECIPES.names():
        found = RECIPES.get(name, where)
        if name in RECIPES.builtins:
            return cast("Recipe", found)
        return _made(found, name, f"recipe {name!r}")
    if not is_yaml_file(name):
        raise ConfigError(f"{where}: unknown recipe {name!r}; {did_you_mean(name, RECIPES)}")
    return _made(at_home(name), at_home(name).stem, str(at_home(name)))


def _made(found: object, title: str, source: str) -> Recipe:
    """Make a recipe of a `Recipe`, the keys of a `RecipeFile`, or the path of a YAML file with such keys."""
    if isinstance(found, str | Path):
        found = read_yaml(Path(found), "file")
    if not isinstance(found, Recipe):
        found = _read(found, title, source)
        title = found.name
    return dataclasses.replace(found, name=f"{title}@{content_digest(found)}")


def content_digest(recipe: Recipe) -> str:
    """Digest what of a recipe can change a prompt or a score."""
    default = {field.name: field.default for field in dataclasses.fields(Recipe)}
    content = {
        key: value
        for key, value in dataclasses.asdict(recipe).items()
        if key not in _OF_NO_PROMPT and (key in _FIRST_FIELDS or value != default[key])
    }
    return digest(content, 8)


def known_recipe(model: str) -> Recipe | None:
    """Return the recipe that a checkpoint on the hub was trained with, or None where none is known.

    Args:
        model: Its name on the hub, `org/name`; letter case does not matter, as on the hub.
    """
    found = (recipe for recipe in all_recipes() if model.lower() in map(str.lower, recipe.models))
    return next(found, None)


def all_recipes() -> Iterator[Recipe]:
    """Yield the built-in recipes, then those of packages; one that is malformed is left out with a warning."""
    for name in RECIPES.names():
        try:
            recipe = find_recipe(name, f"recipe {name!r}")
        except ConfigError as error:
            logger.warning("a package's recipe is left out: %s", error)
            continue
        if recipe is not None:
            yield recipe


def _read(content: object, title: str, source: str) -> Recipe:
    try:
        read = RecipeFile.model_validate(content)
        changes: dict[str, Any] = read.model_dump(exclude={"name", "extends"}, exclude_none=True)
        changes |= {key: None for key in _MAY_BE_NULL & read.model_fields_set if getattr(read, key) is None}
        if read.extends not in RECIPES.builtins:
            near = did_you_mean(read.extends, RECIPES.builtins)
            raise ConfigError(f"{source}: extends: unknown recipe {read.extends!r}; {near}")
        base = cast("Recipe", RECIPES.get(read.extends))
        return dataclasses.replace(base, **{"models": (), "name": read.name or title} | changes)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, RecipeFile)}") from None
    except EngineError as error:
        raise ConfigError(f"{source}: {error}") from None


def explain(error: ValidationError, model: type[BaseModel], inner: type[BaseModel] | None = None) -> str:
    """Say in one line what is wrong with a file: the key, and the nearest valid one for an unknown key."""
    # A misspelt key is also a missing one; and of a union's branches the one with keys says more.
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    location = [
        str(part) for part in problem["loc"] if inner is None or (part != "str" and inner.__name__ not in str(part))
    ]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        fields = (model if len(location) == 1 or inner is None else inner).model_fields
        return f"{key}: unknown key; {did_you_mean(location[-1], fields)}"
    return f"{key}: {problem['msg']}" if key else str(problem["msg"])
