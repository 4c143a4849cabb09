"""First stage by workers, sentence-transformers: chunks go out, vectors or each query's best of a chunk come back.

What is encoded together in one process is encoded together here, so that padding, and with it every bit, is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mteb.types import PromptType

from rerank_eval.config.schema import RetrieverConfig
from rerank_eval.engine.topk import Best
from rerank_eval.models.instruction_sets import InstructionSet
from rerank_eval.models.resolve import ModelRef
from rerank_eval.names import digest
from rerank_eval.retrievers.dense import CORPUS_CHUNK, DenseBackend
from rerank_eval.retrievers.encoders import load_encoder
from rerank_eval.retrievers.retriever import SearchRequest
from rerank_eval.workers.blocks import tokens_of
from rerank_eval.workers.models import on_this_host
from rerank_eval.workers.pool import Pool
from rerank_eval.workers.stream import stream

_SIMILAR_QUERIES = 64
_SHOWN = 60
_FLOATS_PER_TOKEN = 100.0
"""Vector components that weigh as much as a token where only vectors travel; a guess, it sizes blocks alone."""


@dataclass(frozen=True)
class Rows:
    """Some rows of a data set, by value: a data set itself pickles as the paths of its files."""

    columns: dict[str, list[Any]]
    features: Any

    @classmethod
    def of(cls, rows: Any) -> Rows:
        """Read rows of a `datasets.Dataset`."""
        return cls(rows.to_dict(), rows.features)

    def dataset(self) -> Any:
        """Make a data set of them again."""
        from datasets import Dataset

        return Dataset.from_dict(self.columns, features=self.features)

    @property
    def tokens(self) -> float:
        """Tokens of all texts, estimated."""
        texts = (text for name, values in self.columns.items() if name != "id" for text in values)
        return sum(tokens_of(text) for text in texts if isinstance(text, str))


@dataclass(frozen=True)
class Encode:
    """Embed rows, in a context of mteb's that Ray keeps; answered by a (n, dim) float32 tensor."""

    rows: Rows
    prompt_type: PromptType
    context: Any

    @property
    def tokens(self) -> float:
        """Tokens, estimated."""
        return self.rows.tokens

    def answer(self, backend: DenseBackend, fetch: Any) -> torch.Tensor:
        """Run in a worker."""
        return backend.encoded(self.rows.dataset(), self.prompt_type, fetch(self.context))


@dataclass(frozen=True)
class Search:
    """Embed documents and keep each query's best of them; answered by a `Best`.

    Attributes:
        rows: The documents.
        start: Row of the first of them in the corpus.
        queries: Reference to the queries' vectors.
        depth: Documents kept for each query.
        context: As in `Encode`.
    """

    rows: Rows
    start: int
    queries: Any
    depth: int
    context: Any

    @property
    def tokens(self) -> float:
        """Tokens, estimated."""
        return self.rows.tokens

    def answer(self, backend: DenseBackend, fetch: Any) -> Best:
        """Run in a worker."""
        documents = backend.encoded(self.rows.dataset(), PromptType.document, fetch(self.context))
        queries = fetch(self.queries)
        return backend.with_chunk(Best.empty(len(queries)), queries, documents, self.start, self.depth)


@dataclass(frozen=True)
class Compare:
    """Score queries against documents of their own, by their vectors; answered by a list of float lists."""

    pairs: list[tuple[torch.Tensor, torch.Tensor]]

    @property
    def tokens(self) -> float:
        """What it weighs."""
        return sum(documents.numel() for _, documents in self.pairs) / _FLOATS_PER_TOKEN

    def answer(self, backend: DenseBackend, fetch: Any) -> list[list[float]]:
        """Run in a worker."""
        del fetch
        return [
            backend.similarity(query[None], documents)[0].tolist() if len(documents) else []
            for query, documents in self.pairs
        ]


class EncoderHandler:
    """A loaded sentence-transformers encoder in a worker; an item says itself what it wants of it."""

    def __init__(self, backend: DenseBackend) -> None:
        self._backend = backend
        self._fetched: dict[Any, Any] = {}
        self.device = str(getattr(getattr(backend.encoder, "model", None), "device", "unknown"))

    def run(self, items: Sequence[Encode | Search | Compare]) -> list[Any]:
        """Answer each item."""
        return [item.answer(self._backend, self._fetch) for item in items]

    @property
    def stats(self) -> None:
        """See `Handler.stats`; sentence-transformers does not count."""

    def prompts(self, task_metadata: Any) -> dict[str, str] | None:
        """See `Backend.prompts`."""
        return self._backend.prompts(task_metadata)

    def _fetch(self, reference: Any) -> Any:
        import ray

        if reference not in self._fetched:
            while len(self._fetched) > 1:  # the context and the queries of the search at hand
                self._fetched.pop(next(iter(self._fetched)))
            self._fetched[reference] = ray.get(reference)
        return self._fetched[reference]


