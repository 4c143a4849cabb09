"""The recipe that a causal reranker was trained with: stated by its files, or known for its name on the hub.

sentence-transformers 6 and vLLM score by the same files: `1_LogitScore` names the answers' tokens, the chat template
writes query and document (https://sbert.net/docs/cross_encoder/usage/custom_models.html).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rerank_eval.config.schema import RECIPES
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.loading import answer_ids
from rerank_eval.engine.recipe import Recipe
from rerank_eval.errors import ModelError
from rerank_eval.models.checkpoint import load_tokenizer, modules, read_mapping
from rerank_eval.models.pair_templates import (
    DOCUMENT,
    INSTRUCTION,
    QUERY,
    default_prompt,
    stated_recipe,
    writes_pairs,
)
from rerank_eval.models.recipes import all_recipes, content_digest, find_recipe, known_recipe
from rerank_eval.models.ref import ModelRef

_LOGIT_SCORE = "1_LogitScore"


def own_recipe(ref: ModelRef) -> Recipe:
    """Return the recipe that a causal reranker was trained with: its files', else that known for its name on the hub.

    Raises:
        ModelError: Neither says so, or the files say something that is not computed.
    """
    answers = None if ref.architecture.endswith("ForSequenceClassification") else stated_answers(ref)
    known = known_recipe(ref.name) if ref.published or ref.origin == "built-in" else None
    if writes_pairs(ref):
        stated = stated_recipe(ref, default_prompt(ref))
        if answers is not None:
            stated = dataclasses.replace(stated, yes=answers[0], no=answers[1])
        elif known is not None:
            stated = dataclasses.replace(stated, yes=known.yes, no=known.no)
        elif not ref.architecture.endswith("ForSequenceClassification"):
            raise ModelError(
                f"reranker.model: {ref.name} has a chat template for pairs, and no file of it says which token's logit "
                f"is the answer ({_LOGIT_SCORE}/config.json does); set reranker.recipe to a YAML file that names both"
            )
        return _as_known(ref, stated)
    if known is not None:
        return known if answers is None else _as_known(ref, dataclasses.replace(known, yes=answers[0], no=answers[1]))
    near = _of_the_same_name(ref)
    raise ModelError(
        f"reranker.model: neither {ref.name}'s files nor its name say with which prompt it was trained; set "
        f"reranker.recipe to a YAML file with its own prompt, or to a built-in recipe if it is that one{near}"
    )


def _as_known(ref: ModelRef, stated: Recipe) -> Recipe:
    """Return the built-in recipe that sends the same prompts and reads the same answers; else the stated one."""
    tokenizer = load_tokenizer(ref)
    classifies = ref.architecture.endswith("ForSequenceClassification")
    for name in RECIPES.builtins:
        recipe = find_recipe(name, "reranker.recipe")
        if recipe is None or recipe.reads != "last" or recipe.default_instruction != stated.default_instruction:
            continue
        same = all(
            recipe.prompt(QUERY, DOCUMENT, one) == stated.prompt(QUERY, DOCUMENT, one) for one in (INSTRUCTION, None)
        )
        with suppress(EngineError):  # a vocabulary without the recipe's answers
            if same and (classifies or answer_ids(tokenizer, recipe) == answer_ids(tokenizer, stated)):
                return recipe
    return dataclasses.replace(stated, name=f"checkpoint@{content_digest(stated)}")


def _of_the_same_name(ref: ModelRef) -> str:
    """Name the recipe of a model on the hub whose name ends as this one's."""
    if ref.published:
        return ""
    last = ref.name.rpartition("/")[2].lower()
    for recipe in all_recipes():
        for model in recipe.models:
            if model.rpartition("/")[2].lower() == last:
                return f" ({recipe.name} is that of {model} on the hub)"
    return f" ({', '.join(RECIPES.builtins)})"


def logit_score(ref: ModelRef) -> tuple[str, Mapping[str, Any]] | None:
    """Return the path and content of sentence-transformers' LogitScore, or None without such a file."""
    folder = next((folder for kind, folder in modules(ref) if kind == "LogitScore"), _LOGIT_SCORE)
    name = f"{folder}/config.json"
    found = read_mapping(ref, name)
    return (name, found) if found else None


def stated_answers(ref: ModelRef) -> tuple[int, int | None] | None:
    """Return the ids of the answers that LogitScore names, or None without such a file."""
    found = logit_score(ref)
    if found is None:
        return None
    path, said = found
    yes, no = said.get("true_token_id"), said.get("false_token_id")
    known = said.get("module_input_name", "causal_logits") == "causal_logits"
    if not known or not is_id(yes) or not (no is None or is_id(no)):
        raise ModelError(
            f"reranker.model: {ref.name}: its {path} does not say which token's logit is the answer; it is not scored"
        )
    return int(str(yes)), no


def is_id(value: Any) -> bool:
    """Tell whether a file's value can be a token's id."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
