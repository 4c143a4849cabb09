"""mxbai-rerank-v2: `MxbaiRerankV2` of the package mxbai-rerank 0.1.6, read in 2026.

Its limit is on query and document, with the fixed text on top; here `max_length` is the whole prompt's.
"""

from rerank_eval.engine.recipe import Recipe

RECIPE = Recipe(
    name="mxbai_v2",
    prefix=(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n"
    ),
    instruct_template="instruction: {instruction}\n",
    query_template="query: {query}",
    separator="\n",
    document_template="document: {document}",
    closing=(
        "You are a search relevance expert who evaluates how well documents match search queries. For each "
        "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
        "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
    ),
    suffix="<|im_end|>\n<|im_start|>assistant\n",
    truncation="document",
    tokenize="apart",
    yes="1",
    no="0",
    models=("mixedbread-ai/mxbai-rerank-base-v2", "mixedbread-ai/mxbai-rerank-large-v2"),
)