@dataclass(frozen=True)
class EncoderSpec:
    """How a worker loads a sentence-transformers encoder that the driver has resolved."""

    config: RetrieverConfig
    ref: ModelRef
    device: str
    instructions: InstructionSet | None

    @property
    def key(self) -> str:
        """See `Spec.key`."""
        return digest([self.ref.name, self.ref.revision])

    def load(self) -> EncoderHandler:
        """See `Spec.load`."""
        ref = on_this_host(self.ref, self.config.model, "retriever.model")
        encoder = load_encoder(self.config, ref, self.device, self.instructions)
        return EncoderHandler(DenseBackend(encoder, {"batch_size": self.config.batch_size}))

    def unpack(self, answer: list[Any]) -> list[Any]:
        """See `Spec.unpack`."""
        return answer


class RemoteDenseBackend(DenseBackend):
    """Exact search with encoding, similarity and each chunk's best in workers, started with an `EncoderSpec`."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(encoder=None)
        self._pool = pool

    def prompts(self, task_metadata: Any) -> dict[str, str] | None:
        """See `Backend.prompts`."""
        found: dict[str, str] | None = self._pool.ask("prompts", task_metadata)
        return found

    def encoded(self, rows: Any, prompt_type: PromptType, context: Mapping[str, Any]) -> torch.Tensor:
        """See `DenseBackend.encoded`; by one worker, as rows encoded together decide each other's padding."""
        item = Encode(Rows.of(rows), prompt_type, self._shared(dict(context)))
        [vectors] = self._answers([item])
        found: torch.Tensor = vectors.clone()
        return found

    def chunks_encoded(
        self, request: SearchRequest, chunks: Iterable[Any], prompt_type: PromptType
    ) -> Iterator[torch.Tensor]:
        """See `DenseBackend.chunks_encoded`; several at once."""
        context = self._shared(request.context)
        for vectors in self._answers(Encode(Rows.of(rows), prompt_type, context) for rows in chunks):
            yield vectors.clone()

    def _search_corpus(self, request: SearchRequest, queries: torch.Tensor) -> Best:
        context, shared = self._shared(request.context), self._shared(queries)
        starts = range(0, len(request.corpus), CORPUS_CHUNK)
        sizes = [min(CORPUS_CHUNK, len(request.corpus) - start) for start in starts]
        items = (
            Search(Rows.of(request.corpus.select(range(start, start + size))), start, shared, request.depth, context)
            for start, size in zip(starts, sizes, strict=True)
        )
        best = Best.empty(len(queries))
        for found, size in zip(self._answers(items), sizes, strict=True):
            best = best.followed_by(found, request.depth)
            request.advance(size)
        return best

    def scores_within(
        self, queries: torch.Tensor, vectors: torch.Tensor, places: Sequence[Sequence[int]]
    ) -> Iterator[list[float]]:
        """See `DenseBackend.scores_within`."""
        firsts = range(0, len(places), _SIMILAR_QUERIES)
        items = (
            Compare(
                [
                    (query, vectors[own])
                    for query, own in zip(
                        queries[first : first + _SIMILAR_QUERIES], places[first : first + _SIMILAR_QUERIES], strict=True
                    )
                ]
            )
            for first in firsts
        )
        for scores in self._answers(items):
            yield from scores

    def _answers(self, items: Iterable[Encode | Search | Compare]) -> Iterator[Any]:
        return stream(self._pool, items, weigh=lambda item: item.tokens, name=_describe)

    def _shared(self, value: Any) -> Any:
        import ray

        return ray.put(value)


def _describe(item: Encode | Search | Compare) -> str:
    if isinstance(item, Compare):
        return f"similarities of {len(item.pairs)} queries"
    first = next(iter(item.rows.columns.get("id", ["?"])), "?")
    return f"{len(next(iter(item.rows.columns.values())))} texts from {str(first)[:_SHOWN]!r} on"
