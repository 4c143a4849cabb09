"""The transformers snippet of Qwen/Qwen3-Reranker-8B's model card, read in 2025."""

from rerank_eval.engine.recipe import Recipe

RECIPE = Recipe(
    name="card",
    prefix=(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    ),
    instruct_template="<Instruct>: {instruction}\n",
    query_template="<Query>: {query}\n<Document>:",
    document_template=" {document}",
    suffix="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    default_instruction="Given a web search query, retrieve relevant passages that answer the query",
    truncation="body",
    softmax_dtype="model",
    models=(
        "Qwen/Qwen3-Reranker-0.6B",
        "Qwen/Qwen3-Reranker-4B",
        "Qwen/Qwen3-Reranker-8B",
        "rerank-eval/qwen3-python",
        "rerank-eval/qwen3-random",
        "tomaarsen/Qwen3-Reranker-0.6B-seq-cls",
        "tomaarsen/Qwen3-Reranker-4B-seq-cls",
        "tomaarsen/Qwen3-Reranker-8B-seq-cls",
    ),
)
