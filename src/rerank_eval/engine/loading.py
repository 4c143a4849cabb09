"""From a model's name or folder to an engine, refusing whatever would score at random."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rerank_eval.engine.attention import register
from rerank_eval.engine.base import EngineParts
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.head import Head, HeadName
from rerank_eval.engine.interface import Engine
from rerank_eval.engine.kernels import kernel_names
from rerank_eval.engine.packed import PackedEngine
from rerank_eval.engine.prompts import PromptTokenizer
from rerank_eval.engine.quantize import check_quantization, quantize, weights_dtype
from rerank_eval.engine.recipe import MAX_LENGTH, Recipe
from rerank_eval.engine.recipes import get_recipe
from rerank_eval.engine.reference import ReferenceEngine
from rerank_eval.engine.runner import choose_attention
from rerank_eval.engine.special_tokens import SpecialTokenMode
from rerank_eval.engine.waiting import wait_asleep

DtypeName = Literal["float32", "bfloat16", "float16", "float8", "int8"]
EngineName = Literal["packed", "reference"]

MAX_LAYERS = 1_000
"""Far more than any model has: a number beyond it is built, layer by layer, for hours before weights are missed."""
MODEL_TYPES = ("gemma", "llama", "mistral", "qwen2", "qwen3")
"""Model types of one and the same decoder layer, whose attention takes a scale, and perhaps a window, and no more."""
READS_IMAGES = ("Qwen3VLForConditionalGeneration",)
"""Architectures that read images besides texts, and are given texts alone."""
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_MOVING_ROPE = {"dynamic", "longrope"}
"""Kinds of rotary positions whose angles follow the longest prompt of a batch."""


def load_engine(
    model: str | Path,
    *,
    recipe: Recipe | str,
    revision: str | None = None,
    dtype: DtypeName = "float32",
    device: str = "auto",
    engine: EngineName = "packed",
    head: HeadName = "float32",
    max_length: int | None = None,
    batch_size: int = 16,
    token_budget: int = 0,
    attention: str = "auto",
    compile_layers: bool | None = None,
    trust_remote_code: bool = False,
    special_tokens: SpecialTokenMode = "keep",
) -> Engine:
    """Load a checkpoint and put an engine together.

    Args:
        model: A folder or a name on the hub. Only safetensors are read.
        recipe: A recipe or its name.
        revision: Branch, tag or commit on the hub.
        dtype: What the weights are cast to; `float8` and `int8` quantise the layers' matrices, see `quantize`.
        device: `auto` (CUDA, else MPS, else CPU), or a torch device.
        engine: `packed`, or `reference` for the recipe's plain padded code.
        head: `float32` for the margin, or `recipe_softmax` for the recipe's own arithmetic.
        max_length: Limit in tokens, as the recipe's truncation mode reads it; None takes `MAX_LENGTH`, or the
            checkpoint's positions where they are fewer.
        batch_size: Prompts in a batch of the reference engine.
        token_budget: Most tokens in a row of the packed engine; 0 chooses it from free memory.
        attention: How the packed engine attends: `segments` by SDPA, document by document; a kernel of `kernels` in
            variable-length calls; `auto` takes torch_varlen or flash_attn if one proves right on this device, else
            segments.
        compile_layers: Compile the packed engine's layers with torch.compile; None does so on CUDA.
        trust_remote_code: Let the checkpoint run code of its own.
        special_tokens: Whether special tokens in a text (`<|im_end|>`) stay what they are, as in the recipes' own code
            (`keep`), or become plain text (`escape`).

    Returns:
        The engine.

    Raises:
        EngineError: A setting does not fit, or the checkpoint is unreadable, incomplete or of another type.
    """
    wait_asleep()
    chosen = get_recipe(recipe)
    if chosen.reads != "last":
        raise EngineError(f"recipe {chosen.name!r} has no token to read an answer at; it is for pooled classifiers")
    for name, value, valid in (
        ("dtype", dtype, get_args(DtypeName)),
        ("engine", engine, get_args(EngineName)),
        ("attention", attention, ("auto", "segments", *kernel_names())),
        ("special_tokens", special_tokens, get_args(SpecialTokenMode)),
    ):
        check_choice(name, value, valid)
    target, hub = resolve_device(device), {"revision": revision, "trust_remote_code": trust_remote_code}
    check_quantization(dtype, target)
    function = register() if engine == "packed" else None  # transformers' choice: Gemma2's cap is not SDPA's

    def check(name: str, config: Any) -> None:
        check_causal(name, config)
        limit = max_length or _longest(config)
        obstacle = why_not_packed(config, limit) if engine == "packed" else None
        if obstacle is not None:
            raise EngineError(f"{name} {obstacle}; set engine to reference")

    tokenizer, network = load_checkpoint(
        str(model), _network_class, attention=function, dtype=weights_dtype(dtype), check=check, hub=hub
    )
    network.to(target)
    if max_length is None:
        max_length = _longest(network.config)
    check_positions(str(model), network, max_length)
    quantize(network, dtype)
    parts = EngineParts(
        model=network,
        prompts=PromptTokenizer(tokenizer, chosen, max_length, special_tokens),
        head=answer_head(str(model), tokenizer, network, chosen, head),
        pad_id=tokenizer.pad_token_id or 0,  # masked, so any id of the vocabulary would do
        settings={
            "model": str(model),
            "revision": revision or getattr(network.config, "_commit_hash", None) or "",
            "dtype": dtype,
            "device": str(target),
            "engine": engine,
            "head": head,
            "recipe": chosen.name,
            "max_length": max_length,
            **({} if special_tokens == "keep" else {"special_tokens": special_tokens}),
            **({"batch_size": batch_size} if engine == "reference" else {}),
        },
        linear=_is_linear(network.config),
    )
    if engine == "reference":
        return ReferenceEngine(parts, batch_size)
    packed = PackedEngine(parts, token_budget, choose_attention(attention, network.model))
    if target.type == "cuda" if compile_layers is None else compile_layers:
        packed.compile_layers(required=bool(compile_layers))
    return packed


def answer_head(
    model: str, tokenizer: PreTrainedTokenizerBase, network: PreTrainedModel, recipe: Recipe, name: HeadName
) -> Head:
    """Make the head of a recipe's answers, or of a classification head's one label.

    Args:
        model: Its name, for errors.
        tokenizer: Names the answers' tokens.
        network: The model.
        recipe: Its answers, softmax and scale are the head's.
        name: Which arithmetic.

    Raises:
        EngineError: An answer is no single token, or the model's output layer is not known here.
    """
    classifies = is_classifier(network.config)
    layer: Any = getattr(network, "score", None) if classifies else network.get_output_embeddings()
    if not isinstance(getattr(layer, "weight", None), torch.Tensor):
        raise EngineError(f"{model} is a {type(network).__name__}, whose output layer is not known here")
    yes, no = (0, None) if classifies else answer_ids(tokenizer, recipe)
    return Head(layer, yes, no, name, recipe.softmax_dtype, scale=recipe.scale)


def _is_linear(config: Any) -> bool:
    """Tell whether a logit is a row of the output layer times the hidden state, and nothing besides."""
    capped = getattr(config, "final_logit_softcapping", None) is not None
    return is_classifier(config) or (config.model_type in MODEL_TYPES and not capped)


def resolve_device(device: str) -> torch.device:
    """Choose a device: CUDA, else MPS, else the CPU for `auto`; else what `torch.device` takes.

    Raises:
        EngineError: It is malformed or this machine does not have it.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    unknown = f"unknown device {device!r}; valid: auto, cpu, cuda, cuda:0, ..., mps"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise EngineError(unknown) from error
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if chosen.type not in present:
        raise EngineError(unknown)
    if not present[chosen.type]:
        raise EngineError(f"device {device!r} is not available on this machine; use auto or cpu")
    return chosen


