"""Sizes of Qwen3 models and of encoders, and what scoring cannot do without: the one formula of useful FLOPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

QWEN_VOCABULARY = 151_669
"""Entries of Qwen's vocabulary, the added tokens among them."""


@dataclass(frozen=True)
class Shape:
    """Size of a model, in the terms of Qwen3's config; `vocabulary` counts the rows of the embedding."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_dim: int = 128
    tied: bool = True
    vocabulary: int = QWEN_VOCABULARY

    @property
    def layer_parameters(self) -> int:
        """Weights of all layers' matrices."""
        attention = 2 * self.hidden * (self.heads + self.key_value_heads) * self.head_dim
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    def useful_flops(self, prefix: float, documents: Sequence[float]) -> float:
        """Count what scoring a group cannot do without: FLOP of the layers' matrices and of causal attention.

        `prefix` are tokens of the shared prefix, `documents` own tokens of each document; every distinct token counts
        once. The head's two rows and elementwise work are left out, and so is what the last layer may skip.
        """
        tokens = prefix + sum(documents)
        keys = prefix * (prefix + 1) / 2 + sum(own * prefix + own * (own + 1) / 2 for own in documents)
        return 2.0 * self.layer_parameters * tokens + 4.0 * self.layers * self.heads * self.head_dim * keys

    @property
    def parameters(self) -> int:
        """Weights of the layers' matrices and of the embedding, once more for a head of its own."""
        return self.layer_parameters + self.vocabulary * self.hidden * (1 if self.tied else 2)


PUBLISHED = {
    "0.6b": Shape(28, 1024, 3072, 16, 8),
    "4b": Shape(36, 2560, 9728, 32, 8),
    "8b": Shape(36, 4096, 12288, 32, 8, tied=False),
}
"""Qwen3-Reranker's and Qwen3-Embedding's sizes (their config.json)."""


@dataclass(frozen=True)
class EncoderShape:
    """Size of a bidirectional encoder of XLM-RoBERTa's kind.

    If `gated`, the first matrix of the feed-forward part is there twice (GLU).
    """

    layers: int
    hidden: int
    intermediate: int
    gated: bool = False
    vocabulary: int = 250_002

    @property
    def layer_parameters(self) -> int:
        """Weights of all layers' matrices."""
        return self.layers * (4 * self.hidden**2 + (3 if self.gated else 2) * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        """The same with the embedding."""
        return self.layer_parameters + self.vocabulary * self.hidden

    def useful_flops(self, tokens: float) -> float:
        """Count what one text or pair, all of whose tokens see each other, cannot do without."""
        return 2.0 * self.layer_parameters * tokens + 4.0 * self.layers * self.hidden * tokens**2


ENCODERS = {
    "BAAI/bge-reranker-v2-m3": EncoderShape(24, 1024, 4096),
    "Alibaba-NLP/gte-multilingual-reranker-base": EncoderShape(12, 768, 3072, gated=True, vocabulary=250_048),
    "jinaai/jina-reranker-v2-base-multilingual": EncoderShape(12, 768, 3072),
    "sentence-transformers/all-MiniLM-L6-v2": EncoderShape(6, 384, 1536, vocabulary=30_522),
}
"""Hub name -> size (their config.json)."""


def shape_of(name: str, config: Mapping[str, Any] | None) -> Shape | EncoderShape | None:
    """Find a model's size by its config.json, or by its name on the hub; None where neither tells."""
    if config is not None and "hidden_size" in config and "num_hidden_layers" in config:
        return _read(config)
    for size, shape in PUBLISHED.items():
        if name.lower() in {f"qwen/qwen3-{kind}-{size}" for kind in ("reranker", "embedding")}:
            return shape
    return ENCODERS.get(name)


def _read(config: Mapping[str, Any]) -> Shape | EncoderShape:
    layers, hidden = int(config["num_hidden_layers"]), int(config["hidden_size"])
    inner, heads = int(config.get("intermediate_size", 4 * hidden)), int(config.get("num_attention_heads", 1))
    if "num_key_value_heads" not in config:
        gated = str(config.get("model_type")) in {"new", "gte", "modernbert"}
        return EncoderShape(layers, hidden, inner, gated=gated, vocabulary=int(config.get("vocab_size", 0)))
    head = int(config.get("head_dim") or hidden // heads)
    return Shape(
        layers, hidden, inner, heads, int(config["num_key_value_heads"]), head, bool(config.get("tie_word_embeddings"))
    )
