"""Decoders that attend in both directions and whose states are pooled: what nvidia's config.json says of them.

transformers has no class of this architecture. nvidia's own code (llama_bidirectional_model.py beside the weights, read
in 2026; the same in NeMo AutoModel) is a LlamaModel without a causal mask, a pooling over the tokens that are no
padding, a linear layer without bias, and a division by `temperature`. That is computed here and the code is not run.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine.pair_heads import PoolingName
from rerank_eval.engine.recipe import Recipe
from rerank_eval.errors import ModelError
from rerank_eval.models.architectures import POOLED_DECODER, check_settings
from rerank_eval.models.checkpoint import load_tokenizer, read_mapping
from rerank_eval.models.pair_templates import DOCUMENT, QUERY, first_difference, writes_pairs, written
from rerank_eval.models.recipes import find_recipe, known_recipe
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.statements import check_activation, check_files

_RECIPE = "nemotron"
_POOLINGS: dict[str, PoolingName] = {"avg": "mean", "cls": "first", "last": "last"}


@dataclasses.dataclass(frozen=True)
class PooledScore:
    """How a checkpoint's states become its logit: what of them is read, and what divides the result."""

    pooling: PoolingName
    temperature: float


def read_pooled_score(ref: ModelRef) -> PooledScore:
    """Read how a checkpoint's states become its logit, with its own code's defaults.

    Raises:
        ModelError: A value is none that its own code knows, which would pool in some other way without saying so.
    """
    config = read_mapping(ref, "config.json")
    pooling, temperature = config.get("pooling", "avg"), config.get("temperature", 1.0)
    if not isinstance(pooling, str) or pooling not in _POOLINGS:
        raise ModelError(
            f"reranker.model: {ref.name} pools by {str(pooling)[:40]!r} by its config.json, and only "
            f"{', '.join(_POOLINGS)} are computed here; it is not scored"
        )
    if not isinstance(temperature, int | float) or isinstance(temperature, bool) or not 0 < temperature < float("inf"):
        raise ModelError(
            f"reranker.model: {ref.name} divides its logit by {str(temperature)[:40]!r} by its config.json "
            "(temperature), which has to be a positive number"
        )
    return PooledScore(_POOLINGS[pooling], float(temperature))


def check_pooled_decoder(config: RerankerConfig, ref: ModelRef, recipe: Recipe | None) -> tuple[ModelRef, Recipe]:
    """Hold settings against what a checkpoint's files say, and find its recipe.

    Args:
        config: The reranker's section of the config.
        ref: The model, resolved.
        recipe: The recipe that the config names, or None for the checkpoint's own.

    Returns:
        The model, with a note for each thing that its files do not say or the config decides otherwise; and its
        recipe.

    Raises:
        ModelError: It is none of these models, or what would be computed is not what its files say.
        OfflineError: A file has to come from the hub and the hub cannot be reached.
    """
    if ref.architecture != POOLED_DECODER:
        raise ModelError(f"reranker.kind: {ref.name} is no {POOLED_DECODER} by its config.json; set it to auto")
    check_files(ref, ["Transformer"], "sequence-classification")
    check_activation(ref)
    check_settings(config, ref)
    _check_two_labels(ref)
    read_pooled_score(ref)
    notes = []
    if recipe is None:
        recipe = known_recipe(ref.name) if ref.published else None
        if recipe is None:
            # The architecture is nvidia's alone, and NeMo AutoModel, with which others train it, writes the same prompt
            # and the same limit unless told otherwise; no other prompt is known for it. A note says what was taken.
            recipe = find_recipe(_RECIPE, "reranker.recipe")
            notes.append(f"neither its files nor its name say with which prompt it was trained; {_RECIPE} was taken")
        notes = _prompt_notes(ref, recipe, notes, named=False)
    else:
        notes = _prompt_notes(ref, recipe, notes, named=True)
    assert recipe is not None  # noqa: S101 - a built-in one
    if recipe.reads != "pooled":
        raise ModelError(
            f"reranker.recipe: {recipe.name} reads an answer at the last token, and {ref.name} pools the states of all "
            f"tokens; set it to auto, to {_RECIPE}, or to a YAML file with `reads: pooled`"
        )
    return dataclasses.replace(ref, notes=(*ref.notes, *notes)) if notes else ref, recipe


def _check_two_labels(ref: ModelRef) -> None:
    """Refuse two labels, of which a config.json says nothing, since transformers leaves its default out."""
    if not {"id2label", "num_labels"} & read_mapping(ref, "config.json").keys():
        raise ModelError(f"reranker.model: {ref.name} has 2 labels; a reranker has one")


def _prompt_notes(ref: ModelRef, recipe: Recipe | None, notes: list[str], *, named: bool) -> list[str]:
    """Hold a recipe against a chat template for pairs, if there is one: `auto` refuses another, a config's is noted."""
    if recipe is None or not writes_pairs(ref):
        return notes
    tokenizer: Any = load_tokenizer(ref)
    stated = written(ref, None).removeprefix(tokenizer.bos_token or "")  # which the recipe adds as a token
    ours = recipe.prompt(QUERY, DOCUMENT, None)
    if stated == ours:
        return []
    problem = f"its chat template writes another prompt than recipe {recipe.name}: {first_difference(stated, ours)}"
    if named:
        return [*notes, f"{problem}; the config names the recipe"]
    raise ModelError(f"reranker.model: {ref.name}: {problem}; set reranker.recipe to a YAML file with its own")


def refuse_pooled_decoder(ref: ModelRef) -> None:
    """Refuse such a model in another family, which would score the bare pair, or the last token of a causal network.

    Raises:
        ModelError: It is one.
    """
    if ref.architecture == POOLED_DECODER:
        raise ModelError(
            f"reranker.kind: {ref.name} attends in both directions and pools its states, behind a prompt of its own; "
            "set it to auto"
        )


def refuse_pooled_recipe(recipe: Recipe) -> None:
    """Refuse a recipe without a token to read the answer at, for a model that answers there.

    Raises:
        ModelError: It is one.
    """
    if recipe.reads != "last":
        raise ModelError(
            f"reranker.recipe: {recipe.name} is for classifiers that pool the states of all tokens, and this model "
            "answers at the last one; take another"
        )