def device_name(device: str = "auto") -> str:
    """Name a device for people and the manifest, such as `cuda (NVIDIA H100 80GB HBM3)` and `cpu (x86_64)`.

    Raises:
        EngineError: As `resolve_device` does.
    """
    chosen = resolve_device(device)
    return f"{chosen.type} ({hardware_name(chosen)})"


def hardware_name(device: torch.device) -> str:
    """Return what a device calls itself: a GPU by its driver, all else by the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def is_classifier(config: Any) -> bool:
    """Tell whether a decoder has a classification head, by its config."""
    return any(name.endswith("ForSequenceClassification") for name in getattr(config, "architectures", None) or [])


def reads_images(config: Any) -> bool:
    """Tell whether a model reads images besides texts, by its config."""
    return any(name in READS_IMAGES for name in getattr(config, "architectures", None) or [])


def text_config(config: Any) -> Any:
    """Return what a config says of the language model: all of it, or a part where the model reads images."""
    return config.text_config if reads_images(config) else config


def _longest(config: Any) -> int:
    return min(MAX_LENGTH, getattr(text_config(config), "max_position_embeddings", MAX_LENGTH))


def _network_class(config: Any) -> Any:
    if reads_images(config):
        return AutoModelForImageTextToText
    return AutoModelForSequenceClassification if is_classifier(config) else AutoModelForCausalLM


def load_checkpoint(
    model: str,
    network_class: Callable[[Any], Any],
    *,
    attention: str | None,
    dtype: torch.dtype,
    check: Callable[[str, Any], None],
    hub: Mapping[str, Any],
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load tokenizer and weights, and check that nothing was left random.

    Weights are memory-mapped: in the file's own dtype they are the file's pages, on a CPU and on their way to a GPU; in
    another dtype the host holds the cast copy alone. `network_class` chooses an AutoModel class by a config,
    `check` refuses a config.json before any weight is read, `hub` holds `revision` and `trust_remote_code`.

    Raises:
        EngineError: The checkpoint is unreadable, incomplete or refused by `check`.
    """
    try:
        config = AutoConfig.from_pretrained(model, **hub)
        check(model, config)
        tokenizer = AutoTokenizer.from_pretrained(model, **hub)
        network, report = network_class(config).from_pretrained(
            model,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation=attention,
            output_loading_info=True,
            **hub,
        )
    except EngineError:
        raise
    except Exception as error:  # safetensors and tokenizers raise classes of their own, straight from Exception
        raise EngineError(f"{model} cannot be loaded: {error}") from error
    _check_complete(model, tokenizer, network, report)
    return tokenizer, network.eval()


