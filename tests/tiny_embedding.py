"""A tiny checkpoint with random weights, laid out file by file as the published Qwen3-Embedding models are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from rerank_eval.models.demo import WEIGHTS

QUERY_PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
END = "<|endoftext|>"


def write_qwen3_embedding(folder: Path, demo: Path, **sentence_config: Any) -> Path:
    """Write the checkpoint.

    Args:
        folder: Where to.
        demo: The demo reranker, whose weights and vocabulary it gets.
        sentence_config: What to change in config_sentence_transformers.json.
    """
    (folder / "1_Pooling").mkdir(parents=True)
    # The config names the causal model; the weights are the base model's, without its prefix and head.
    (folder / "config.json").write_text((demo / "config.json").read_text())
    weights = {name.removeprefix("model."): value for name, value in load_file(demo / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    tokenizer = AutoTokenizer.from_pretrained(demo)
    tokenizer.save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    end = {"SpecialToken": {"id": END, "type_id": 0}}
    first, second = ({"Sequence": {"id": one, "type_id": 0}} for one in "AB")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    token_id = tokenizer.convert_tokens_to_ids(END)
    template = {
        "type": "TemplateProcessing",
        "single": [first, end],
        "pair": [first, end, second, end],
        "special_tokens": {END: {"id": END, "ids": [token_id], "tokens": [END]}},
    }
    content["post_processor"] = {"type": "Sequence", "processors": [byte_level, template]}
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    kinds = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    pooling: dict[str, Any] = {f"pooling_mode_{kind}": kind == "lasttoken" for kind in kinds}
    dimension = json.loads((demo / "config.json").read_text())["hidden_size"]
    pooling |= {"word_embedding_dimension": dimension, "include_prompt": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    whole = {
        "prompts": {"query": QUERY_PROMPT, "document": ""},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps(whole | sentence_config))
    return folder
