"""Encoders in mteb's terms: the packed embedder, and sentence-transformers through mteb's own wrappers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from mteb.models.abs_encoder import AbsEncoder, get_prompt
from mteb.models.model_implementations.qwen3_models import instruction_template
from mteb.types import PromptType
from numpy.typing import NDArray

from rerank_eval.config.schema import RetrieverConfig
from rerank_eval.engine.embedding import EmbeddingStats, load_embedder
from rerank_eval.engine.errors import EngineError
from rerank_eval.errors import DeviceError, ModelError
from rerank_eval.models.checkpoint import checkpoint_folder
from rerank_eval.models.instruction_sets import InstructionSet
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.resolve import registered
from rerank_eval.retrievers.embedders import saved_max_length, saved_prompts, takes_qwen3_instructions


class Embedder(Protocol):
    """Turns texts into vectors: the packed engine, workers that have it, or a server."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def device(self) -> torch.device:
        """Where vectors are compared."""

    @property
    def max_length(self) -> int:
        """Tokens of a text that count; 0 where that is not known."""

    @property
    def stats(self) -> EmbeddingStats:
        """What has been done since the embedder was made."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: (n, dim) float32 of length one.

        Raises:
            EngineError: The model returned something that is not finite.
        """
        ...


class PackedEncoder(AbsEncoder):  # type: ignore[misc] # mteb is not typed for us
    """An embedder as an mteb encoder, so that instructions are chosen by mteb's own code.

    Args:
        embedder: The embedder.
        instruct: Queries stand behind `Instruct: ...` and `Query:`, as in mteb's wrapper of Qwen3-Embedding.
        prompts: Otherwise, the prompts that the checkpoint was saved with, as in mteb's wrapper of
            sentence-transformers.
    """

    def __init__(self, embedder: Embedder, *, instruct: bool, prompts: Mapping[str, str]) -> None:
        self.model = embedder
        self.instruction_template = instruction_template if instruct else None
        self.model_prompts = None if instruct else self.validate_task_to_prompt_name(dict(prompts), False)[0]
        self.apply_instruction_to_passages = False

    def prompt(self, task_metadata: Any, prompt_type: PromptType) -> str:
        """Return what stands before each text of a task."""
        return _prompt(self, task_metadata, prompt_type)

    def encode(self, inputs: Any, *, task_metadata: Any, prompt_type: PromptType, **_: Any) -> NDArray[np.float32]:
        """Embed batches of texts, as mteb's `EncoderProtocol` says."""
        texts = [text for batch in inputs for text in batch["text"]]
        return self.embed(texts, self.prompt(task_metadata, prompt_type))

    def embed(self, texts: Sequence[str], prompt: str) -> NDArray[np.float32]:
        """Embed texts behind a prompt: (n, dim) float32.

        Raises:
            ModelError: The model returned something that is not finite.
            DeviceError: The device's memory does not hold a single pack.
        """
        try:
            return self.model.embed([prompt + text for text in texts])
        except EngineError as error:
            raise ModelError(f"retriever.model: {error}") from error
        except torch.OutOfMemoryError as error:
            raise DeviceError("out of device memory; lower retriever.token_budget or retriever.max_length") from error

    def embed_blocks(self, blocks: Iterable[Sequence[str]], prompt: str) -> Iterator[NDArray[np.float32]]:
        """Embed blocks of texts behind a prompt, one after the other; see `embed`."""
        for block in blocks:
            yield self.embed(block, prompt)


def shown_prompts(encoder: Any, task_metadata: Any) -> dict[str, str] | None:
    """Return what an mteb encoder puts before a task's queries and documents, or None where it never does."""
    if getattr(encoder, "instruction_template", None) is None and not getattr(encoder, "model_prompts", None):
        return None
    return {kind.value: _prompt(encoder, task_metadata, kind) for kind in (PromptType.query, PromptType.document)}


def _prompt(encoder: Any, task_metadata: Any, prompt_type: PromptType) -> str:
    if encoder.instruction_template is None:
        return get_prompt(encoder.model_prompts, task_metadata, prompt_type) or ""
    if prompt_type == PromptType.document and not getattr(encoder, "apply_instruction_to_passages", True):
        return ""
    return encoder.get_task_instruction(task_metadata, prompt_type) or ""


def load_packed_encoder(
    config: RetrieverConfig, ref: ModelRef, device: str, instructions: InstructionSet | None = None
) -> PackedEncoder:
    """Load an encoder that `embedding_engine` has found to run on the packed engine.

    Raises:
        ModelError: The model cannot be loaded, or takes no instruction and the config gives one.
    """
    folder = checkpoint_folder(ref, "retriever.model")
    try:
        embedder = load_embedder(
            folder,
            revision=ref.load_revision,
            dtype=config.dtype,
            device=device,
            max_length=config.max_length or saved_max_length(ref),
            token_budget=config.token_budget or 0,
        )
    except EngineError as error:
        raise ModelError(f"retriever.model: {ref.name} cannot be loaded as an encoder: {error}") from error
    return packed_encoder(embedder, config, ref, instructions)


