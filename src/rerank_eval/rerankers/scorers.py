"""Scorers: what a reranker is scored with, and how it is loaded."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import Engine, MarkerFinder, QueryGroup, RenderedPrompt
from rerank_eval.engine.loading import load_engine, resolve_device
from rerank_eval.engine.memory import is_out_of_memory
from rerank_eval.engine.quiet import settle
from rerank_eval.engine.recipe import Recipe
from rerank_eval.errors import DeviceError, ModelError
from rerank_eval.models.architectures import effective_max_length, is_classifier
from rerank_eval.models.checkpoint import checkpoint_folder
from rerank_eval.models.instruction_sets import InstructionSet, find_instruction_set
from rerank_eval.models.recipes import find_recipe
from rerank_eval.models.resolve import ModelRef
from rerank_eval.models.statements import told
from rerank_eval.rerankers.classifiers import classifier_policy, load_classifier
from rerank_eval.rerankers.cross_encoder import GroupScores, Scorer, work_between
from rerank_eval.rerankers.instructions import InstructionPolicy


class EngineScorer:
    """A causal reranker on this project's engine.

    Args:
        engine: The loaded engine.
        policy: Chooses each query's instruction.
    """

    names = ("margin", "P(yes)")

    def __init__(self, engine: Engine, policy: InstructionPolicy) -> None:
        self.engine = engine
        self.policy = policy
        self.markers: MarkerFinder = engine.markers
        self._told = engine.stats

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[GroupScores]:
        """See `Scorer.score_groups`."""
        waiting: deque[str] = deque()

        def noted() -> Iterator[QueryGroup]:
            for group in groups:
                waiting.append(group.query)
                yield group

        try:
            for result in self.engine.score_groups(noted()):
                waiting.popleft()
                margins = result.margin.astype(np.float64)
                yield GroupScores(result.score, margins, result.truncated, result.prompt_lengths, result.overlong)
        except EngineError as error:
            raise ModelError(f"query {waiting[0][:60]!r}: {error}") from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceError(
                "out of memory, with one document at a time in the packed engine; lower reranker.max_length, or "
                "reranker.batch_size in the reference engine"
            ) from error

    def take_work(self) -> dict[str, float]:
        """See `Scorer.take_work`; `saved` is the share of the prompts' tokens that sharing made superfluous."""
        before, now = self._told, self.engine.stats
        self._told = now
        return with_saved(work_between(before, now))

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """See `Scorer.render`."""
        return self.engine.render(query, document, instruction)


def with_saved(work: dict[str, float]) -> dict[str, float]:
    """Add the share of the prompts' tokens that sharing made superfluous.

    Args:
        work: What `work_between` returned.
    """
    prompt, useful = work["prompt_tokens"], work["computed_tokens"] - work["padding_tokens"]
    return work | {"saved": 1 - useful / prompt if prompt else 0.0}


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have, before anything is computed.

    Args:
        device: `auto` or a torch device.

    Raises:
        DeviceError: It is not there.
    """
    try:
        resolve_device(device)
    except EngineError as error:
        raise DeviceError(f"device: {error}") from error


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


def load_scorer(config: RerankerConfig, ref: ModelRef, device: str, prompting: Prompting | None = None) -> Scorer:
    """Load a reranker.

    Args:
        config: The reranker's section of the config.
        ref: The model, resolved.
        device: `auto` or a torch device.
        prompting: Recipe and instructions, where they were looked up before.

    Returns:
        The scorer, with weights in memory.

    Raises:
        DeviceError: This machine has no such device.
        ModelError: The model cannot be loaded as a reranker.
    """
    settle()
    check_device(device)
    chosen = prompting or Prompting.of(config)
    told(config, ref, chosen.recipe)
    if is_classifier(config, ref):
        return load_classifier(config, ref, device)
    folder = checkpoint_folder(ref, "reranker.model")
    try:
        engine = load_engine(
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
            markers=config.markers,
        )
    except (EngineError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"reranker.model: {ref.name} cannot be loaded: {error}") from error
    return EngineScorer(engine, make_policy(config, ref, chosen))


def make_policy(config: RerankerConfig, ref: ModelRef, prompting: Prompting) -> InstructionPolicy:
    """Return the policy by which a reranker's instructions are chosen.

    Args:
        config: The reranker's section of the config.
        ref: The model, resolved.
        prompting: Its recipe and instructions.
    """
    if is_classifier(config, ref):
        return classifier_policy(config)
    return InstructionPolicy(
        config.instruction,
        prompting.recipe.default_instruction,
        reads_task_prompt=prompting.recipe.reads_task_prompt,
        joins_own=prompting.recipe.joins_query_and_instruction,
        instructions=prompting.instructions,
    )
