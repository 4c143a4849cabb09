"""zerank-1, zerank-1-small and zerank-2: query as system turn, document as user turn, the logit of "Yes".

Read in 2026 from vLLM's examples/pooling/score/template/zerank2.jinja, which follows ZeroEntropy's advice on
instructions. The card's probability is sigmoid(logit / 5); "Yes" is token 9454.
"""

from rerank_eval.engine.recipe import Recipe

RECIPE = Recipe(
    name="zerank",
    prefix="<|im_start|>system\n",
    instruct_template="",
    query_template="{query}",
    instructed_query_template="<query>{query}</query>\n<instruction>{instruction}</instruction>",
    document_template="<|im_end|>\n<|im_start|>user\n{document}",
    closing="<|im_end|>\n",
    suffix="<|im_start|>assistant\n",
    truncation="document",
    yes="Yes",
    no=None,
    scale=5.0,
    models=(
        "zeroentropy/zerank-1",
        "zeroentropy/zerank-1-reranker",
        "zeroentropy/zerank-1-small",
        "zeroentropy/zerank-1-small-reranker",
        "zeroentropy/zerank-2",
        "zeroentropy/zerank-2-reranker",
    ),
    dtype="bfloat16",
)
