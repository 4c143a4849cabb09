"""Qwen3RerankerWrapper of mteb 2.26.24. What it leaves out is the model card's."""

from dataclasses import replace

from rerank_eval.engine.recipes import card

RECIPE = replace(
    card.RECIPE,
    name="mteb",
    default_instruction="Given the user query, retrieval the relevant passages",
    joins_query_and_instruction=True,
    softmax_dtype="float32",
    reads_task_prompt=False,
    models=(),
)
