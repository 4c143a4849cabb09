"""Prompt recipes by name, a file each in this folder: the exact strings that public code paths send."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    module.name: import_module(f"{__name__}.{module.name}").RECIPE for module in iter_modules(__path__)
}
"""Name -> recipe. The file's name is the recipe's."""


def get_recipe(recipe: Recipe | str) -> Recipe:
    """Return a recipe by its name, or as it is.

    Raises:
        EngineError: There is no recipe of that name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise EngineError(f"unknown recipe {recipe!r}; valid: {', '.join(RECIPES)}")
    return RECIPES[recipe]
