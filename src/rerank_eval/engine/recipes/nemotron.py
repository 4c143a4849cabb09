r"""llama-nemotron-rerank-1b-v2 and llama-3.2-nv-rerankqa-1b-v2 of nvidia: one text, whose states are pooled.

The model card's `prompt_template`, read in 2026, with its `truncation=True, max_length=512`: the prompt is cut from the
right, whatever stands there. vLLM's examples/pooling/score/template/nemotron-rerank.jinja and the default of NeMo
AutoModel's CrossEncoderCollator are the same text. It takes no instruction: a query's own stands behind the query.
"""

from rerank_eval.engine.recipe import Recipe

RECIPE = Recipe(
    name="nemotron",
    prefix="",
    instruct_template="",
    query_template="question:{query}",
    instructed_query_template="question:{query} {instruction}",
    document_template=" \n \n passage:{document}",
    suffix="",
    truncation="message",
    reads_task_prompt=False,
    bos=True,
    models=("nvidia/llama-nemotron-rerank-1b-v2", "nvidia/llama-3.2-nv-rerankqa-1b-v2"),
    max_length=512,
    dtype="bfloat16",
    reads="pooled",
)
