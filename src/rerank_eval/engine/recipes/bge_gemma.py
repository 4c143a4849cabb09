"""bge-reranker-v2-gemma: `FlagLLMReranker` of FlagEmbedding 1.4.2, read in 2026; the logit of "Yes".

It knows no instruction: an instruction of the query's own stands behind the query, as mteb joins them. Its limit of 512
tokens is on query and document each, with the fixed text on top; here `max_length` is the whole prompt's.
"""

from rerank_eval.engine.recipe import Recipe

RECIPE = Recipe(
    name="bge_gemma",
    prefix="",
    instruct_template="",
    query_template="A: {query}",
    instructed_query_template="A: {query} {instruction}",
    separator="\n",
    document_template="B: {document}",
    suffix=(
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
        "prediction of either 'Yes' or 'No'."
    ),
    truncation="document",
    tokenize="apart",
    reads_task_prompt=False,
    yes="Yes",
    no=None,
    bos=True,
    models=("BAAI/bge-reranker-v2-gemma",),
    max_length=1024,
)
