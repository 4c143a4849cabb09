"""Qwen3-VL-Reranker on texts: vLLM's examples/pooling/score/template/qwen3_vl_reranker.jinja, read in 2026.

No line break between instruction and query, no blank behind the colons, no think block.
"""

from dataclasses import replace

from rerank_eval.engine.recipes import card

RECIPE = replace(
    card.RECIPE,
    name="qwen3_vl",
    instruct_template="<Instruct>: {instruction}",
    query_template="<Query>:{query}\n",
    document_template="<Document>:{document}",
    suffix="<|im_end|>\n<|im_start|>assistant\n",
    default_instruction="Given a search query, retrieve relevant candidates that answer the query.",
    truncation="document",
    softmax_dtype="float32",
    models=("Qwen/Qwen3-VL-Reranker-2B", "Qwen/Qwen3-VL-Reranker-8B"),
    dtype="bfloat16",
)
