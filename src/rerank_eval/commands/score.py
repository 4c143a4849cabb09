"""The command `score`."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from rerank_eval.commands import ConfigOption, SetOption, app, console
from rerank_eval.errors import ConfigError


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
    from rerank_eval.engine.interface import QueryGroup
    from rerank_eval.models.resolve import resolve_model
    from rerank_eval.models.statements import told
    from rerank_eval.rerankers.scorers import Prompting, load_scorer

    ref = resolve_model(reranker.model, reranker.revision, f"{loaded.path}: reranker.model", loaded.base.model_folder)
    prompting = Prompting.of(reranker)
    ref = told(reranker, ref, prompting.recipe)
    scorer = load_scorer(reranker, ref, loaded.base.device, prompting)
    chosen = instruction if instruction is not None else scorer.policy.choose(None, None)
    result = next(iter(scorer.score_groups([QueryGroup(query, chosen, [document])])))
    prompt = scorer.render(query, document, chosen)
    console.rule("prompt")
    console.print(prompt.text, markup=False)
    console.rule()
    cut = ", cut to max_length" if prompt.truncated else ""
    console.print(f"tokens:  {len(prompt.token_ids)}{cut}")
    console.print(f"model:   {ref.label} ({ref.revision})", markup=False)
    for note in ref.notes:
        console.print(f"note:    {note}", markup=False)
    marked = dict.fromkeys(marker for text in (query, document, chosen or "") for marker in scorer.markers.found(text))
    if marked:
        read = "read as tokens" if reranker.markers == "keep" else "read as plain text"
        console.print(f"markers: {', '.join(marked)} in the texts, {read}", markup=False)
    margin, probability = scorer.names
    console.print(f"{margin + ':':<9}{result.margins[0]:.6f}")
    console.print(f"{probability + ':':<9}{0.5 + math.tanh(result.margins[0] / 2) / 2:.6f}")