def _check_complete(
    model: str, tokenizer: PreTrainedTokenizerBase, network: PreTrainedModel, report: Mapping[str, Any]
) -> None:
    """Refuse a model of which something was left random; `report` is transformers' `output_loading_info`."""
    absent = sorted({*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])})
    if absent:
        raise EngineError(
            f"{model} lacks {len(absent)} weights that would be left random: {', '.join(absent[:3])}; "
            "the download is incomplete or the checkpoint is not a causal language model's"
        )
    if (tokens := ids_of(tokenizer)) > network.get_input_embeddings().num_embeddings:
        raise EngineError(f"{model}: the tokenizer has {tokens} tokens, more than the model's embedding has rows")


def ids_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many rows of an embedding a tokenizer's ids reach over; there may be fewer tokens than that."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


def check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Refuse a setting that is not among the valid ones."""
    if value not in valid:
        raise EngineError(f"unknown {name} {value!r}; valid: {', '.join(valid)}")


def check_positions(model: str, network: PreTrainedModel, max_length: int) -> None:
    """Refuse prompts longer than the model's position range, where it would answer without having learnt to."""
    limit = getattr(text_config(network.config), "max_position_embeddings", max_length)
    if max_length > limit:
        raise EngineError(f"max_length {max_length} exceeds the {limit} positions that {model} was made for")


def why_not_packed(config: Any, max_length: int) -> str | None:
    """Say what of a decoder the packed engine does not compute, for prompts of `max_length` tokens at most.

    Args:
        config: transformers' config of the model.
        max_length: Longest prompt; a window that is no shorter changes nothing.

    Returns:
        What follows the model's name in a message; None where the packed engine computes what transformers does.
    """
    if config.model_type not in MODEL_TYPES:
        return f"is of type {config.model_type!r}; the packed engine runs {', '.join(MODEL_TYPES)}"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    slides = "sliding_attention" in kinds or config.model_type == "mistral"  # whose layers read the window alone
    window = getattr(config, "sliding_window", None)
    caps = [key for key in _CAPS if getattr(config, key, None) is not None]
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    rope = rope if isinstance(rope, Mapping) else {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    obstacle = None
    if kinds - {"full_attention", "sliding_attention"}:
        obstacle = f"has layers of {' and '.join(sorted(kinds - {'full_attention'}))}, which are not computed packed"
    elif "sliding_attention" in kinds and window is None:
        obstacle = "has layers of sliding-window attention by its config.json, and no window"
    elif slides and window is not None and window < max_length:
        obstacle = f"attends within a sliding window of {window} tokens, fewer than max_length {max_length}"
    elif caps:
        obstacle = f"caps its logits ({caps[0]}), which is not computed packed"
    elif kind in _MOVING_ROPE:
        obstacle = f"has {kind} rotary positions, whose angles would follow the longest prompt of a pack"
    return obstacle


def check_decoder(model: str, config: Any) -> None:
    """Refuse a damaged config.json, and a model that attends in both directions."""
    layers = getattr(config, "num_hidden_layers", 0)
    if layers > MAX_LAYERS:
        raise EngineError(f"{model} has {layers:,} layers by its config.json, which is damaged")
    if getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", False):
        raise EngineError(f"{model} attends in both directions by its config.json, which the engine does not compute")


def check_causal(model: str, config: Any) -> None:
    """Refuse what no engine for causal rerankers runs.

    Raises:
        EngineError: Its config.json is damaged, or it is no causal language model.
    """
    check_decoder(model, text_config(config))
    architectures = getattr(config, "architectures", None) or []
    if is_classifier(config) and config.num_labels != 1:
        raise EngineError(f"{model} has {config.num_labels} labels; a reranker has one")
    known = ("ForCausalLM", "ForSequenceClassification", *READS_IMAGES)
    if architectures and not any(name.endswith(known) for name in architectures):
        raise EngineError(
            f"{model} is a {architectures[0]}, not a causal language model; its answer is not read from yes and no"
        )


def answer_ids(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> tuple[int, int | None]:
    """Return the ids of the answers yes and no, of which there may be none.

    Raises:
        EngineError: The tokenizer has no single token for an answer.
    """

    def of(answer: str | int) -> int:
        if isinstance(answer, int):
            return answer
        ids = tokenizer.encode(answer, add_special_tokens=False)
        if len(ids) != 1:
            raise EngineError(
                f"the tokenizer splits {answer!r} into {len(ids)} tokens; the answer must be a single one"
            )
        return int(ids[0])

    return of(recipe.yes), None if recipe.no is None else of(recipe.no)
