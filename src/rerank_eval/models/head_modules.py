"""Rerankers whose head lies in sentence-transformers' modules: what the files say of it, and its weights.

CrossEncoder of sentence-transformers 5.4 and newer saves an encoder with such a head as Transformer, Pooling, and then
Dense and LayerNorm, each in a folder with a config.json and, where it has weights, a model.safetensors. What is not
computed here as that CrossEncoder does is refused in one line that names the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rerank_eval.engine.pair_heads import ACTIVATIONS, DenseLayer, ModuleHead, NormLayer, PoolingName
from rerank_eval.errors import ModelError
from rerank_eval.models.checkpoint import as_mapping, modules, read_json, read_mapping
from rerank_eval.models.contents import CONFIG, MODULES, ROOT, WHOLE
from rerank_eval.models.ref import ModelRef

SAVED = "config_sentence_transformers.json"
"""What CrossEncoder says of a checkpoint as a whole."""

_TEXT = "sentence_bert_config.json"
_VECTOR = "sentence_embedding"
"""Name under which Pooling hands on what it made, and LayerNorm reads and writes."""
_POOLING: dict[str, PoolingName] = {"cls": "first", "mean": "mean"}
_OLDER_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING_KEYS = {"pooling_mode", "include_prompt", "embedding_dimension", "word_embedding_dimension", *_OLDER_POOLING}
_DENSE_KEYS = {
    "in_features",
    "out_features",
    "bias",
    "activation_function",
    "module_input_name",
    "module_output_name",
    "use_residual",
}
_OPTIONS = ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
"""Keys of sentence_bert_config.json that change how a network or a tokenizer is loaded."""
_SHOWN = 60


@dataclass(frozen=True)
class _Dense:
    folder: str
    inputs: int
    outputs: int
    bias: bool
    activation: str


@dataclass(frozen=True)
class _Norm:
    folder: str
    inputs: int

    @property
    def outputs(self) -> int:
        return self.inputs


@dataclass(frozen=True)
class HeadModules:
    """What stands behind an encoder.

    Attributes:
        width: Size of the encoder's states.
        pooling: What of a pair's states is read.
        layers: What follows, in order; the last is dense with one output.
    """

    width: int
    pooling: PoolingName
    layers: tuple[_Dense | _Norm, ...]


def scores_by_modules(ref: ModelRef) -> bool:
    """Tell whether a checkpoint is a CrossEncoder that pools an encoder's states, rather than an embedding model."""
    return _is_cross_encoder(ref) and "Pooling" in [kind for kind, _ in modules(ref)]


def _is_cross_encoder(ref: ModelRef) -> bool:
    return read_mapping(ref, SAVED).get("model_type") == "CrossEncoder"


def takes_query_prompt(ref: ModelRef) -> bool:
    """Tell whether sentence-transformers' CrossEncoder puts a checkpoint's default prompt before the query's text.

    It reads the prompt of a checkpoint that it saved itself, which has a modules.json. Where texts go through a chat
    template the prompt is a turn of its own.
    """
    said = as_mapping(read_mapping(ref, _TEXT).get("modality_config"))
    return bool(modules(ref)) and _is_cross_encoder(ref) and "message" not in said


def read_head(ref: ModelRef, dtype: str, *, prompted: bool) -> HeadModules:
    """Read what the files say of a head, without its weights.

    Args:
        ref: The model, resolved; `scores_by_modules` holds.
        dtype: The config's, which the encoder will have.
        prompted: Whether a prompt stands before every query.

    Raises:
        ModelError: It is not computed here; one line that names the file.
    """
    found = modules(ref)
    listed = read_json(ref, MODULES) or []
    foreign = [str(one["type"]) for one in listed if not str(one["type"]).startswith("sentence_transformers.")]
    if foreign:
        _refuse(ref, MODULES, f"names {foreign[0][:_SHOWN]}, which is no module of sentence-transformers")
    kinds = [kind for kind, _ in found]
    unknown = [kind for kind in kinds[2:] if kind not in {"Dense", "LayerNorm"}]
    if kinds[:2] != ["Transformer", "Pooling"] or unknown or kinds[-1] != "Dense":
        chain = ", ".join(kinds)
        _refuse(ref, MODULES, f"is {chain[:200]}; only Transformer, Pooling, then Dense and LayerNorm, Dense last, is")
    folders = [folder for _, folder in found]
    if folders[0] != ROOT or ROOT in folders[1:] or len(set(folders)) < len(folders):
        _refuse(ref, MODULES, "does not keep its transformer at the root and each module in a folder of its own")
    _check_transformer(ref, dtype)
    width, pooling = _read_pooling(ref, f"{folders[1]}/{CONFIG}", prompted=prompted)
    layers, name, size = [], _VECTOR, width
    for kind, folder in found[2:]:
        layer, name = _read_dense(ref, folder, name) if kind == "Dense" else _read_norm(ref, folder, name)
        if layer.inputs != size:
            _refuse(ref, f"{folder}/{CONFIG}", f"takes {layer.inputs} numbers where {size} come")
        layers.append(layer)
        size = layer.outputs
    if name != "scores" or size != 1:
        _refuse(
            ref, f"{folders[-1]}/{CONFIG}", f"gives {size} number(s) named {name!r}, and not one of the name scores"
        )
    return HeadModules(width, pooling, tuple(layers))


