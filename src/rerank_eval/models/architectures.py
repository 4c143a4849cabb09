"""What runs a sequence classifier, and what it was made for: read from its JSON files, before anything is loaded.

Two published rerankers name Python code of their own although transformers' classes compute the same: jina's
xlm-roberta-flash is XLM-RoBERTa with fused weights under other names, and gte's new-impl is transformers' Gte with its
rotary scaling written in another way. They run on transformers' classes (`conversions`) and need no foreign code. That
code would not do either: under transformers 5 jina's imports a function that is gone, and the tables that new-impl
computes when it is built are left uninitialised by the loader, which gives wrong scores without an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine.loading import READS_IMAGES
from rerank_eval.engine.recipe import MAX_LENGTH
from rerank_eval.errors import ModelError
from rerank_eval.models.checkpoint import as_mapping, code_folder, read_mapping
from rerank_eval.models.head_modules import scores_by_modules
from rerank_eval.models.ref import ModelRef

Implementation = Literal["transformers", "xlm-roberta-flash", "gte-new", "own code"]

POOLED_DECODER = "LlamaBidirectionalForSequenceClassification"
"""nvidia's architecture: a Llama that attends in both directions, pooled; see `pooled_decoders`."""

CODE_CLASSES = ("AutoConfig", "AutoModelForSequenceClassification")
"""Entries of `auto_map` that a sequence classifier with code of its own is built from."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_COUNTS_FROM_PAD = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "xmod"}
_LARGEST_TOKENIZER_LIMIT = 10**9
"""Tokenizers without a limit say 1e30."""


def is_classifier(config: RerankerConfig, ref: ModelRef) -> bool:
    """Tell whether a reranker is a sequence classifier or an encoder with a head, by the config or by its files.

    Raises:
        ModelError: `kind: auto` and the architecture is neither causal nor a sequence classifier.
    """
    if config.kind != "auto":
        return config.kind in {"sequence-classification", "pooled-encoder"}
    if ref.architecture.endswith("ForSequenceClassification"):
        return not has_decoder(ref)
    if ref.architecture.endswith("ForCausalLM") or ref.architecture in READS_IMAGES:
        return False
    if scores_by_modules(ref):
        return True
    raise unknown_architecture(ref)


def has_decoder(ref: ModelRef) -> bool:
    """Tell whether a model is a decoder, by its config.json."""
    return is_decoder(str(read_mapping(ref, "config.json").get("model_type")))


def is_decoder(model_type: str) -> bool:
    """Tell decoders from encoders by transformers' tables: BERT's kin have causal classes too, and masked ones."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def unknown_architecture(ref: ModelRef) -> ModelError:
    """Return the refusal of a model that nothing here is known to serve."""
    return ModelError(
        f"reranker.model: {ref.name} has architecture {ref.architecture or 'unknown'!r}, which is neither a causal "
        "language model nor a sequence classifier; set reranker.kind"
    )


def effective_max_length(config: RerankerConfig, ref: ModelRef) -> int:
    """Return the limit in tokens that a reranker runs with.

    Returns:
        The config's. Where it names none, the smallest of what a checkpoint's tokenizer, its sentence_bert_config.json
        and its positions allow, and for a causal reranker no more than 8192: 8192 for bge-reranker-v2-m3
        (trained at 1024, which its authors recommend, https://huggingface.co/BAAI/bge-reranker-v2-m3/discussions/9)
        and for gte-multilingual-reranker-base, 1024 for jina-reranker-v2-base-multilingual.

    Raises:
        ModelError: The config's is longer than the model's positions, or a classifier's is not known.
    """
    positions = _positions(ref)
    if config.max_length is not None:
        if positions is not None and config.max_length > positions:
            raise ModelError(
                f"reranker.max_length: {config.max_length} exceeds the {positions} positions that {ref.name} was made "
                "for; lower it, or set it to null for the model's own limit"
            )
        return config.max_length
    limit = read_mapping(ref, "tokenizer_config.json").get("model_max_length")
    saved = read_mapping(ref, "sentence_bert_config.json").get("max_seq_length")
    if isinstance(saved, int) and scores_by_modules(ref):
        limit = None  # sentence-transformers tells the tokenizer this limit instead of its own
    known = [
        value
        for value in (limit, saved, positions)
        if isinstance(value, int | float) and 0 < value < _LARGEST_TOKENIZER_LIMIT
    ]
    if not is_classifier(config, ref):
        return int(min([MAX_LENGTH, *known]))
    if not known:
        raise ModelError(f"reranker.max_length: {ref.name} does not say how long a pair may be; set it")
    return int(min(known))


def _positions(ref: ModelRef) -> int | None:
    """Return how many tokens a pair may have by the model's positions, or None where its config does not say."""
    config: Mapping[str, Any] = read_mapping(ref, "config.json")
    if ref.architecture in READS_IMAGES:
        config = as_mapping(config.get("text_config"))
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or isinstance(positions, bool):
        return None
    counted = str(config.get("model_type")) in _COUNTS_FROM_PAD or implementation(ref) == "xlm-roberta-flash"
    # RoBERTa's positions begin behind the padding token's id, so that its 514 rows hold 512 tokens.
    pad = config.get("pad_token_id")
    return positions - (pad if isinstance(pad, int) else 1) - 1 if counted else positions


def implementation(ref: ModelRef) -> Implementation:
    """Say what runs a sequence classifier."""
    config = read_mapping(ref, "config.json")
    code = config.get("auto_map")
    if not isinstance(code, dict) or "AutoModelForSequenceClassification" not in code:
        return "transformers"
    if ref.architecture == POOLED_DECODER:
        return "transformers"
    if _is_flash(config):
        return "xlm-roberta-flash"
    if _is_new(config):
        return "gte-new"
    known = _transformers_class(str(config.get("model_type")))
    return "transformers" if known is not None and known == ref.architecture else "own code"


