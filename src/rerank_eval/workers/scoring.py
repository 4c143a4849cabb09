"""Second stage by workers: query groups go out in blocks, scores come back in order."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine.interface import EngineStats, MarkerFinder, QueryGroup, RenderedPrompt
from rerank_eval.engine.recipe import Recipe
from rerank_eval.models.architectures import effective_max_length, is_classifier
from rerank_eval.models.resolve import ModelRef
from rerank_eval.names import digest
from rerank_eval.rerankers.classifiers import ClassifierScorer
from rerank_eval.rerankers.cross_encoder import GroupScores, Scorer, work_between
from rerank_eval.rerankers.scorers import EngineScorer, Prompting, load_scorer, make_policy, with_saved
from rerank_eval.results.recorder import Floats
from rerank_eval.workers.blocks import tokens_of
from rerank_eval.workers.messages import Spec, difference
from rerank_eval.workers.models import on_this_host
from rerank_eval.workers.pool import Pool
from rerank_eval.workers.stream import stream

_SHOWN = 60

_WARM_UP = QueryGroup("What is a reranker?", None, ["It orders search results anew.", "Bread is baked."])


@dataclass(frozen=True)
class ScoredBlock:
    """A block's scores, all groups one behind the other: what travels back.

    Attributes:
        sizes: int64, documents of each group.
        scores: float64, shape (pairs,).
        margins: The same for margins; None where they are the scores.
        truncated: bool, shape (pairs,).
        lengths: int32, shape (pairs,); tokens of each prompt.
        overlong: bool, whether each group's query alone filled the prompt.
    """

    sizes: NDArray[np.int64]
    scores: Floats
    margins: Floats | None
    truncated: NDArray[np.bool_]
    lengths: NDArray[np.int32]
    overlong: NDArray[np.bool_]

    @classmethod
    def of(cls, results: Sequence[GroupScores]) -> ScoredBlock:
        """Join the scores of a block's groups."""
        scores = np.concatenate([one.scores for one in results])
        margins = np.concatenate([one.margins for one in results])
        return cls(
            np.array([len(one.scores) for one in results], dtype=np.int64),
            scores,
            None if np.array_equal(scores, margins) else margins,
            np.concatenate([one.truncated for one in results]),
            np.concatenate([one.lengths for one in results]).astype(np.int32),
            np.array([one.overlong for one in results], dtype=bool),
        )

    def groups(self) -> list[GroupScores]:
        """Part them again. Copies, so that nothing keeps Ray's object store from being emptied."""
        ends = np.cumsum(self.sizes)
        margins = self.scores if self.margins is None else self.margins
        return [
            GroupScores(
                self.scores[start:end].copy(),
                margins[start:end].copy(),
                self.truncated[start:end].copy(),
                self.lengths[start:end].astype(np.int64),
                bool(overlong),
            )
            for start, end, overlong in zip(ends - self.sizes, ends, self.overlong, strict=True)
        ]


class ScoringHandler:
    """A loaded scorer in a worker.

    Args:
        scorer: The scorer.
        device: Where its model is.
    """

    def __init__(self, scorer: EngineScorer | ClassifierScorer, device: str) -> None:
        self.device = device
        self._scorer = scorer
        self._told = self._stats

    @property
    def _stats(self) -> EngineStats:
        scorer = self._scorer
        return scorer.engine.stats if isinstance(scorer, EngineScorer) else scorer.classifier.stats

    def run(self, items: Sequence[QueryGroup]) -> ScoredBlock:
        """Score a block's groups."""
        return ScoredBlock.of(list(self._scorer.score_groups(items)))

    def take_work(self) -> EngineStats:
        """See `Handler.take_work`."""
        before, self._told = self._told, self._stats
        return difference(self._told, before)

    def markers(self) -> MarkerFinder:
        """See `Scorer.markers`; it is sent to the driver, which sees every text."""
        return self._scorer.markers

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """See `Scorer.render`."""
        return self._scorer.render(query, document, instruction)


@dataclass(frozen=True)
class ScorerSpec:
    """How a worker loads a reranker.

    Attributes:
        config: The reranker's section of the config.
        ref: The model as the driver resolved it.
        device: `auto` or a torch device.
        recipe: The prompt recipe, which may come from a file that only the driver has.
    """

    config: RerankerConfig
    ref: ModelRef
    device: str
    recipe: Recipe

    @property
    def key(self) -> str:
        """See `Spec.key`."""
        return digest([self.ref.name, self.ref.revision])

    def load(self) -> ScoringHandler:
        """See `Spec.load`."""
        ref = on_this_host(self.ref, self.config.model, "reranker.model")
        scorer: Any = load_scorer(self.config, ref, self.device, Prompting(self.recipe))
        handler = ScoringHandler(scorer, self.device)
        handler.run([_WARM_UP])
        return handler

    def unpack(self, answer: ScoredBlock) -> list[GroupScores]:
        """See `Spec.unpack`."""
        return answer.groups()


class RayScorer:
    """A reranker whose model is in the workers of a pool.

    Args:
        pool: The workers, started with a `ScorerSpec`.
        config: The reranker's section of the config.
        ref: The model, resolved.
        prompting: Its recipe and instructions: instructions are chosen here, so that the record of them is whole.

    Attributes:
        pool: The workers.
        policy: Chooses each query's instruction.
        names: What a margin and its sigmoid are called.
    """

    def __init__(self, pool: Pool, config: RerankerConfig, ref: ModelRef, prompting: Prompting) -> None:
        self.pool = pool
        self._causal = not is_classifier(config, ref)
        self._longest = effective_max_length(config, ref)
        self._told = EngineStats()
        self.policy = make_policy(config, ref, prompting)
        self.names: tuple[str, str] = (EngineScorer if self._causal else ClassifierScorer).names

    @functools.cached_property
    def markers(self) -> MarkerFinder:
        """See `Scorer.markers`."""
        finder: MarkerFinder = self.pool.ask("markers")
        return finder

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[GroupScores]:
        """See `Scorer.score_groups`."""
        return stream(self.pool, groups, weigh=self._weigh, name=lambda group: f"query {group.query[:_SHOWN]!r}")

    def _weigh(self, group: QueryGroup) -> float:
        longest = self._longest or float("inf")
        return tokens_of(group.query, longest) + sum(tokens_of(text, longest) for text in group.documents)

    def take_work(self) -> dict[str, float]:
        """See `Scorer.take_work`; summed over the workers."""
        before, self._told = self._told, self.pool.work or EngineStats()
        work = work_between(before, self._told)
        return with_saved(work) if self._causal else work

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """See `Scorer.render`."""
        prompt: RenderedPrompt = self.pool.ask("render", query, document, instruction)
        return prompt


_: tuple[type[Spec], type[Scorer]] = (ScorerSpec, RayScorer)
"""For the type checker: they are what the protocols say."""
