"""Encoders with sentence-transformers' modules as their head: the Ettin rerankers and others that are saved like them.

Pair -> encoder -> first token's state, or the mean -> Dense, LayerNorm, Dense. No code of a checkpoint is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rerank_eval.config.schema import RerankerConfig, spelled_before
from rerank_eval.engine import bidirectional
from rerank_eval.engine.classifier import PairClassifier
from rerank_eval.engine.encoders import is_packable
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.loading import ids_of, resolve_device
from rerank_eval.engine.pair_heads import EncoderWithHead
from rerank_eval.errors import ModelError
from rerank_eval.models.architectures import effective_max_length
from rerank_eval.models.checkpoint import checkpoint_folder
from rerank_eval.models.head_modules import load_head, read_head, scores_by_modules
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.statements import check_pairs_apart, check_pooled, query_prompt
from rerank_eval.rerankers.family import Prepared, Prompting
from rerank_eval.rerankers.instructions import InstructionPolicy


class PooledEncoder:
    """See the module; `Family` says what each method does."""

    def serves(self, ref: ModelRef) -> bool:
        """See `Family.serves`."""
        return scores_by_modules(ref)

    def prepare(self, config: RerankerConfig, ref: ModelRef, prompting: Prompting) -> Prepared:
        """See `Family.prepare`."""
        check_pooled(config, ref)
        max_length = effective_max_length(config, ref)
        identity: dict[str, Any] = {"dtype": config.dtype, "max_length": max_length}
        # What changes scores only sometimes stands in the identity only then, as for sequence classifiers.
        if config.engine != "packed":
            identity["engine"] = config.engine
        if config.special_tokens != "keep":
            identity["markers"] = spelled_before(config.special_tokens)
        policy = InstructionPolicy(config.instruction, None, reads_task_prompt=False, place="behind the query")
        return Prepared(config, ref, prompting, policy, identity, max_length=max_length)

    def load(self, prepared: Prepared, device: str) -> PairClassifier:
        """See `Family.load`."""
        from transformers import AutoTokenizer

        config, ref = prepared.config, prepared.ref
        folder, prompt = checkpoint_folder(ref, "reranker.model"), query_prompt(ref)
        head = load_head(ref, folder, read_head(ref, config.dtype, prompted=bool(prompt)))
        try:
            encoder = _load_encoder(config, folder, head.width)
            tokenizer = AutoTokenizer.from_pretrained(folder, config=encoder.config, trust_remote_code=False)
            check_pairs_apart(ref.name, tokenizer)
            if (tokens := ids_of(tokenizer)) > encoder.get_input_embeddings().num_embeddings:
                raise EngineError(f"its tokenizer has {tokens} tokens, more than its embedding has rows")
            return PairClassifier(
                EncoderWithHead(encoder, head).to(resolve_device(device)).eval(),
                tokenizer,
                max_length=prepared.max_length or 0,
                token_budget=config.token_budget or 0,
                batch_size=config.batch_size if config.engine == "reference" else 0,
                special_tokens=config.special_tokens,
                prompt=prompt,
            )
        except ModelError:
            raise
        except Exception as error:  # safetensors and tokenizers raise classes of their own, straight from Exception
            raise ModelError(f"reranker.model: {ref.name} cannot be loaded as a cross-encoder: {error}") from error


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
    network, report = network_class.from_pretrained(
        folder,
        config=network_config,
        dtype=getattr(torch, config.dtype),
        use_safetensors=True,
        attn_implementation=bidirectional.register() if packed else None,
        ignore_mismatched_sizes=True,  # they are refused in one line below
        output_loading_info=True,
    )
    absent = {*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])}
    read = sorted(name for name in absent if not name.startswith("pooler."))  # Pooling reads the states before it
    if read:
        raise EngineError(f"it lacks {len(read)} weights that would be left random: {', '.join(read[:3])}")
    return network


PART = PooledEncoder()
