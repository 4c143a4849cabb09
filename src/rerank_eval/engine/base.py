"""What both engines share: texts to prompts, head, counting."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from rerank_eval.engine.head import Head, HeadOutput, to_arrays
from rerank_eval.engine.interface import EngineStats, QueryGroup, RenderedPrompt, Scores
from rerank_eval.engine.prefetch import prefetch
from rerank_eval.engine.prompts import PromptTokenizer, TokenizedGroup
from rerank_eval.engine.special_tokens import SpecialTokens


@dataclass(frozen=True)
class EngineParts:
    """What an engine is put together from.

    Attributes:
        model: A causal language model in evaluation mode, on its device, with the attention that the engine needs.
        prompts: The tokenizer with its recipe.
        head: The answer's head.
        pad_id: Token id to pad with; padding is masked, so it changes no score.
        settings: Effective settings, reported as they are.
    """

    model: PreTrainedModel
    prompts: PromptTokenizer
    head: Head
    pad_id: int
    settings: Mapping[str, str | int]


@dataclass(frozen=True)
class FinishedGroup:
    """A group that has been run: its prompts, the head's output in its documents' order, what ran for it."""

    prompts: TokenizedGroup
    output: HeadOutput
    work: EngineStats


class BaseEngine(ABC):
    """Scores groups; a subclass says how prompts are tokenised and run through the model."""

    causal = True

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

    @property
    def special_tokens(self) -> SpecialTokens:
        """Finds special tokens in texts."""
        return self._prompts.special_tokens

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """Render one pair's prompt, see `Engine.render`."""
        return self._prompts.render(query, document, instruction)

    def score(self, group: QueryGroup) -> Scores:
        """Score a group's documents, see `Engine.score`."""
        return next(iter(self.score_groups([group])))

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[Scores]:
        """Score a stream of groups, see `Engine.score_groups`."""
        started = time.perf_counter()
        pending: deque[bool] = deque()  # for each group read and not yet answered: whether it has documents
        with closing(prefetch(self._timed_prompts(groups, pending), ahead=self._tokenize_ahead())) as prompts:
            for finished in self._stream(prompts):
                while not pending[0]:
                    pending.popleft()
                    yield Scores.empty()
                pending.popleft()
                now = time.perf_counter()
                yield self._scores(finished, now - started)
                started = time.perf_counter()  # what the caller does in between is not scoring
        while pending:
            pending.popleft()
            yield Scores.empty()

    def _timed_prompts(self, groups: Iterable[QueryGroup], pending: deque[bool]) -> Iterator[TokenizedGroup]:
        for group in groups:
            pending.append(bool(group.documents))
            if group.documents:
                started = time.perf_counter()
                prompts = self._tokenize(group)
                yield replace(prompts, seconds=time.perf_counter() - started)

    def _scores(self, finished: FinishedGroup, seconds: float) -> Scores:
        scores = Scores.of(*to_arrays(finished.output), finished.prompts)
        self._stats += finished.work + EngineStats.of(scores, finished.prompts, seconds)
        return scores

    def _tokenize_ahead(self) -> bool:
        """Say whether to tokenise in a thread while the model runs; on a CPU the two would share the same cores."""
        return False

    @abstractmethod
    def _tokenize(self, group: QueryGroup) -> TokenizedGroup:
        """Turn a group of at least one document into prompts."""

    @abstractmethod
    def _stream(self, prompts: Iterable[TokenizedGroup]) -> Iterator[FinishedGroup]:
        """Run prompts through model and head, in order; say what ran (forwards, computed and padding tokens)."""