def _check_transformer(ref: ModelRef, dtype: str) -> None:
    """Refuse an encoder that sentence-transformers would load or read in another way than by its last states."""
    if read_json(ref, _TEXT) is None:  # sentence-transformers would go on to files of older names
        raise ModelError(f"reranker.model: {ref.name} has no {_TEXT}, which CrossEncoder saves; fetch it again")
    said = read_mapping(ref, _TEXT)
    changed = [key for key in _OPTIONS if said.get(key)]
    if changed:
        _refuse(ref, _TEXT, f"has {changed[0]}")
    plain = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    if said.get("modality_config", plain) != plain:
        _refuse(ref, _TEXT, "has another modality_config than plain text")
    if said.get("module_output_name", "token_embeddings") != "token_embeddings":
        _refuse(ref, _TEXT, f"has module_output_name {str(said['module_output_name'])[:_SHOWN]}")
    kept = read_mapping(ref, SAVED).get("keep_in_fp32_modules") or []
    inside = [str(name) for name in kept if str(name).startswith("0.")] if isinstance(kept, list) else [str(kept)]
    if inside and dtype != "float32":  # the head itself is in float32 here, whatever the dtype
        _refuse(ref, SAVED, f"keeps {inside[0][:_SHOWN]} of its encoder in float32 (keep_in_fp32_modules)")


def _read_pooling(ref: ModelRef, name: str, *, prompted: bool) -> tuple[int, PoolingName]:
    said = read_mapping(ref, name)
    _refuse_keys(ref, name, said, _POOLING_KEYS)
    older = [mode for key, mode in _OLDER_POOLING.items() if said.get(key)]
    mode = said.get("pooling_mode", older or "mean")
    modes = mode if isinstance(mode, list) else [mode]
    if len(modes) != 1 or modes[0] not in list(_POOLING):
        _refuse(ref, name, f"pools by {', '.join(map(str, modes))[:_SHOWN]}; only cls or mean is")
    if prompted and said.get("include_prompt") is False:
        _refuse(ref, name, "leaves the prompt out (include_prompt)")
    width = said.get("embedding_dimension", said.get("word_embedding_dimension"))
    return _size(ref, name, "embedding_dimension", width), _POOLING[modes[0]]


def _read_dense(ref: ModelRef, folder: str, given: str) -> tuple[_Dense, str]:
    name = f"{folder}/{CONFIG}"
    said = read_mapping(ref, name)
    _refuse_keys(ref, name, said, _DENSE_KEYS)
    if said.get("use_residual"):
        _refuse(ref, name, "has use_residual")
    read = said.get("module_input_name", _VECTOR)
    if read != given:
        _refuse(ref, name, f"reads {str(read)[:_SHOWN]!r} where the module before it gives {given!r}")
    # Dense's own default where the file names none
    activation = str(said.get("activation_function", "torch.nn.modules.activation.Tanh"))
    short = activation.rsplit(".", 1)[-1]
    if not activation.startswith("torch.nn.") or short not in ACTIVATIONS:
        _refuse(ref, name, f"has the activation {activation[:_SHOWN]}; only PyTorch's {', '.join(ACTIVATIONS)} are")
    inputs, outputs = (_size(ref, name, key, said.get(key)) for key in ("in_features", "out_features"))
    written = said.get("module_output_name")
    return _Dense(folder, inputs, outputs, bool(said.get("bias", True)), short), str(written or read)


def _read_norm(ref: ModelRef, folder: str, given: str) -> tuple[_Norm, str]:
    name = f"{folder}/{CONFIG}"
    said = read_mapping(ref, name)
    _refuse_keys(ref, name, said, {"dimension"})
    if given != _VECTOR:
        _refuse(ref, name, f"reads {_VECTOR!r} where the module before it gives {given!r}")
    return _Norm(folder, _size(ref, name, "dimension", said.get("dimension"))), _VECTOR


def _refuse_keys(ref: ModelRef, name: str, said: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(str(key) for key in said.keys() - known)
    if unknown:
        _refuse(ref, name, f"has {unknown[0][:_SHOWN]}")


def _size(ref: ModelRef, name: str, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        _refuse(ref, name, f"gives no number of {key}")
    return value


def _refuse(ref: ModelRef, name: str, problem: str) -> NoReturn:
    raise ModelError(f"reranker.model: {ref.name}: its {name} {problem}, which is not computed here; it is not scored")


def load_head(ref: ModelRef, folder: Path, head: HeadModules) -> ModuleHead:
    """Load a head's weights.

    Args:
        ref: The model.
        folder: Its files.
        head: What `read_head` returned.

    Raises:
        ModelError: Weights are missing, or others than config.json says.
    """
    layers: list[DenseLayer | NormLayer] = []
    for one in head.layers:
        if isinstance(one, _Norm):
            found = _tensors(ref, folder, one.folder, {"norm.weight": (one.inputs,), "norm.bias": (one.inputs,)})
            layers.append(NormLayer(found["norm.weight"], found["norm.bias"]))
            continue
        shapes = {"linear.weight": (one.outputs, one.inputs)} | ({"linear.bias": (one.outputs,)} if one.bias else {})
        found = _tensors(ref, folder, one.folder, shapes)
        layers.append(DenseLayer(found["linear.weight"], found.get("linear.bias"), one.activation))
    return ModuleHead(head.pooling, layers)


def _tensors(ref: ModelRef, folder: Path, inside: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Read a module's weights, which have to be exactly those of these names and shapes."""
    from safetensors.torch import load_file

    name = f"{inside}/{WHOLE}"
    if not (folder / name).is_file():
        raise ModelError(f"reranker.model: {ref.name}: {name} is missing; pickled weights are not loaded")
    try:
        found: dict[str, Any] = load_file(folder / name)
    except Exception as error:  # safetensors raises a class of its own, straight from Exception
        raise ModelError(f"reranker.model: {ref.name}: {name} cannot be read ({error})") from error
    if {key: tuple(tensor.shape) for key, tensor in found.items()} != dict(shapes):
        raise ModelError(f"reranker.model: {ref.name}: {name} holds other weights than the {CONFIG} beside it says")
    return found
