"""jina-reranker-v3, which reads a query's candidates together; see `engine.jina_v3`. None of its own code is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer, Qwen3Config, Qwen3Model

from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.jina_v3 import JinaV3, JinaV3Engine
from rerank_eval.engine.loading import check_decoder, ids_of, resolve_device
from rerank_eval.errors import ModelError
from rerank_eval.models.checkpoint import checkpoint_folder, read_mapping, weight_files
from rerank_eval.models.ref import ModelRef
from rerank_eval.rerankers.family import Prepared, Prompting
from rerank_eval.rerankers.instructions import InstructionPolicy
from rerank_eval.rerankers.listwise import list_identity, list_settings

_UNREAD = ("recipe", "engine", "head", "max_length", "special_tokens")
_PROJECTOR = ("projector.0.weight", "projector.2.weight")


class JinaRerankerV3:
    """See the module; `Family` says what each method does."""

    def serves(self, ref: ModelRef) -> bool:
        """See `Family.serves`."""
        return ref.architecture == "JinaForRanking"

    def prepare(self, config: RerankerConfig, ref: ModelRef, prompting: Prompting) -> Prepared:
        """See `Family.prepare`."""
        for key in _UNREAD:
            if getattr(config, key) != RerankerConfig.model_fields[key].default:
                raise ModelError(
                    f"reranker.{key}: {ref.name} is scored as its authors' rerank() scores it, with its own prompt and "
                    "limits; take it out"
                )
        if config.dtype not in {"float32", "bfloat16", "float16"}:
            raise ModelError(f"reranker.dtype: {ref.name} is not quantised here; set float32, bfloat16 or float16")
        content = read_mapping(ref, "config.json")
        kinds = content.get("layer_types")
        slides = content.get("use_sliding_window") or "sliding_attention" in (kinds if isinstance(kinds, list) else [])
        if content.get("model_type") != "qwen3" or slides:
            found = "attends within a sliding window" if slides else f"is of type {content.get('model_type')!r}"
            raise ModelError(
                f"reranker.model: {ref.name} {found} by its config.json; of this architecture jina-reranker-v3 alone "
                "was checked, which is a Qwen3 without (v3.5 has other limits besides)"
            )
        if content.get("quantization_config") is not None:
            raise ModelError(f"reranker.model: {ref.name} is quantised by its config.json; name what it was made from")
        identity = {"dtype": config.dtype, "listwise": list_identity(config, ref, by_windows=False)}
        # rerank() passes no instruction on; the prompt has a place for one, which a query's own or the config's takes.
        policy = InstructionPolicy(
            config.instruction, None, reads_task_prompt=False, instructions=prompting.instructions
        )
        return Prepared(config, ref, prompting, policy, identity, listwise=True)

    def load(self, prepared: Prepared, device: str) -> JinaV3Engine:
        """See `Family.load`."""
        config, ref = prepared.config, prepared.ref
        folder = checkpoint_folder(ref, "reranker.model")
        try:
            network = _network(folder, weight_files(ref, "reranker.model"), getattr(torch, config.dtype))
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            if (tokens := ids_of(tokenizer)) > network.model.get_input_embeddings().num_embeddings:
                raise EngineError(f"its tokenizer has {tokens} tokens, more than its embedding has rows")
            return JinaV3Engine(network.to(resolve_device(device)), tokenizer, list_settings(config).order)
        except ModelError:
            raise
        except Exception as error:  # safetensors and tokenizers raise classes of their own, straight from Exception
            raise ModelError(f"reranker.model: {ref.name} cannot be loaded: {error}") from error


def _network(folder: Path, shards: list[Path], dtype: torch.dtype) -> Any:
    """Build the network and put all weights into it; none may be left random, and none left over."""
    state: dict[str, torch.Tensor] = {}
    for shard in shards:
        state |= load_file(shard)
    own = Qwen3Config.from_pretrained(folder)
    check_decoder(str(folder), own)
    model = Qwen3Model._from_config(own, dtype=dtype, attn_implementation="sdpa")
    network = JinaV3(model, _projector(state, own.hidden_size, dtype))
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    # The published class has no language head; one that was saved all the same is not read.
    left = sorted(state.keys() - wanted.keys() - {"lm_head.weight"})
    wrong = sorted(name for name, shape in wanted.items() if name not in state or state[name].shape != shape)
    if wrong or left:
        found = f"lacks {wrong[0]}" if wrong else f"has {left[0]}, which nothing reads"
        raise EngineError(f"it {found}: not jina-reranker-v3's weights, or an incomplete download")
    network.load_state_dict({name: state[name] for name in wanted})
    return network


def _projector(state: Mapping[str, torch.Tensor], hidden: int, dtype: torch.dtype) -> nn.Sequential:
    missing = [name for name in _PROJECTOR if name not in state]
    if missing:
        raise EngineError(f"it lacks {missing[0]}: not jina-reranker-v3's weights, or an incomplete download")
    first, second = (state[name] for name in _PROJECTOR)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != hidden or second.shape[1] != first.shape[0]:  # noqa: PLR2004
        raise EngineError(f"its projector has shapes {tuple(first.shape)} and {tuple(second.shape)}")
    return nn.Sequential(
        nn.Linear(hidden, first.shape[0], bias=False, dtype=dtype),
        nn.ReLU(),
        nn.Linear(second.shape[1], second.shape[0], bias=False, dtype=dtype),
    )


PART = JinaRerankerV3()
