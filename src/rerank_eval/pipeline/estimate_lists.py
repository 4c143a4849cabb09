"""What a listwise reranker reads of a query's candidates: windows of them, or all together."""

from __future__ import annotations

from rerank_eval.engine.jina_v3 import BLOCK, DOCUMENT_TOKENS
from rerank_eval.engine.listwise import windows
from rerank_eval.engine.recipe import MAX_LENGTH
from rerank_eval.engine.shapes import EncoderShape, Shape
from rerank_eval.pipeline.estimate_rate import useful_flops
from rerank_eval.pipeline.estimate_texts import Cell
from rerank_eval.pipeline.plan import RunSpec

_FRAME, _PASSAGE = 140, 14
"""Tokens of jina-reranker-v3's prompt without texts, and around each document, in Qwen's vocabulary."""


def is_listwise(row: RunSpec | None) -> bool:
    """Tell whether a row's reranker reads lists; a model that is not here is taken for none that does."""
    return row is not None and row.prepared is not None and row.prepared.listwise


def list_counts(row: RunSpec, shape: Shape | EncoderShape | None, cell: Cell) -> tuple[float, float, float]:
    """Return prompt tokens, computed tokens and useful FLOP of one cell.

    Args:
        row: A listwise reranker's.
        shape: Its model's, or None for Python code.
        cell: The texts.
    """
    settings, count = row.identity["listwise"], round(cell.candidates)
    if "window" in settings:
        spans = list(windows(count, settings["window"], settings["stride"])) * settings["passes"]
    else:
        spans = list(windows(count, BLOCK, BLOCK))
    limit = MAX_LENGTH if shape is None else DOCUMENT_TOKENS
    documents = [min(one, limit) for one in cell.candidate.tokens(cell.characters_a_token)]
    document = _PASSAGE + sum(documents) / len(documents)
    query = 2 * cell.query_characters / cell.characters_a_token
    prompts = [_FRAME + query + (stop - start) * document for start, stop in spans]
    tokens = cell.queries * sum(prompts)
    if shape is None:
        return tokens, tokens, 0.0
    return tokens, tokens, cell.queries * sum(useful_flops(shape, 0, [one]) for one in prompts)
