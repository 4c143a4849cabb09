"""The command `recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from rerank_eval.commands import app, console
from rerank_eval.tables import simple


@app.command()
def recipes(
    jinja: Annotated[
        str | None,
        typer.Option(
            help="Print this recipe, a name or a YAML file, as the chat template of a server.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """List the prompt recipes: what a causal reranker is sent, what is read, and the models that each is known for.

    `reranker.recipe: auto`, the default, takes what a checkpoint's files state, else the recipe known for its name on
    the hub. `reranker.recipe: NAME` or a YAML file takes that one. `--jinja NAME > FILE` writes a recipe for
    `--chat-template FILE` of vLLM and SGLang.
    """
    from rerank_eval.models.recipes import all_recipes

    if jinja is not None:
        _print_template(jinja)
        return
    rows = []
    for recipe in all_recipes():
        answer = f"{recipe.yes!r}" if recipe.no is None else f"{recipe.yes!r} - {recipe.no!r}"
        if recipe.reads == "pooled":
            answer = "of a head on pooled states"
        order = ", ".join(part.name for part in recipe.parts(instructed=True) if part.texts)
        rows.append(
            [recipe.name.partition("@")[0], order, answer, ", ".join(recipe.models) or "named by a config alone"]
        )
    console.print(simple(["recipe", "order", "logit", "known for"], rows, widths=[None, None, None, 70]), markup=False)


def _print_template(name: str) -> None:
    from rerank_eval.engine.chat_template import chat_template
    from rerank_eval.errors import ConfigError
    from rerank_eval.models.recipes import find_recipe

    recipe = find_recipe(name, "--jinja")
    if recipe is None:
        raise ConfigError("--jinja: auto is what a checkpoint's files say; name a recipe, such as card")
    typer.echo(chat_template(recipe))
