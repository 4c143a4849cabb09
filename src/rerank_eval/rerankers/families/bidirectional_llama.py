"""nvidia's llama-nemotron-rerank-1b-v2 and its kin: a Llama that attends in both directions, pooled behind a prompt.

It runs on transformers' Llama; none of the checkpoint's own code is run, see `models.pooled_decoders`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine import bidirectional
from rerank_eval.engine.classifier import PairClassifier
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.loading import check_decoder, why_not_packed
from rerank_eval.engine.pair_heads import DenseLayer, EncoderWithHead, ModuleHead
from rerank_eval.models.architectures import POOLED_DECODER, effective_max_length
from rerank_eval.models.checkpoint import checkpoint_folder, read_mapping
from rerank_eval.models.pooled_decoders import check_pooled_decoder, read_pooled_score
from rerank_eval.models.ref import ModelRef
from rerank_eval.rerankers.family import Prepared, Prompting
from rerank_eval.rerankers.pairs import load_weights, loading, pair_engine, prepared_pairs, refuse_missing

_LLAMA_READS_NOT = ("model_type", "architectures", "auto_map", "pooling", "temperature")
_SAY_WHAT_IS_KNOWN = ("is_causal", "use_bidirectional_attention")
"""Keys by which nvidia's code says that it is no causal model; here they would only be refused, as of others."""


class BidirectionalLlama:
    """See the module; `Family` says what each method does."""

    def serves(self, ref: ModelRef) -> bool:
        """See `Family.serves`."""
        return ref.architecture == POOLED_DECODER

    def prepare(self, config: RerankerConfig, ref: ModelRef, prompting: Prompting) -> Prepared:
        """See `Family.prepare`."""
        ref, recipe = check_pooled_decoder(config, ref, prompting.recipe)
        max_length = effective_max_length(config, ref)
        if config.max_length is None and recipe.max_length is not None:
            max_length = min(max_length, recipe.max_length)
        # It takes no instruction: the recipe puts a query's own behind the query. Pooling and temperature stand in
        # config.json, whose digest is the revision's.
        prompting = dataclasses.replace(prompting, recipe=recipe)
        return prepared_pairs(config, ref, prompting, max_length, recipe=recipe.name)

    def load(self, prepared: Prepared, device: str) -> PairClassifier:
        """See `Family.load`."""
        ref, recipe = prepared.ref, prepared.recipe
        folder = checkpoint_folder(ref, "reranker.model")
        with loading(ref):
            network = _load_network(prepared.config, ref, folder, prepared.max_length or 0)
            tokenizer = AutoTokenizer.from_pretrained(folder, config=network.config, trust_remote_code=False)
            if recipe.bos and tokenizer("x")["input_ids"][:1] != [tokenizer.bos_token_id]:
                raise EngineError(f"its tokenizer puts no beginning token before a text, as recipe {recipe.name} does")
            return pair_engine(prepared, _with_head(network, ref), tokenizer, device, recipe=recipe)


def _load_network(config: RerankerConfig, ref: ModelRef, folder: Path, max_length: int) -> Any:
    """Load transformers' own Llama, and refuse what it would not compute as nvidia's code does."""
    left_out = {*_LLAMA_READS_NOT, *_SAY_WHAT_IS_KNOWN}
    content = {key: value for key, value in read_mapping(ref, "config.json").items() if key not in left_out}
    own: Any = LlamaConfig.from_dict(content | {"use_cache": False})
    check_decoder("it", own)
    if own.num_labels != 1:
        raise EngineError(f"it has {own.num_labels} labels; a reranker has one")
    if (obstacle := why_not_packed(own, max_length)) is not None:
        raise EngineError(f"it {obstacle}")
    attention = bidirectional.register() if config.engine == "packed" else "sdpa"
    network, absent = load_weights(LlamaForSequenceClassification, folder, own, config.dtype, attention)
    refuse_missing(absent)
    return network


def _with_head(network: Any, ref: ModelRef) -> EncoderWithHead:
    """Put pooling and score behind the base model."""
    score = read_pooled_score(ref)
    last = DenseLayer(network.score.weight.detach(), None, "Identity")
    return EncoderWithHead(network.model, ModuleHead(score.pooling, [last], score.temperature), unmask=True)


PART = BidirectionalLlama()
