"""Encoders with sentence-transformers' modules as their head: the Ettin rerankers and others that are saved like them.

Pair -> encoder -> first token's state, or the mean -> Dense, LayerNorm, Dense. No code of a checkpoint is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine import bidirectional
from rerank_eval.engine.classifier import PairClassifier
from rerank_eval.engine.encoders import is_packable
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.pair_heads import EncoderWithHead
from rerank_eval.models.architectures import effective_max_length
from rerank_eval.models.checkpoint import checkpoint_folder
from rerank_eval.models.head_modules import load_head, read_head, scores_by_modules
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.statements import check_pairs_apart, check_pooled, query_prompt
from rerank_eval.rerankers.family import Prepared, Prompting
from rerank_eval.rerankers.pairs import load_weights, loading, pair_engine, prepared_pairs, refuse_missing


class PooledEncoder:
    """See the module; `Family` says what each method does."""

    def serves(self, ref: ModelRef) -> bool:
        """See `Family.serves`."""
        return scores_by_modules(ref)

    def prepare(self, config: RerankerConfig, ref: ModelRef, prompting: Prompting) -> Prepared:
        """See `Family.prepare`."""
        check_pooled(config, ref)
        return prepared_pairs(config, ref, prompting, effective_max_length(config, ref))

    def load(self, prepared: Prepared, device: str) -> PairClassifier:
        """See `Family.load`."""
        from transformers import AutoTokenizer

        config, ref = prepared.config, prepared.ref
        folder, prompt = checkpoint_folder(ref, "reranker.model"), query_prompt(ref)
        head = load_head(ref, folder, read_head(ref, config.dtype, prompted=bool(prompt)))
        with loading(ref):
            encoder = _load_encoder(config, folder, head.width)
            tokenizer = AutoTokenizer.from_pretrained(folder, config=encoder.config, trust_remote_code=False)
            check_pairs_apart(ref.name, tokenizer)
            return pair_engine(prepared, EncoderWithHead(encoder, head), tokenizer, device, prompt=prompt)


def _load_encoder(config: RerankerConfig, folder: Path, width: int) -> Any:
    """Load the encoder, and refuse one of which something that is read would stay random."""
    from transformers import AutoConfig, AutoModel

    network_config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if network_config.is_encoder_decoder:
        raise EngineError(f"it is an encoder with a decoder ({network_config.model_type}), which is not computed here")
    if network_config.hidden_size != width:
        raise EngineError(f"its states have {network_config.hidden_size} numbers, and its Pooling reads {width}")
    network_class = AutoModel._model_mapping[type(network_config)]
    packed = config.engine == "packed" and is_packable(network_config, network_class)
    attention = bidirectional.register() if packed else None
    network, absent = load_weights(network_class, folder, network_config, config.dtype, attention)
    refuse_missing([name for name in absent if not name.startswith("pooler.")])  # Pooling reads the states before it
    return network


PART = PooledEncoder()