def _transformers_class(model_type: str) -> str | None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as NAMES

    found = NAMES.get(model_type)
    return str(found[0] if isinstance(found, tuple | list) else found) if found else None


def is_known(model_type: str) -> bool:
    """Tell whether transformers itself has a base model of a type."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return model_type in MODEL_MAPPING_NAMES


def _is_flash(config: Mapping[str, Any]) -> bool:
    """Recognise jina's xlm-roberta-flash where it is XLM-RoBERTa: learnt positions, plain GELU, no adapters."""
    return (
        str(config["auto_map"].get("AutoConfig", "")).endswith(".XLMRobertaFlashConfig")
        and config.get("architectures") == ["XLMRobertaForSequenceClassification"]
        and config.get("position_embedding_type", "absolute") == "absolute"
        and config.get("hidden_act", "gelu") == "gelu"
        and not config.get("lora_adaptations")
    )


def _is_new(config: Mapping[str, Any]) -> bool:
    """Recognise gte's new-impl where it is transformers' Gte: rotary positions, perhaps NTK-scaled, LayerNorm, GELU."""
    scaling = config.get("rope_scaling") or {}
    return isinstance(scaling, dict) and (
        config.get("model_type") == "new"
        and config.get("architectures") == ["NewForSequenceClassification"]
        and config.get("position_embedding_type", "rope") == "rope"
        and config.get("layer_norm_type", "layer_norm") == "layer_norm"
        and config.get("hidden_act", "gelu") == "gelu"
        and not config.get("logn_attention_scale")
        and (not scaling or (scaling.get("type") == "ntk" and scaling.get("mixed_b") is None))
        and _transformers_class("gte") is not None
    )


def check_settings(config: RerankerConfig, ref: ModelRef) -> None:
    """Refuse settings that do not fit a sequence classifier, before anything is loaded.

    Raises:
        ModelError: One line that names the key and the remedy.
        OfflineError: Code of its own has to come from the hub and the hub cannot be reached.
    """
    if config.instruction not in {"task", "none"}:
        raise ModelError(
            f"reranker.instruction: {ref.name} is a sequence classifier, which reads no instruction; set it to task (a "
            "query's own, FollowIR's kind, then stands behind the query) or none"
        )
    if config.dtype not in {"float32", "bfloat16", "float16"}:
        raise ModelError(f"reranker.dtype: {config.dtype} is for causal rerankers; set float32, bfloat16 or float16")
    effective_max_length(config, ref)
    if scores_by_modules(ref):  # its transformer has no labels
        return
    check_labels(ref)
    if implementation(ref) == "own code":
        code_sources(config, ref)


def check_labels(ref: ModelRef) -> None:
    """Refuse a sequence classifier of another number of labels than one."""
    labels = _labels(read_mapping(ref, "config.json"))
    if labels is not None and labels != 1:
        raise ModelError(f"reranker.model: {ref.name} has {labels} labels; a reranker has one")


def _labels(config: Mapping[str, Any]) -> int | None:
    """Return how many labels a config.json gives, or None where it says so in no way that transformers reads."""
    named, number = config.get("id2label"), config.get("num_labels")
    if isinstance(named, dict):
        return len(named)
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def code_sources(config: RerankerConfig, ref: ModelRef) -> dict[str, str]:
    """Say where a classifier's own Python code comes from, if the config lets it run.

    Args:
        config: The reranker's section of the config.
        ref: The model, resolved; its `implementation` is `own code`.

    Returns:
        For each of `CODE_CLASSES` the class as `module.Class`, behind a folder and `--` where that is not the model's.

    Raises:
        ModelError: The config does not allow it, or does not pin every commit.
        OfflineError: It has to come from the hub and the hub cannot be reached.
    """
    code: dict[str, Any] = read_mapping(ref, "config.json").get("auto_map") or {}
    if not config.trust_remote_code:
        raise ModelError(
            f"reranker.model: {ref.name} runs on Python code that comes with it (auto_map in its config.json), which "
            "transformers does not have itself; to allow it, set reranker.trust_remote_code: true"
            + (" and reranker.revision to a commit that you have read" if ref.published else " once you have read it")
        )
    if ref.published and not _COMMIT.fullmatch(config.revision or ""):
        raise ModelError(
            f"reranker.revision: {config.revision} may move; with trust_remote_code it has to be a commit (40 digits)"
        )
    missing = [name for name in CODE_CLASSES if not isinstance(code.get(name), str)]
    if missing:
        raise ModelError(f"reranker.model: {ref.name} names no {missing[0]} in the auto_map of its config.json")
    parted = {name: str(code[name]).rpartition("--") for name in CODE_CLASSES}
    elsewhere = sorted({repository for repository, _, _ in parted.values()} - {"", ref.name})
    if not elsewhere:
        return {name: target for name, (_, _, target) in parted.items()}
    if not _COMMIT.fullmatch(config.code_revision or ""):
        raise ModelError(
            f"reranker.code_revision: {ref.name} has its Python code in {elsewhere[0]}; set it to a commit of that "
            "repository (40 digits) that you have read"
        )
    if len(elsewhere) > 1:
        raise ModelError(
            f"reranker.model: {ref.name} has its Python code in {' and '.join(elsewhere)}; one reranker.code_revision "
            "cannot pin them"
        )
    folder = code_folder(ref, elsewhere[0], config.code_revision or "", "reranker.model")
    return {
        name: target if repository in {"", ref.name} else f"{folder}--{target}"
        for name, (repository, _, target) in parted.items()
    }