def packed_encoder(
    embedder: Embedder,
    config: RetrieverConfig,
    ref: ModelRef,
    instructions: InstructionSet | None,
    kind: type[PackedEncoder] = PackedEncoder,
) -> PackedEncoder:
    """Put a model's prompts before an embedder, or what answers like one; the encoder is of class `kind`.

    Raises:
        ModelError: The model takes no instruction and the config gives one.
    """
    encoder = kind(embedder, instruct=takes_qwen3_instructions(ref), prompts=saved_prompts(ref))
    set_instruction(encoder, config.instruction, instructions)
    return encoder


def load_encoder(
    config: RetrieverConfig, ref: ModelRef, device: str, instructions: InstructionSet | None = None
) -> Any:
    """Load an encoder on sentence-transformers, an mteb `EncoderProtocol`.

    Raises:
        ModelError: The model cannot be loaded, or a setting does not fit it.
    """
    try:
        encoder = _load_encoder(config, ref, None if device == "auto" else device)
    except Exception as error:  # safetensors and tokenizers raise classes of their own, straight from Exception
        raise ModelError(f"retriever.model: {ref.name} cannot be loaded as an encoder: {error}") from error
    if config.max_length is not None:
        if not hasattr(getattr(encoder, "model", None), "max_seq_length"):
            raise ModelError("retriever.max_length: this encoder's length cannot be set; leave the key out")
        encoder.model.max_seq_length = config.max_length
    set_instruction(encoder, config.instruction, instructions)
    return encoder


def _load_encoder(config: RetrieverConfig, ref: ModelRef, device: str | None) -> Any:
    from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

    options: dict[str, Any] = {"model_kwargs": {"dtype": getattr(torch, config.dtype), "use_safetensors": True}}
    if ref.published:
        meta = registered(ref.name)
        if meta is not None and meta.loader is not None:
            return meta.model_copy(update={"name": ref.source, "revision": ref.revision}).load_model(
                device=device, **options
            )
    options["trust_remote_code"] = config.trust_remote_code
    if takes_qwen3_instructions(ref):
        # As mteb's entry for Qwen3-Embedding: without it a copy in a folder would ignore every task's instruction.
        return InstructSentenceTransformerModel(
            ref.source,
            revision=ref.load_revision,
            device=device,
            instruction_template=instruction_template,
            apply_instruction_to_passages=False,
            **options,
        )
    return SentenceTransformerEncoderWrapper(ref.source, revision=ref.load_revision, device=device, **options)


def set_instruction(encoder: Any, instruction: str, instructions: InstructionSet | None) -> None:
    """Have an mteb encoder put what the setting says before texts.

    Raises:
        ModelError: It takes no instruction and the setting gives one.
    """
    if instruction == "task":
        return  # mteb's own way: the task's prompt, else the default of the task's type
    if instruction == "default":
        if getattr(encoder, "instruction_template", None) is not None:
            encoder.get_instruction = lambda _task_metadata, _prompt_type: _default()
        return
    if instruction == "none":
        if getattr(encoder, "instruction_template", None) is not None:
            encoder.instruction_template = lambda _instruction, _prompt_type=None: ""
        if getattr(encoder, "model_prompts", None):
            encoder.model_prompts = None
        return
    if getattr(encoder, "instruction_template", None) is None:
        raise ModelError("retriever.instruction: this encoder takes no instruction; set it to task or none")
    if instructions is not None:
        _use_set(encoder, instructions)
    else:
        encoder.get_instruction = lambda _task_metadata, _prompt_type: instruction


def _use_set(encoder: Any, instructions: InstructionSet) -> None:
    usual, template = encoder.get_instruction, encoder.instruction_template

    def get_instruction(task_metadata: Any, prompt_type: PromptType) -> str:
        document = prompt_type == PromptType.document
        text = instructions.for_text(task_metadata.name, document=document)
        if text is not None or document:
            return text or ""
        instructions.check([task_metadata.name], "retriever.instruction")
        if instructions.otherwise == "task":
            return str(usual(task_metadata, prompt_type))
        if instructions.otherwise == "default":
            return _default()
        return "" if instructions.otherwise == "none" else instructions.otherwise

    encoder.get_instruction = get_instruction
    # A set may give documents an instruction too, in the queries' template; the encoder's own leaves them bare.
    encoder.apply_instruction_to_passages = True
    if callable(template):
        encoder.instruction_template = lambda text, _prompt_type=None: template(text, PromptType.query) if text else ""


def _default() -> str:
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    return str(AbsTaskRetrieval.abstask_prompt)
