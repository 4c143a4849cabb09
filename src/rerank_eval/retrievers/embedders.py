"""Which engine embeds for a retriever, and with which prompts: read from the checkpoint's files, nothing is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from rerank_eval.config.schema import RetrieverConfig
from rerank_eval.errors import ModelError
from rerank_eval.models.checkpoint import modules, read_mapping
from rerank_eval.models.contents import ROOT
from rerank_eval.models.pair_templates import default_prompt
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.resolve import registered
from rerank_eval.models.statements import CHANGES_TEXTS

EngineName = Literal["packed", "sentence-transformers"]

_ARCHITECTURES = {"Qwen3Model", "Qwen3ForCausalLM"}
_MODULES = ["Transformer", "Pooling", "Normalize"]
_VECTOR = "sentence_embedding"
_INSTRUCT = re.compile(r"Instruct: [^\n]+\nQuery:")
_POOLING = re.compile(r"pooling_mode_(\w+)")


def embedding_engine(config: RetrieverConfig, ref: ModelRef) -> EngineName:
    """Say which engine a dense retriever runs on.

    It is `packed` where that computes what sentence-transformers does, unless the config says otherwise.

    Raises:
        ModelError: The config asks for `packed` and the checkpoint is none that it runs.
    """
    if config.engine == "sentence-transformers":
        return "sentence-transformers"
    obstacle = _why_not_packed(config, ref)
    if obstacle is None:
        return "packed"
    if config.engine == "packed":
        raise ModelError(
            f"retriever.engine: packed cannot run {ref.name}: {obstacle}; set it to auto or sentence-transformers"
        )
    return "sentence-transformers"


def takes_qwen3_instructions(ref: ModelRef) -> bool:
    """Tell whether a checkpoint reads its queries behind `Instruct: ...` and `Query:`, as Qwen3-Embedding does.

    A registered model does by its entry in mteb; any other by the query prompt that it was saved with.
    """
    registered_so = ref.published and is_registered_qwen3(ref.name)
    return registered_so or bool(_INSTRUCT.fullmatch(saved_prompts(ref).get("query", "")))


def saved_prompts(ref: ModelRef) -> dict[str, str]:
    """Return the prompts of a checkpoint's sentence-transformers config by name; empty where there are none."""
    prompts = read_mapping(ref, "config_sentence_transformers.json").get("prompts")
    return {str(key): str(value) for key, value in prompts.items()} if isinstance(prompts, dict) else {}


def saved_max_length(ref: ModelRef) -> int | None:
    """Return the limit in tokens that sentence-transformers' part of a checkpoint sets, or None."""
    limit = read_mapping(ref, "sentence_bert_config.json").get("max_seq_length")
    return limit if isinstance(limit, int) and not isinstance(limit, bool) else None


def saved_pooling(ref: ModelRef) -> list[str]:
    """Return the pooling modes that a checkpoint was saved with, such as `lasttoken`; empty where it has none."""
    folder = next((folder for kind, folder in modules(ref) if kind == "Pooling"), None)
    return _pooling_modes(read_mapping(ref, f"{folder}/config.json")) if folder is not None else []


def _why_not_packed(config: RetrieverConfig, ref: ModelRef) -> str | None:
    """Return what keeps the packed engine from computing the same as sentence-transformers, or None."""
    if config.trust_remote_code:
        return "it may run code of its own (trust_remote_code)"
    if ref.origin == "built-in" or ref.architecture not in _ARCHITECTURES:
        return f"its architecture is {ref.architecture or 'unknown'}, not one of {', '.join(sorted(_ARCHITECTURES))}"
    if obstacle := _why_not_this_network(read_mapping(ref, "config.json")):
        return obstacle
    if ref.published and is_registered_qwen3(ref.name):
        return None
    if ref.published and getattr(registered(ref.name), "loader", None) is not None:
        return "mteb has a wrapper of its own for it"
    return _why_not_pooled(ref)


def _why_not_this_network(model: Mapping[str, Any]) -> str | None:
    layers = model.get("layer_types") or ["full_attention"]
    plain = model.get("model_type") == "qwen3" and "auto_map" not in model and model.get("is_causal") is not False
    if not plain or model.get("use_sliding_window") or set(layers) != {"full_attention"}:
        return "its config.json is not that of a Qwen3 whose layers all attend causally and in full"
    return "it is quantised by its config.json" if model.get("quantization_config") else None


def _why_not_pooled(ref: ModelRef) -> str | None:
    """Check sentence-transformers' own files: text in, last token out, normalised, and nothing else."""
    steps = modules(ref)
    if [kind for kind, _ in steps] != _MODULES or steps[0][1] != ROOT:
        return "its modules.json is not Transformer at the root, Pooling, Normalize"
    pooling = read_mapping(ref, f"{steps[1][1]}/config.json")
    normalised = read_mapping(ref, f"{steps[2][1]}/config.json").get("module_input_name", _VECTOR) == _VECTOR
    if not normalised or _pooling_modes(pooling) != ["lasttoken"] or pooling.get("include_prompt") is False:
        return "its pooling is not that of the last token"
    whole = read_mapping(ref, "config_sentence_transformers.json")
    if whole.get("truncate_dim") is not None or whole.get("similarity_fn_name") not in {None, "cosine", "dot"}:
        return "it cuts its vectors or compares them in a way of its own"
    if default_prompt(ref) is not None:
        return "it puts a prompt of its own before every text (default_prompt_name)"
    return _why_not_plain(read_mapping(ref, "sentence_bert_config.json"))


def _why_not_plain(text: Mapping[str, Any]) -> str | None:
    modalities = text.get("modality_config")
    if isinstance(modalities, dict) and set(modalities) != {"text"}:
        return "it was saved to wrap texts in a chat template"
    changed = any(text.get(key) for key in (*CHANGES_TEXTS, "processing_kwargs"))
    return "its sentence_bert_config.json changes texts" if changed else None


def _pooling_modes(config: Mapping[str, Any]) -> list[str]:
    """Read today's `pooling_mode` as well as the older `pooling_mode_*` flags."""
    mode = config.get("pooling_mode")
    if mode is not None:
        return [str(one) for one in mode] if isinstance(mode, list) else [str(mode)]
    return [found[1] for key, value in config.items() if value and (found := _POOLING.fullmatch(key))]


def is_registered_qwen3(name: str) -> bool:
    """Tell whether mteb's registry has a model of this name whose queries stand behind `Instruct: ...` and `Query:`."""
    from mteb.models.model_implementations.qwen3_models import q3e_instruct_loader

    return getattr(registered(name), "loader", None) is q3e_instruct_loader
