"""Second stage by workers: query groups go out in blocks, scores come back in order."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine.interface import Engine, EngineStats, QueryGroup, RenderedPrompt, Scores, SpecialTokenFinder
from rerank_eval.engine.recipe import Recipe
from rerank_eval.models.ref import ModelRef
from rerank_eval.names import digest
from rerank_eval.rerankers.cross_encoder import score_groups
from rerank_eval.rerankers.family import Prepared, Prompting
from rerank_eval.rerankers.loading import load_reranking_engine
from rerank_eval.workers.blocks import tokens_of
from rerank_eval.workers.messages import Spec
from rerank_eval.workers.models import on_this_host
from rerank_eval.workers.pool import Pool
from rerank_eval.workers.stream import stream

_SHOWN = 60

_WARM_UP = QueryGroup("What is a reranker?", None, ["It orders search results anew.", "Bread is baked."])


class ScoringHandler:
    """A loaded engine in a worker.

    Args:
        engine: The engine.
        device: Where its model is.
    """

    def __init__(self, engine: Engine, device: str) -> None:
        self.device = device
        self._engine = engine

    def run(self, items: Sequence[QueryGroup]) -> list[Scores]:
        """Score a block's groups."""
        return list(score_groups(self._engine, items))

    @property
    def stats(self) -> EngineStats:
        """See `Handler.stats`."""
        return self._engine.stats

    def special_tokens(self) -> SpecialTokenFinder:
        """See `Engine.special_tokens`; it is sent to the driver, which sees every text."""
        return self._engine.special_tokens

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """See `Engine.render`."""
        return self._engine.render(query, document, instruction)


@dataclass(frozen=True)
class RerankerSpec:
    """How a worker loads a reranker.

    Attributes:
        config: The reranker's section of the config.
        ref: The model as the driver resolved it.
        device: `auto` or a torch device.
        recipe: The prompt recipe, which may come from a file that only the driver has; None without one.
    """

    config: RerankerConfig
    ref: ModelRef
    device: str
    recipe: Recipe | None

    @property
    def key(self) -> str:
        """See `Spec.key`."""
        return digest([self.ref.name, self.ref.revision])

    def load(self) -> ScoringHandler:
        """See `Spec.load`."""
        ref = on_this_host(self.ref, self.config.model, "reranker.model")
        engine = load_reranking_engine(self.config, ref, self.device, Prompting(self.recipe))
        handler = ScoringHandler(engine, self.device)
        handler.run([_WARM_UP])
        return handler

    def unpack(self, answer: list[Scores]) -> list[Scores]:
        """See `Spec.unpack`; copies, so that nothing keeps Ray's object store from being emptied."""
        return [scores.take(slice(None)) for scores in answer]


class RayEngine:
    """An engine whose model is in the workers of a pool.

    Args:
        pool: The workers, started with a `RerankerSpec`.
        prepared: The reranker.

    Attributes:
        pool: The workers.
        causal: See `Engine.causal`.
        listwise: See `reads_lists`.
    """

    def __init__(self, pool: Pool, prepared: Prepared) -> None:
        self.pool = pool
        self.causal = prepared.causal
        self.listwise = prepared.listwise
        self.settings: Mapping[str, str | int] = {}
        self._longest = prepared.max_length

    @functools.cached_property
    def special_tokens(self) -> SpecialTokenFinder:
        """See `Engine.special_tokens`."""
        finder: SpecialTokenFinder = self.pool.ask("special_tokens")
        return finder

    @property
    def stats(self) -> EngineStats:
        """See `Engine.stats`; summed over the workers."""
        return self.pool.work or EngineStats()

    def score(self, group: QueryGroup) -> Scores:
        """See `Engine.score`."""
        return next(self.score_groups([group]))

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[Scores]:
        """See `Engine.score_groups`."""
        return stream(self.pool, groups, weigh=self._weigh, name=lambda group: f"query {group.query[:_SHOWN]!r}")

    def _weigh(self, group: QueryGroup) -> float:
        longest = self._longest or float("inf")
        return tokens_of(group.query, longest) + sum(tokens_of(text, longest) for text in group.documents)

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """See `Engine.render`."""
        prompt: RenderedPrompt = self.pool.ask("render", query, document, instruction)
        return prompt


_: tuple[type[Spec], type[Engine]] = (RerankerSpec, RayEngine)
"""For the type checker: they are what the protocols say."""
