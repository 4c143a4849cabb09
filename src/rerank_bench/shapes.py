"""Checkpoints of Qwen3-Reranker's shapes with random weights: speed does not depend on the weights' values."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from rerank_eval.engine.shapes import PUBLISHED, QWEN_VOCABULARY, Shape
from rerank_eval.models.qwen_vocabulary import ADDED_TOKENS, build_qwen_tokenizer

HEAD_SHARE = 0.353
"""What the full vocabulary's head at every position adds to the linear work of Qwen3-Reranker-0.6B's layers:
2 x 151,936 x 1,024 FLOP to 0.881 GFLOP a token."""


def _cut(shape: Shape) -> Shape:
    """Cut the vocabulary until the head weighs what it does in 0.6B.

    With the full vocabulary on a few small layers the peers' logits alone would make them many times slower, which
    flatters us.
    """
    return replace(shape, vocabulary=int(HEAD_SHARE * shape.layer_parameters / shape.hidden))


SHAPES = {
    # Qwen3-Reranker-0.6B's proportions at a quarter of its width.
    "tiny": _cut(Shape(4, 256, 768, 4, 2)),
    # For following memory over very many pairs.
    "micro": Shape(1, 64, 192, 1, 1),
    "0.6b-2-layers": _cut(Shape(2, 1024, 3072, 16, 8)),
    **PUBLISHED,
}
"""The published checkpoints' sizes (their config.json), and three that a laptop can run."""


def write_checkpoint(folder: Path, shape: Shape, dtype: str, device: str, tokenizer: str | None = None) -> Path:
    """Write a checkpoint with random weights, or leave it alone where it stands already.

    Args:
        folder: Where to write it.
        shape: The model's size.
        dtype: Dtype of the weights as stored.
        device: Where weights are drawn; a GPU is faster for the large shapes.
        tokenizer: Folder with Qwen's tokenizer; None builds it from the package dashscope.

    Returns:
        The folder.

    Raises:
        ModelError: dashscope is missing and no tokenizer is given.
    """
    mark = folder / "bench.json"
    wanted = {**asdict(shape), "dtype": dtype}
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == wanted:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    made: PreTrainedTokenizerBase
    if tokenizer is not None:
        made = AutoTokenizer.from_pretrained(tokenizer)
    else:
        cut = shape.vocabulary < QWEN_VOCABULARY
        made = build_qwen_tokenizer(shape.vocabulary - len(ADDED_TOKENS) if cut else None)
    made.save_pretrained(folder)
    config: Any = Qwen3Config(
        vocab_size=max(shape.vocabulary, len(made)),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=40_960,
        tie_word_embeddings=shape.tied,
        rope_parameters={"rope_theta": 1_000_000, "rope_type": "default"},
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    mark.write_text(json.dumps(wanted), encoding="utf-8")
    return folder
