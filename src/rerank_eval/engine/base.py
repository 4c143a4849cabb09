"""What both engines share: texts to prompts, head, counting."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from rerank_eval.engine.head import Head, HeadOutput, to_arrays
from rerank_eval.engine.interface import EngineStats, QueryGroup, RenderedPrompt, Scores
from rerank_eval.engine.prompts import PromptTokenizer, TokenizedGroup


@dataclass(frozen=True)
class EngineParts:
    """What an engine is put together from.

    Attributes:
        model: A causal language model in evaluation mode, on its device, with the attention that the engine needs.
        prompts: The tokenizer with its recipe.
        head: The answer's head.
        pad_id: Token id to pad with where an engine pads; padding is masked, so it changes no score.
        settings: Effective settings, reported as they are.
    """

    model: PreTrainedModel
    prompts: PromptTokenizer
    head: Head
    pad_id: int
    settings: Mapping[str, str | int]


class BaseEngine(ABC):
    """Scores groups; a subclass says how prompts are tokenised and run through the model.

    Args:
        parts: What the engine is put together from.
    """

    def __init__(self, parts: EngineParts) -> None:
        self._model = parts.model
        self._prompts = parts.prompts
        self._head = parts.head
        self._pad_id = parts.pad_id
        self._settings = dict(parts.settings)
        self._stats = EngineStats()

    @property
    def stats(self) -> EngineStats:
        """What has been done since the engine was made."""
        return self._stats

    @property
    def settings(self) -> Mapping[str, str | int]:
        """Effective settings."""
        return self._settings

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """Render one pair's prompt, see `Engine.render`."""
        return self._prompts.render(query, document, instruction)

    def score(self, group: QueryGroup) -> Scores:
        """Score a group's documents, see `Engine.score`."""
        started = time.perf_counter()
        if not group.documents:
            empty = np.zeros(0)
            return Scores(empty, empty.astype(np.float32), empty.copy(), empty.astype(np.bool_), empty.astype(np.int64))
        prompts = self._tokenize(group)
        tokenized = time.perf_counter()
        with torch.inference_mode():
            output, work = self._run(prompts)
        score, margin, p_yes = to_arrays(output)
        lengths = prompts.lengths
        self._stats += work + EngineStats(
            pairs=len(lengths),
            groups=1,
            prompt_tokens=int(lengths.sum()),
            truncated_pairs=int(prompts.truncated.sum()),
            tokenize_seconds=tokenized - started,
            seconds=time.perf_counter() - started,
        )
        return Scores(score, margin, p_yes, prompts.truncated, lengths)

    @abstractmethod
    def _tokenize(self, group: QueryGroup) -> TokenizedGroup:
        """Turn a group of at least one document into prompts."""

    @abstractmethod
    def _run(self, prompts: TokenizedGroup) -> tuple[HeadOutput, EngineStats]:
        """Run prompts through model and head; say what ran (forwards, computed and padding tokens)."""
