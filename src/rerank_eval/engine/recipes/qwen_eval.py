"""The evaluation script of QwenLM/Qwen3-Embedding, read in 2025. What it leaves out is the model card's.

The chat template closes the user turn and the suffix closes it again.
"""

from dataclasses import replace

from rerank_eval.engine.recipes import card

RECIPE = replace(
    card.RECIPE,
    name="qwen_eval",
    instruct_template="<Instruct>: {instruction}\n\n",
    query_template="<Query>: {query}\n\n<Document>:",
    closing="<|im_end|>\n",
    default_instruction="Given the user query, retrieval the relevant passages",
    truncation="message",
    softmax_dtype="float32",
    models=(),
)
