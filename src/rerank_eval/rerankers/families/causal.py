"""Decoders that answer a prompt: Qwen3-Reranker and its kin, by the next token's logits or a classification head."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from rerank_eval.config.renamed import spelled_before
from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import Engine
from rerank_eval.engine.loading import READS_IMAGES, load_engine, why_not_packed
from rerank_eval.errors import ModelError
from rerank_eval.models.architectures import effective_max_length, has_decoder
from rerank_eval.models.checkpoint import checkpoint_folder, read_mapping
from rerank_eval.models.pooled_decoders import refuse_pooled_decoder, refuse_pooled_recipe
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.statements import check_causal
from rerank_eval.rerankers.family import Prepared, Prompting
from rerank_eval.rerankers.instructions import InstructionPolicy

logger = logging.getLogger(__name__)


class Causal:
    """See the module; `Family` says what each method does."""

    def serves(self, ref: ModelRef) -> bool:
        """See `Family.serves`."""
        if ref.architecture.endswith("ForSequenceClassification"):
            return has_decoder(ref)
        return ref.architecture.endswith("ForCausalLM") or ref.architecture in READS_IMAGES

    def prepare(self, config: RerankerConfig, ref: ModelRef, prompting: Prompting) -> Prepared:
        """See `Family.prepare`."""
        refuse_pooled_decoder(ref)
        ref, recipe = check_causal(config, ref, prompting.recipe)
        refuse_pooled_recipe(recipe)
        prompting = dataclasses.replace(prompting, recipe=recipe)
        max_length = effective_max_length(config, ref)
        obstacle = _why_not_packed(ref, max_length) if config.engine == "packed" else None
        if ref.architecture in READS_IMAGES:
            ref = dataclasses.replace(ref, notes=(*ref.notes, "it reads images besides texts: scored on texts alone"))
        if obstacle is not None:
            note = f"it {obstacle}: scored by the reference engine"
            config = config.model_copy(update={"engine": "reference"})
            ref = dataclasses.replace(ref, notes=(*ref.notes, note))
        # The key `markers` and old values stay: another spelling would be another digest, and nothing found again.
        identity: dict[str, Any] = {
            "dtype": config.dtype,
            "max_length": max_length,
            "recipe": recipe.name,
            "engine": config.engine,
            "head": spelled_before(config.head),
        }
        if config.compile is not None:  # fused arithmetic rounds elsewhere
            identity["compile"] = config.compile
        if config.special_tokens != "keep":
            identity["markers"] = spelled_before(config.special_tokens)
        policy = InstructionPolicy(
            config.instruction,
            recipe.default_instruction,
            reads_task_prompt=recipe.reads_task_prompt,
            joins_own=recipe.joins_query_and_instruction,
            instructions=prompting.instructions,
        )
        return Prepared(config, ref, prompting, policy, identity, causal=True, max_length=max_length)

    def load(self, prepared: Prepared, device: str) -> Engine:
        """See `Family.load`."""
        config, ref = prepared.config, prepared.ref
        folder = checkpoint_folder(ref, "reranker.model")
        try:
            return load_engine(
                folder,
                revision=ref.load_revision,
                dtype=config.dtype,
                device=device,
                recipe=prepared.recipe,
                engine=config.engine,
                head=config.head,
                max_length=prepared.max_length,
                batch_size=config.batch_size,
                token_budget=config.token_budget or 0,
                compile_layers=config.compile,
                trust_remote_code=config.trust_remote_code,
                special_tokens=config.special_tokens,
            )
        except (EngineError, OSError, ValueError, RuntimeError) as error:
            raise ModelError(f"reranker.model: {ref.name} cannot be loaded: {error}") from error


def _why_not_packed(ref: ModelRef, max_length: int) -> str | None:
    content = read_mapping(ref, "config.json")
    kind = CONFIG_MAPPING[content["model_type"]] if content.get("model_type") in CONFIG_MAPPING else None
    try:
        return None if kind is None else why_not_packed(kind.from_dict(content), max_length)
    except Exception as error:  # a damaged config raises whatever it likes, and is refused when it is loaded
        logger.debug("%s: its config.json is not read (%s)", ref.name, error)
        return None


PART = Causal()
