"""What all engines share: a stream of query groups in, scores out, in order, and what was done for them."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np
from transformers import PreTrainedModel

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.head import Head
from rerank_eval.engine.interface import EngineStats, FloatArray, QueryGroup, RenderedPrompt, Scores
from rerank_eval.engine.pairs import PairTokenizer, PromptPairs, TokenizedPairs
from rerank_eval.engine.prefetch import prefetch
from rerank_eval.engine.prompts import PromptTokenizer, TokenizedGroup
from rerank_eval.engine.special_tokens import SpecialTokens

Prompts = TypeVar("Prompts", TokenizedGroup, TokenizedPairs)


@dataclass(frozen=True)
class EngineParts:
    """What an engine of causal language models is put together from.

    Attributes:
        model: A causal language model in evaluation mode, on its device, with the attention that the engine needs.
        prompts: The tokenizer with its recipe.
        head: The answer's head.
        pad_id: Token id to pad with; padding is masked, so it changes no score.
        settings: Effective settings, reported as they are.
        linear: Whether a logit is a row of the head times the hidden state; other models scale or cap it besides.
    """

    model: PreTrainedModel
    prompts: PromptTokenizer
    head: Head
    pad_id: int
    settings: Mapping[str, str | int]
    linear: bool = True


@dataclass
class RunningGroup(Generic[Prompts]):
    """A group on its way through a model: scores and margins in its documents' order, as far as they are there."""

    prompts: Prompts
    scores: FloatArray
    margins: FloatArray
    missing: int
    work: EngineStats = field(default_factory=EngineStats)

    @classmethod
    def of(cls, prompts: Prompts) -> RunningGroup[Prompts]:
        """Begin with a group."""
        count = len(prompts.truncated)
        return cls(prompts, np.zeros(count), np.zeros(count), count)

    def put(self, documents: Sequence[int], scores: FloatArray, margins: FloatArray) -> None:
        """Take in what came out for some documents."""
        rows = list(documents)
        self.scores[rows], self.margins[rows] = scores, margins
        self.missing -= len(rows)


def finished(running: dict[int, RunningGroup[Prompts]]) -> Iterator[RunningGroup[Prompts]]:
    """Take out the groups that are complete, as far as no earlier one is waited for."""
    while running and not next(iter(running.values())).missing:
        yield running.pop(next(iter(running)))


class BaseEngine(ABC, Generic[Prompts]):
    """Scores groups; a subclass says how prompts are tokenised and run through the model.

    Args:
        tokenizer: Renders prompts and finds special tokens in texts.
        ahead: Whether to tokenise in a thread while the model runs; on a CPU the two would share the same cores.
    """

    causal = True

    def __init__(self, tokenizer: PromptTokenizer | PairTokenizer | PromptPairs, *, ahead: bool = False) -> None:
        self._tokenizer = tokenizer
        self._ahead = ahead
        self._stats = EngineStats()

    @property
    def stats(self) -> EngineStats:
        """What has been done since the engine was made."""
        return self._stats

    @property
    def special_tokens(self) -> SpecialTokens:
        """Finds special tokens in texts."""
        return self._tokenizer.special_tokens

    def render(self, query: str, document: str, instruction: str | None = None) -> RenderedPrompt:
        """Render one pair's prompt, see `Engine.render`."""
        return self._tokenizer.render(query, document, instruction)

    def score(self, group: QueryGroup) -> Scores:
        """Score a group's documents, see `Engine.score`."""
        return next(iter(self.score_groups([group])))

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[Scores]:
        """Score a stream of groups, see `Engine.score_groups`."""
        started = time.perf_counter()
        pending: deque[bool] = deque()  # for each group read and not yet answered: whether it has documents
        with closing(prefetch(self._timed_prompts(groups, pending), ahead=self._ahead)) as prompts:
            for group in self._stream(prompts):
                while not pending[0]:
                    pending.popleft()
                    yield Scores.empty()
                pending.popleft()
                yield self._scores(group, started)
                started = time.perf_counter()  # what the caller does in between is not scoring
        while pending:
            pending.popleft()
            yield Scores.empty()

    def _scores(self, group: RunningGroup[Prompts], started: float) -> Scores:
        prompts, margins = group.prompts, group.margins
        bad = int((~np.isfinite(margins)).sum())
        if bad:  # it would rank at random
            raise EngineError(
                f"{bad} of {len(margins)} {'margins' if self.causal else 'logits'} are NaN or infinite: damaged "
                "weights, or float16 has overflowed (use bfloat16 or float32)"
            )
        overlong = np.full(len(margins), prompts.query_cut)
        scores = Scores(group.scores, margins, prompts.truncated, overlong, prompts.lengths)
        self._stats += group.work + EngineStats(
            pairs=len(scores),
            groups=1,
            prompt_tokens=int(scores.tokens.sum()),
            truncated_pairs=int(scores.truncated.sum()),
            overlong_queries=int(prompts.query_cut),
            tokenize_seconds=prompts.seconds,
            seconds=time.perf_counter() - started,
        )
        return scores

    def _timed_prompts(self, groups: Iterable[QueryGroup], pending: deque[bool]) -> Iterator[Prompts]:
        for group in groups:
            pending.append(bool(group.documents))
            if group.documents:
                started = time.perf_counter()
                prompts = self._tokenize(group)
                yield replace(prompts, seconds=time.perf_counter() - started)

    @abstractmethod
    def _tokenize(self, group: QueryGroup) -> Prompts:
        """Turn a group of at least one document into prompts."""

    @abstractmethod
    def _stream(self, prompts: Iterable[Prompts]) -> Iterator[RunningGroup[Prompts]]:
        """Run prompts through the model, in order; note what ran (forwards, computed and padding tokens)."""


class PromptEngine(BaseEngine[TokenizedGroup]):
    """What the engines of causal language models share.

    Args:
        parts: Model, prompts and head.
        ahead: See `BaseEngine`.

    Attributes:
        parts: The same.
    """

    def __init__(self, parts: EngineParts, *, ahead: bool = False) -> None:
        super().__init__(parts.prompts, ahead=ahead)
        self.parts = parts
        self._prompts, self._head = parts.prompts, parts.head

    def answers(self, prompts: Sequence[Sequence[int]], head: Head) -> tuple[FloatArray, FloatArray]:
        """Score prompts that were written elsewhere by this engine's weights, whatever its own recipe.

        Args:
            prompts: Token ids, at least one each.
            head: Reads the answer.

        Returns:
            Scores and margins, float64, (prompts,) each.

        Raises:
            EngineError: The model returned NaN or an infinity.
        """
        if not prompts:
            return np.zeros(0), np.zeros(0)
        other = copy.copy(self)  # shares the weights; the head is the other's alone
        other._head = head
        own = [list(ids) for ids in prompts]
        (group,) = other._stream([TokenizedGroup([], own, np.zeros(len(own), dtype=np.bool_))])
        if not np.isfinite(group.margins).all():
            raise EngineError("a margin is NaN or infinite")
        return group.scores, group.margins
