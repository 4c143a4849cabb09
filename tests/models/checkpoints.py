"""Copies of the project's own small reranker, altered as checkpoints of other people are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rerank_eval.models.demo import SHIPPED

TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
LOGIT_SCORE = {
    "idx": 1,
    "name": "1",
    "path": "1_LogitScore",
    "type": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
}
_FORWARD = {"method": "forward", "method_output_name": "logits"}
TEXT_GENERATION = {
    "transformer_task": "text-generation",
    "modality_config": {"text": _FORWARD, "message": _FORWARD | {"format": "flat"}},
    "module_output_name": "causal_logits",
}
PAIR_TEMPLATE = """\
{%- set i = messages | selectattr("role", "eq", "system") | map(attribute="content") | first | default("DEFAULT") -%}
{%- set q = messages | selectattr("role", "eq", "query") | map(attribute="content") | first -%}
{%- set d = messages | selectattr("role", "eq", "document") | map(attribute="content") | first -%}
<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer \
can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ i }}
<Query>: {{ q }}
<Document>: {{ d }}<|im_end|>
<|im_start|>assistant
<think>

</think>{{ "\\n\\n" }}"""
"""A chat template for pairs, as sentence-transformers' integration of Qwen3-Reranker has one."""
CARD_DEFAULT = "Given a web search query, retrieve relevant passages that answer the query"


def copy_of(folder: Path, config: dict[str, Any] | None = None) -> Path:
    """Copy the shipped reranker, with some keys of its config.json changed."""
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("training.json", "README.md"))
    edit(folder / "config.json", **(config or {}))
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def as_cross_encoder(folder: Path, yes: int, no: int | None, template: str | None = None) -> Path:
    """Add what sentence-transformers saves with a causal reranker."""
    (folder / "modules.json").write_text(json.dumps([TRANSFORMER, LOGIT_SCORE]))
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder", "prompts": {}}')
    (folder / "sentence_bert_config.json").write_text(json.dumps(TEXT_GENERATION))
    (folder / "1_LogitScore").mkdir(exist_ok=True)
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps({"true_token_id": yes, "false_token_id": no}))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder
