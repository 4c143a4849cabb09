"""The command `score`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from rerank_eval.commands import ConfigOption, SetOption, app, console
from rerank_eval.errors import ConfigError

if TYPE_CHECKING:  # heavy, and not needed for the help
    from rerank_eval.engine.recipe import Recipe
    from rerank_eval.models.ref import ModelRef


@app.command()
def score(
    query: Annotated[str, typer.Option("--query", "-q", help="The query.")],
    document: Annotated[str, typer.Option("--document", "-d", help="The document.")],
    instruction: Annotated[
        str | None, typer.Option("--instruction", "-i", help="The instruction; without it, what the config says.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Score one pair: the exact rendered prompt, its token count, the margin and P(yes).

    Example:
        rerank-eval score -q "What is the capital of China?" -d "The capital of China is Beijing."
    """
    from rerank_eval.session.choice import choose_and_read

    loaded = choose_and_read([], config, set_ or [], console)
    reranker = loaded.runs[0].reranker
    if reranker is None:
        raise ConfigError(f"{loaded.path}: reranker: is null; there is nothing to score with")
    from rerank_eval.engine.interface import QueryGroup, reads_lists
    from rerank_eval.models.sections import resolve_section
    from rerank_eval.rerankers.cross_encoder import score_groups
    from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker

    ref = resolve_section(reranker, f"{loaded.path}: reranker", loaded.base.model_folder)
    prepared = prepare_reranker(reranker, ref)
    ref = prepared.ref
    engine = load_reranking_engine(reranker, ref, loaded.base.device, prepared.prompting)
    chosen = prepared.policy.choose(None, None)[1] if instruction is None else instruction
    [scores] = score_groups(engine, [QueryGroup(query, chosen, [document])])
    prompt = engine.render(query, document, chosen)
    if prompt.token_ids:
        console.rule("prompt")
        console.print(prompt.text, markup=False)
        console.rule()
        cut = ", cut to max_length" if prompt.truncated else ""
        console.print(f"tokens:  {len(prompt.token_ids)}{cut}")
    console.print(f"model:   {ref.label} ({ref.revision})", markup=False)
    if prepared.reads_prompt:
        recipe = prepared.recipe
        source = "named by the config" if reranker.recipe != "auto" else _source(recipe, ref)
        answer = f"{recipe.yes!r} alone" if recipe.no is None else f"{recipe.yes!r} less {recipe.no!r}"
        if ref.architecture.endswith("ForSequenceClassification"):
            answer = "its classification head"
        console.print(f"recipe:  {recipe.name}, {source}; the margin is the logit of {answer}", markup=False)
    for note in ref.notes:
        console.print(f"note:    {note}", markup=False)
    special = dict.fromkeys(
        token for text in (query, document, chosen or "") for token in engine.special_tokens.found(text)
    )
    if special:
        read = "read as tokens" if reranker.special_tokens == "keep" else "read as plain text"
        console.print(f"special: {', '.join(special)} in the texts, {read}", markup=False)
    if not prompt.token_ids or reads_lists(engine):  # a rank or a cosine, and no log-odds
        console.print(f"score:   {scores.scores[0]:.6f}")
        return
    margin, probability = ("margin", "P(yes)") if engine.causal else ("logit", "sigmoid")
    console.print(f"{margin + ':':<9}{scores.margins[0]:.6f}")
    scale = prepared.recipe.scale if prepared.reads_prompt else 1.0
    console.print(f"{probability + ':':<9}{0.5 + math.tanh(scores.margins[0] / scale / 2) / 2:.6f}")


def _source(recipe: Recipe, ref: ModelRef) -> str:
    if recipe.reads == "pooled" and not ref.published:
        return "taken for its architecture"
    return "from the checkpoint's own files" if recipe.name.startswith("checkpoint@") else "known for this model"
