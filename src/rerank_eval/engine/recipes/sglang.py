"""Qwen3-Reranker as SGLang serves it: examples/chat_template/qwen3_reranker.jinja, read in 2026.

No think block, and the default instruction ends in a period.
"""

from dataclasses import replace

from rerank_eval.engine.recipes import card

RECIPE = replace(
    card.RECIPE,
    name="sglang",
    suffix="<|im_end|>\n<|im_start|>assistant\n",
    default_instruction="Given a web search query, retrieve relevant passages that answer the query.",
    softmax_dtype="float32",
    models=(),
    dtype="",
)
