"""How a reranker is loaded: from a section of the config to an engine and a policy of instructions."""

from __future__ import annotations

from dataclasses import dataclass

from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import Engine
from rerank_eval.engine.loading import load_engine, resolve_device
from rerank_eval.engine.quiet import settle
from rerank_eval.engine.recipe import Recipe
from rerank_eval.errors import DeviceError, ModelError
from rerank_eval.models.architectures import effective_max_length, is_classifier
from rerank_eval.models.checkpoint import checkpoint_folder
from rerank_eval.models.instruction_sets import InstructionSet, find_instruction_set
from rerank_eval.models.recipes import find_recipe
from rerank_eval.models.resolve import ModelRef
from rerank_eval.models.statements import check_reranker
from rerank_eval.rerankers.classifiers import load_classifier
from rerank_eval.rerankers.instructions import InstructionPolicy


def check_device(device: str, otherwise: str = "") -> None:
    """Refuse a device that this machine does not have, before anything is computed.

    Args:
        device: `auto` or a torch device.
        otherwise: What else one can do, behind the error's line.

    Raises:
        DeviceError: It is not there.
    """
    try:
        resolve_device(device)
    except EngineError as error:
        raise DeviceError(f"device: {error}{otherwise}") from error


@dataclass(frozen=True)
class Prompting:
    """What a config's names of recipe and instructions stand for.

    Attributes:
        recipe: The prompt recipe.
        instructions: The instruction set, or None where the setting names none.
    """

    recipe: Recipe
    instructions: InstructionSet | None = None

    @classmethod
    def of(cls, config: RerankerConfig) -> Prompting:
        """Look a config's names up.

        Args:
            config: The reranker's section of the config.

        Raises:
            ConfigError: A name stands for nothing, or a file is malformed.
        """
        instructions = find_instruction_set(config.instruction, "reranker.instruction")
        return cls(find_recipe(config.recipe, "reranker.recipe"), instructions)


def load_reranking_engine(
    config: RerankerConfig, ref: ModelRef, device: str, prompting: Prompting | None = None
) -> Engine:
    """Load a reranker.

    Args:
        config: The reranker's section of the config.
        ref: The model, resolved.
        device: `auto` or a torch device.
        prompting: Recipe and instructions, where they were looked up before.

    Returns:
        The engine, with weights in memory.

    Raises:
        DeviceError: This machine has no such device.
        ModelError: The model cannot be loaded as a reranker.
    """
    settle()
    check_device(device)
    chosen = prompting or Prompting.of(config)
    check_reranker(config, ref, chosen.recipe)  # last chance before code of the checkpoint could run
    if is_classifier(config, ref):
        return load_classifier(config, ref, device)
    folder = checkpoint_folder(ref, "reranker.model")
    try:
        return load_engine(
            folder,
            revision=ref.load_revision,
            dtype=config.dtype,
            device=device,
            recipe=chosen.recipe,
            engine=config.engine,
            head=config.head,
            max_length=effective_max_length(config, ref),
            batch_size=config.batch_size,
            token_budget=config.token_budget or 0,
            compile_layers=config.compile,
            trust_remote_code=config.trust_remote_code,
            special_tokens=config.special_tokens,
        )
    except (EngineError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"reranker.model: {ref.name} cannot be loaded: {error}") from error


def make_policy(config: RerankerConfig, ref: ModelRef, prompting: Prompting) -> InstructionPolicy:
    """Return the policy by which a reranker's instructions are chosen.

    Args:
        config: The reranker's section of the config.
        ref: The model, resolved.
        prompting: Its recipe and instructions.
    """
    if is_classifier(config, ref):
        # These models take no instruction, so only a query's own is used.
        return InstructionPolicy(config.instruction, None, reads_task_prompt=False, place="behind the query")
    return InstructionPolicy(
        config.instruction,
        prompting.recipe.default_instruction,
        reads_task_prompt=prompting.recipe.reads_task_prompt,
        joins_own=prompting.recipe.joins_query_and_instruction,
        instructions=prompting.instructions,
    )
