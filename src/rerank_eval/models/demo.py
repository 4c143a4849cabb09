"""Two rerankers that need no hub: a small trained one that comes with the project, and a tiny one with random weights.

The trained one lies beside this file, as `rerank_demo` exported it. The random one, real code paths and the
real vocabulary without quality, is built here, for tests and benchmarks and as the floor that others are held against.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from rerank_eval.errors import ModelError
from rerank_eval.files import load_json, storage_error
from rerank_eval.models.qwen_vocabulary import VOCABULARY_SIZE, build_qwen_tokenizer

WEIGHTS = "model.safetensors"
SHIPPED = Path(__file__).with_name("qwen3-python")
"""The trained reranker's folder, in the hub's layout."""
_SEED = 20_250_605
_README = """---
license: apache-2.0
---
# Demo reranker: the weights are random

A Qwen3ForCausalLM of {layers} layers x {hidden} with the real Qwen vocabulary and **random weights** (NumPy PCG64, seed
{seed}), built by `rerank_eval.models.demo`. It exists so that the whole pipeline can be run and tested without a
download. It has learnt nothing: its rankings are noise, and no number computed with it says anything about reranking.
"""


@dataclass(frozen=True)
class DemoShape:
    """Size of the demo model, in the terms of Qwen3's config.

    With the default the packed engine scores some 600 pairs of 300 tokens a second on two CPU cores. It has grouped
    queries and a tied head, as Qwen3-Reranker-0.6B has them.
    """

    num_hidden_layers: int = 2
    hidden_size: int = 64
    intermediate_size: int = 128
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    tie_word_embeddings: bool = True


DEFAULT_SHAPE = DemoShape()


def build_demo_reranker(folder: Path, shape: DemoShape = DEFAULT_SHAPE) -> Path:
    """Build the demo checkpoint, or leave it alone where it stands already.

    The weights do not depend on the torch version. They are stored in bfloat16 (about 20 MB). The folder appears whole
    or not at all.

    Raises:
        ModelError: dashscope, which ships the vocabulary, is missing, or `folder` holds something else.
        StorageError: The disk is full or the folder cannot be written.
    """
    if _is_complete(folder, shape):
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise ModelError(f"{folder} holds something other than this demo model; remove it or choose another folder")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        _write(temporary, shape)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except OSError as error:
        if _is_complete(folder, shape):  # another process has just built the same
            return folder
        clear = storage_error(error, folder)
        if clear is None:
            raise
        raise clear from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def demo_revision(folder: Path) -> str:
    """Name the weights by their content: the first 16 hexadecimal characters of model.safetensors' SHA-256.

    Raises:
        ModelError: The folder holds no model.safetensors.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{folder} holds no {WEIGHTS}; build the demo model first")
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


def _is_complete(folder: Path, shape: DemoShape) -> bool:
    """Say whether the folder holds this demo model: it was renamed into place whole, so its config is enough."""
    path = folder / "config.json"
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        return False
    config = load_json(path)
    return bool(config == _config(shape))


def _config(shape: DemoShape) -> dict[str, object]:
    """Return the content of config.json; what is not about size is as in Qwen3-Reranker-0.6B."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151_643,
        "dtype": "bfloat16",
        "eos_token_id": 151_645,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 40_960,
        "model_type": "qwen3",
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 1_000_000, "rope_type": "default"},
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCABULARY_SIZE,
        "x_rerank_eval_demo": {"seed": _SEED},
        **asdict(shape),
    }


def _weights(shape: DemoShape) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield name and value of each weight, in a fixed order, from one PCG64 stream.

    The scales are such that margins spread over about one log-odd and depend on the whole prompt: matrices keep a
    vector's size (1 / sqrt(inputs)), attention is neither uniform nor one-hot, and the embedding is small beside what
    the layers add. Sharper attention would only enlarge the rounding of the rotary angles.
    """
    generator = np.random.Generator(np.random.PCG64(_SEED))

    def matrix(rows: int, columns: int, scale: float) -> NDArray[np.float32]:
        # Uniform, with standard deviation `scale`: unlike normal draws it needs no logarithm, so every platform agrees.
        uniform = generator.random((rows, columns), dtype=np.float32) - np.float32(0.5)
        return uniform * np.float32(scale * 12**0.5)

    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    yield "model.embed_tokens.weight", matrix(VOCABULARY_SIZE, hidden, 0.1)
    for layer in range(shape.num_hidden_layers):
        name = f"model.layers.{layer}."
        yield name + "input_layernorm.weight", np.ones(hidden, dtype=np.float32)
        yield name + "post_attention_layernorm.weight", np.ones(hidden, dtype=np.float32)
        yield name + "self_attn.q_norm.weight", np.full(shape.head_dim, 0.75, dtype=np.float32)
        yield name + "self_attn.k_norm.weight", np.full(shape.head_dim, 0.75, dtype=np.float32)
        yield name + "self_attn.q_proj.weight", matrix(queries, hidden, hidden**-0.5)
        yield name + "self_attn.k_proj.weight", matrix(keys, hidden, hidden**-0.5)
        yield name + "self_attn.v_proj.weight", matrix(keys, hidden, hidden**-0.5)
        yield name + "self_attn.o_proj.weight", matrix(hidden, queries, 2 * queries**-0.5)
        yield name + "mlp.gate_proj.weight", matrix(inner, hidden, hidden**-0.5)
        yield name + "mlp.up_proj.weight", matrix(inner, hidden, hidden**-0.5)
        yield name + "mlp.down_proj.weight", matrix(hidden, inner, inner**-0.5)
    yield "model.norm.weight", np.ones(hidden, dtype=np.float32)
    if not shape.tie_word_embeddings:
        yield "lm_head.weight", matrix(VOCABULARY_SIZE, hidden, 0.1)


def _write(folder: Path, shape: DemoShape) -> None:
    """Write the checkpoint's files into an empty folder."""
    # bfloat16 rounds to nearest even everywhere, so the bytes depend on NumPy's stream alone.
    weights = {name: torch.from_numpy(value).to(torch.bfloat16) for name, value in _weights(shape)}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors makes it readable by its owner alone
    (folder / "config.json").write_text(json.dumps(_config(shape), indent=2) + "\n", encoding="utf-8")
    build_qwen_tokenizer().save_pretrained(folder)
    readme = _README.format(layers=shape.num_hidden_layers, hidden=shape.hidden_size, seed=_SEED)
    (folder / "README.md").write_text(readme, encoding="utf-8")
