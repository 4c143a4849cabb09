"""ctxl-rerank-v2 of Contextual AI: the document before the query, the logit of token 0.

The code of the model card, read in 2026 (https://huggingface.co/ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b).
It cuts the prompt from the right, query and all; here the document is cut.
"""

from rerank_eval.engine.recipe import Recipe

RECIPE = Recipe(
    name="ctxl_v2",
    prefix="Check whether a given document contains information helpful to answer the query.\n",
    instruct_template="",
    document_template="<Document> {document}\n",
    query_template="<Query> {query}",
    instructed_query_template="<Query> {query} {instruction}",
    suffix=" ??",
    order=("instruction", "document", "query"),
    truncation="document",
    yes=0,
    no=None,
    bos=True,
    models=(
        "ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b",
        "ContextualAI/ctxl-rerank-v2-instruct-multilingual-2b",
        "ContextualAI/ctxl-rerank-v2-instruct-multilingual-6b",
    ),
    dtype="bfloat16",
)
