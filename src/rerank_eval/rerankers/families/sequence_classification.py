"""Sequence classifiers as rerankers: bge-reranker-v2-m3, gte-multilingual-reranker-base, jina-reranker-v2, others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine import bidirectional
from rerank_eval.engine.classifier import PairClassifier
from rerank_eval.engine.encoders import is_packable
from rerank_eval.engine.errors import EngineError
from rerank_eval.models.architectures import (
    code_sources,
    effective_max_length,
    implementation,
)
from rerank_eval.models.checkpoint import checkpoint_folder, read_mapping, weight_files
from rerank_eval.models.conversions import State, convert
from rerank_eval.models.pooled_decoders import refuse_pooled_decoder
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.statements import check_classifier, check_pairs_apart, query_prompt
from rerank_eval.rerankers.family import Prepared, Prompting
from rerank_eval.rerankers.pairs import load_weights, loading, pair_engine, prepared_pairs, refuse_missing

_HINT = "; the download is incomplete or the checkpoint is not a sequence classifier's"


class SequenceClassification:
    """See the module; `Family` says what each method does."""

    def serves(self, ref: ModelRef) -> bool:
        """See `Family.serves`."""
        return ref.architecture.endswith("ForSequenceClassification")

    def prepare(self, config: RerankerConfig, ref: ModelRef, prompting: Prompting) -> Prepared:
        """See `Family.prepare`."""
        refuse_pooled_decoder(ref)
        check_classifier(config, ref)
        more: dict[str, Any] = {}
        if config.engine == "packed" and read_mapping(ref, "config.json").get("model_type") == "modernbert":
            more["rows"] = "packed"  # before, pairs went through alone, which differs in the last bits
        if implementation(ref) == "own code" and config.code_revision:
            more["code_revision"] = config.code_revision
        return prepared_pairs(config, ref, prompting, effective_max_length(config, ref), **more)

    def load(self, prepared: Prepared, device: str) -> PairClassifier:
        """See `Family.load`."""
        config, ref = prepared.config, prepared.ref
        folder = checkpoint_folder(ref, "reranker.model")
        sources = code_sources(config, ref) if implementation(ref) == "own code" else {}
        with loading(ref):
            network = _load_network(config, ref, folder, sources)
            tokenizer = _load_tokenizer(config, ref, folder, network.config)
            check_pairs_apart(ref.name, tokenizer)
            return pair_engine(prepared, network, tokenizer, device, prompt=query_prompt(ref))


def _load_network(config: RerankerConfig, ref: ModelRef, folder: Path, sources: dict[str, str]) -> Any:
    """Load config and weights, and refuse a model of which something would stay random."""
    kind = implementation(ref)
    dtype = getattr(torch, config.dtype)
    if kind == "own code":
        own_config, own_class = _own_classes(folder, sources)
        _refuse_labels(own_config)
        return _filled(own_config, own_class, _read_weights(ref), dtype)
    from transformers import AutoConfig, AutoModelForSequenceClassification

    state: State | None = None
    if kind == "transformers":
        network_config = AutoConfig.from_pretrained(folder)
    else:
        network_config, state = convert(kind, read_mapping(ref, "config.json"), _read_weights(ref))
    _refuse_labels(network_config)
    known = AutoModelForSequenceClassification._model_mapping
    if type(network_config) not in known:
        raise EngineError(f"transformers has no sequence classifier of type {network_config.model_type!r}")
    network_class = known[type(network_config)]
    packed = config.engine == "packed" and is_packable(network_config, network_class)
    attention = bidirectional.register() if packed else "sdpa"
    if state is not None:
        return _filled(network_config, network_class, state, dtype, attention)
    network, absent = load_weights(network_class, folder, network_config, config.dtype, attention if packed else None)
    refuse_missing(absent, _HINT)
    return network


def _own_classes(folder: Path, sources: dict[str, str]) -> tuple[Any, Any]:
    """Import a model's own config and model class from folders, so that nothing but the pinned commits is ever run."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    classes = []
    for name in ("AutoConfig", "AutoModelForSequenceClassification"):
        elsewhere, _, target = sources[name].rpartition("--")
        classes.append(get_class_from_dynamic_module(target, elsewhere or str(folder)))
    return classes[0].from_pretrained(folder), classes[1]


def _filled(network_config: Any, network_class: Any, state: State, dtype: Any, attention: str | None = None) -> Any:
    """Build a model and put weights into it.

    It is built in memory and not on the meta device as `from_pretrained` does: there, tables that a foreign class
    computes when it is built are lost, and stay uninitialised without an error.
    """
    options = {} if attention is None else {"attn_implementation": attention}
    network = network_class._from_config(network_config, dtype=dtype, **options)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    wrong = [name for name, tensor in state.items() if name in shapes and shapes[name] != tensor.shape]
    refuse_missing([*wrong, *(shapes.keys() - state.keys())], _HINT)
    network.load_state_dict({name: tensor for name, tensor in state.items() if name in shapes})
    return network


def _read_weights(ref: ModelRef) -> State:
    from safetensors.torch import load_file

    state: State = {}
    for shard in weight_files(ref, "reranker.model"):
        state |= load_file(shard)
    return state


def _refuse_labels(network_config: Any) -> None:
    if network_config.num_labels != 1:
        raise EngineError(f"it has {network_config.num_labels} labels; a reranker has one")


def _load_tokenizer(config: RerankerConfig, ref: ModelRef, folder: Path, network_config: Any) -> Any:
    from transformers import AutoTokenizer

    code = read_mapping(ref, "tokenizer_config.json").get("auto_map") or {}
    if "--" in str(code):
        raise EngineError("its tokenizer is Python code of another repository, which is not run")
    return AutoTokenizer.from_pretrained(folder, config=network_config, trust_remote_code=config.trust_remote_code)


PART = SequenceClassification()
