"""Checkpoints in a layout of their own, brought into transformers' classes: config and weights' names, nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch

State = dict[str, torch.Tensor]

_SHARED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "id2label",
    "num_labels",
)

_FLASH_NAMES = (
    (r"^roberta\.emb_ln\.", "roberta.embeddings.LayerNorm."),
    (r"\.encoder\.layers\.(\d+)\.mixer\.out_proj\.", r".encoder.layer.\1.attention.output.dense."),
    (r"\.encoder\.layers\.(\d+)\.norm1\.", r".encoder.layer.\1.attention.output.LayerNorm."),
    (r"\.encoder\.layers\.(\d+)\.mlp\.fc1\.", r".encoder.layer.\1.intermediate.dense."),
    (r"\.encoder\.layers\.(\d+)\.mlp\.fc2\.", r".encoder.layer.\1.output.dense."),
    (r"\.encoder\.layers\.(\d+)\.norm2\.", r".encoder.layer.\1.output.LayerNorm."),
)
_FLASH_FUSED = {
    r"^(.*\.encoder)\.layers\.(\d+)\.mixer\.Wqkv\.": [
        rf"\1.layer.\2.attention.self.{part}." for part in ("query", "key", "value")
    ]
}

_NEW_NAMES = (
    (r"^new\.", "gte."),
    (r"\.encoder\.layer\.(\d+)\.attention\.", r".layers.\1.self_attn."),
    (r"\.encoder\.layer\.(\d+)\.attn_ln\.", r".layers.\1.post_attention_layernorm."),
    (r"\.encoder\.layer\.(\d+)\.mlp_ln\.", r".layers.\1.post_mlp_layernorm."),
    (r"\.encoder\.layer\.(\d+)\.mlp\.", r".layers.\1.mlp."),
)
_NEW_FUSED = {
    r"^(.*\.self_attn)\.qkv_proj\.": [rf"\1.{part}_proj." for part in "qkv"],
    r"^(.*\.mlp)\.up_gate_proj\.": [rf"\1.{part}_proj." for part in ("up", "gate")],
}


def convert(
    kind: Literal["xlm-roberta-flash", "gte-new"], config: Mapping[str, Any], state: State
) -> tuple[Any, State]:
    """Bring a checkpoint into the form of transformers' own class: its config object and the weights by its names.

    `xlm-roberta-flash` is jina's, into XLM-RoBERTa; `gte-new` is gte's new-impl, into Gte.
    """
    if kind == "gte-new":
        return _gte_config(config), _renamed(state, _NEW_NAMES, _NEW_FUSED)
    from transformers import XLMRobertaConfig

    return XLMRobertaConfig(**_known(config)), _renamed(state, _FLASH_NAMES, _FLASH_FUSED)


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in _SHARED if name in config}


def _gte_config(config: Mapping[str, Any]) -> Any:
    """Translate new-impl's rotary scaling.

    Its NTK scaling (https://kexue.fm/archives/9706) multiplies the base by the factor and divides all frequencies by
    factor ** (2 / head_dim), at every length: transformers' linear scaling by that divisor, on the larger base.
    """
    from transformers import GteConfig

    theta, scaling = float(config.get("rope_theta", 10_000.0)), config.get("rope_scaling")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if scaling:
        factor = float(scaling["factor"])
        head_dim = config.get("hidden_size", 768) // config.get("num_attention_heads", 12)
        rope = {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / head_dim)}
    return GteConfig(**_known(config), rope_parameters=rope)


def _renamed(state: State, names: tuple[tuple[str, str], ...], fused: Mapping[str, list[str]]) -> State:
    result: State = {}
    for old, tensor in state.items():
        name = old
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        for pattern, parts in fused.items():
            if re.search(pattern, name):
                pieces = tensor.chunk(len(parts))
                result |= {re.sub(pattern, part, name): piece for part, piece in zip(parts, pieces, strict=True)}
                break
        else:
            result[name] = tensor
    return result
