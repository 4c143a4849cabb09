"""Scorers: this project's engine for causal rerankers, sentence-transformers for sequence classifiers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import Engine, QueryGroup
from rerank_eval.engine.loading import load_engine, resolve_device
from rerank_eval.engine.memory import is_out_of_memory
from rerank_eval.engine.quantize import QUANTIZED
from rerank_eval.engine.recipe import Recipe
from rerank_eval.errors import DeviceError, ModelError
from rerank_eval.models.instruction_sets import InstructionSet, find_instruction_set
from rerank_eval.models.instructions import InstructionPolicy
from rerank_eval.models.recipes import find_recipe
from rerank_eval.models.reranker import GroupScores, Scorer
from rerank_eval.models.resolve import ModelRef


class EngineScorer:
    """A causal reranker on this project's engine.

    Args:
        engine: The loaded engine.
        policy: Chooses each query's instruction.
    """

    def __init__(self, engine: Engine, policy: InstructionPolicy) -> None:
        self.engine = engine
        self.policy = policy
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
                yield GroupScores(result.score, margins, result.truncated, int(result.prompt_lengths.sum()))
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
        prompt = now.prompt_tokens - before.prompt_tokens
        computed = now.computed_tokens - before.computed_tokens
        padding = now.padding_tokens - before.padding_tokens
        return {
            "prompt_tokens": prompt,
            "computed_tokens": computed,
            "padding_tokens": padding,
            "padding": padding / computed if computed else 0.0,
            "saved": 1 - (computed - padding) / prompt if prompt else 0.0,
            "overlong_queries": now.overlong_queries - before.overlong_queries,
            "tokenize_seconds": now.tokenize_seconds - before.tokenize_seconds,
        }


class ClassifierScorer:
    """A sequence-classification reranker on sentence-transformers' CrossEncoder.

    The score is the logit, not its sigmoid: a sigmoid saturates, and what saturates ties.

    Args:
        model: A `sentence_transformers.CrossEncoder` with one label.
        policy: Chooses each query's instruction; these models take none, so only a query's own is used, joined to the
            query by a blank as mteb does.
        batch_size: Pairs at a time.
    """

    def __init__(self, model: Any, policy: InstructionPolicy, batch_size: int) -> None:
        self.model = model
        self.policy = policy
        self.batch_size = batch_size

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[GroupScores]:
        """See `Scorer.score_groups`."""
        for group in groups:
            yield self._score(group.query, group.instruction, group.documents)

    def _score(self, query: str, instruction: str | None, documents: Sequence[str]) -> GroupScores:
        left = f"{query} {instruction}" if instruction else query
        pairs = [(left, document) for document in documents]
        try:
            scores = self.model.predict(
                pairs,
                batch_size=self.batch_size,
                show_progress_bar=False,
                activation_fn=torch.nn.Identity(),
                convert_to_numpy=True,
            )
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"reranker.batch_size: out of device memory at {self.batch_size}; halve it") from error
        lengths = self._lengths(pairs)
        limit = self.model.max_seq_length or int(1e9)
        logits = np.asarray(scores, dtype=np.float64).reshape(len(documents))
        return GroupScores(logits, logits, lengths > limit, int(lengths.clip(max=limit).sum()))

    def take_work(self) -> dict[str, float]:
        """See `Scorer.take_work`; sentence-transformers does not count."""
        return {}

    def _lengths(self, pairs: list[tuple[str, str]]) -> Any:
        encoded = self.model.tokenizer([a for a, _ in pairs], [b for _, b in pairs], truncation=False, verbose=False)
        return np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64)


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


def is_classifier(config: RerankerConfig, ref: ModelRef) -> bool:
    """Tell whether a reranker is a sequence classifier, by the config or by its architecture.

    Args:
        config: The reranker's section of the config.
        ref: The model, resolved.

    Raises:
        ModelError: `kind: auto` and the architecture is neither causal nor a sequence classifier.
    """
    if config.kind != "auto":
        return config.kind == "sequence-classification"
    if ref.architecture.endswith("ForSequenceClassification"):
        return True
    if ref.architecture.endswith("ForCausalLM"):
        return False
    raise ModelError(
        f"reranker.model: {ref.name} has architecture {ref.architecture or 'unknown'!r}, which is neither a causal "
        "language model nor a sequence classifier; set reranker.kind"
    )


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
        ModelError: The model cannot be loaded as a reranker.
    """
    if is_classifier(config, ref):
        return _load_classifier(config, ref, device)
    chosen = prompting or Prompting.of(config)
    try:
        engine = load_engine(
            ref.source,
            revision=ref.load_revision,
            dtype=config.dtype,
            device=device,
            recipe=chosen.recipe,
            engine=config.engine,
            head=config.head,
            max_length=config.max_length,
            batch_size=config.batch_size,
            token_budget=config.token_budget or 0,
            compile_layers=config.compile,
            trust_remote_code=config.trust_remote_code,
        )
    except (EngineError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"reranker.model: {ref.name} cannot be loaded: {error}") from error
    return EngineScorer(engine, make_policy(config, chosen))


def make_policy(config: RerankerConfig, prompting: Prompting) -> InstructionPolicy:
    """Return the policy by which a causal reranker's instructions are chosen.

    Args:
        config: The reranker's section of the config.
        prompting: Its recipe and instructions.
    """
    return InstructionPolicy(
        config.instruction,
        prompting.recipe.default_instruction,
        reads_task_prompt=prompting.recipe.reads_task_prompt,
        joins_own=prompting.recipe.joins_query_and_instruction,
        instructions=prompting.instructions,
    )


def _load_classifier(config: RerankerConfig, ref: ModelRef, device: str) -> ClassifierScorer:
    from sentence_transformers import CrossEncoder as SentenceCrossEncoder

    if config.dtype in QUANTIZED:
        raise ModelError(f"reranker.dtype: {config.dtype} is for causal rerankers; set float32, bfloat16 or float16")
    try:
        model = SentenceCrossEncoder(
            ref.source,
            revision=ref.load_revision,
            device=None if device == "auto" else device,
            trust_remote_code=config.trust_remote_code,
            model_kwargs={"dtype": getattr(torch, config.dtype), "use_safetensors": True},
        )
    except Exception as error:  # safetensors and tokenizers raise classes of their own, straight from Exception
        raise ModelError(f"reranker.model: {ref.name} cannot be loaded as a cross-encoder: {error}") from error
    if model.num_labels != 1:
        raise ModelError(f"reranker.model: {ref.name} has {model.num_labels} labels; a reranker has one")
    model.max_seq_length = min(config.max_length, model.max_seq_length or config.max_length)
    model.model.eval()
    policy = InstructionPolicy(config.instruction, None, reads_task_prompt=False)
    return ClassifierScorer(model, policy, config.batch_size)
