"""First stage by workers, sentence-transformers: chunks go out, vectors or each query's best of a chunk come back.

What is encoded together in one process is encoded together here, so that padding, and with it every bit, is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from datasets import Dataset
from mteb.types import PromptType

from rerank_eval.config.schema import RetrieverConfig
from rerank_eval.engine.topk import Best
from rerank_eval.models.instruction_sets import InstructionSet
from rerank_eval.models.ref import ModelRef
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
class Encode:
    """Embed rows of a data set, by value, as a data set pickles as the paths of its files; answered by a tensor.

    Attributes:
        columns: Column -> the rows' values.
        features: The columns' types.
        prompt_type: Queries or documents.
        context: Reference to mteb's task_metadata, hf_split and hf_subset.
    """

    columns: dict[str, list[Any]]
    features: Any
    prompt_type: PromptType
    context: Any

    @property
    def tokens(self) -> float:
        """Tokens of all texts, estimated."""
        texts = (text for name, values in self.columns.items() if name != "id" for text in values)
        return sum(tokens_of(text) for text in texts if isinstance(text, str))

    def encoded(self, backend: DenseBackend, fetch: Any) -> torch.Tensor:
        """Embed the rows: (n, dim) float32."""
        rows = Dataset.from_dict(self.columns, features=self.features)
        return backend.encoded(rows, self.prompt_type, fetch(self.context))

    def answer(self, backend: DenseBackend, fetch: Any) -> Any:
        """Run in a worker."""
        return self.encoded(backend, fetch)


@dataclass(frozen=True)
class Search(Encode):
    """Embed documents and keep each query's best of them; answered by a `Best`.

    Attributes:
        start: Row of the first of them in the corpus.
        queries: Reference to the queries' vectors.
        depth: Documents kept for each query.
    """

    start: int
    queries: Any
    depth: int

    def answer(self, backend: DenseBackend, fetch: Any) -> Best:
        """Run in a worker."""
        documents, queries = self.encoded(backend, fetch), fetch(self.queries)
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

    def run(self, items: Sequence[Encode | Compare]) -> list[Any]:
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
        item = Encode(rows.to_dict(), rows.features, prompt_type, self._shared(dict(context)))
        [vectors] = self._answers([item])
        found: torch.Tensor = vectors.clone()
        return found

    def chunks_encoded(
        self, request: SearchRequest, chunks: Iterable[Any], prompt_type: PromptType
    ) -> Iterator[torch.Tensor]:
        """See `DenseBackend.chunks_encoded`; several at once."""
        context = self._shared(request.context)
        for vectors in self._answers(Encode(rows.to_dict(), rows.features, prompt_type, context) for rows in chunks):
            yield vectors.clone()

    def _search_corpus(self, request: SearchRequest, queries: torch.Tensor) -> Best:
        context, shared = self._shared(request.context), self._shared(queries)
        total = len(request.corpus)
        sizes = [min(CORPUS_CHUNK, total - start) for start in range(0, total, CORPUS_CHUNK)]

        def searches() -> Iterator[Search]:
            for start in range(0, total, CORPUS_CHUNK):
                rows = request.corpus.select(range(start, min(start + CORPUS_CHUNK, total)))
                columns, kind = rows.to_dict(), PromptType.document
                yield Search(columns, rows.features, kind, context, start, shared, request.depth)

        best = Best.empty(len(queries))
        for found, size in zip(self._answers(searches()), sizes, strict=True):
            best = best.followed_by(found, request.depth)
            request.advance(size)
        return best

    def scores_within(
        self, queries: torch.Tensor, vectors: torch.Tensor, places: Sequence[Sequence[int]]
    ) -> Iterator[list[float]]:
        """See `DenseBackend.scores_within`."""
        # Copied batch by batch, as they are sent: the documents of all queries' lists would not fit together.
        pairs = ((query, vectors[rows]) for query, rows in zip(queries, places, strict=True))
        batches = iter(lambda: list(islice(pairs, _SIMILAR_QUERIES)), [])
        for scores in self._answers(Compare(batch) for batch in batches):
            yield from scores

    def _answers(self, items: Iterable[Encode | Compare]) -> Iterator[Any]:
        return stream(self._pool, items, weigh=lambda item: item.tokens, name=_describe)

    def _shared(self, value: Any) -> Any:
        import ray

        return ray.put(value)


def _describe(item: Encode | Compare) -> str:
    if isinstance(item, Compare):
        return f"similarities of {len(item.pairs)} queries"
    first = next(iter(item.columns.get("id", ["?"])), "?")
    return f"{len(next(iter(item.columns.values())))} texts from {str(first)[:_SHOWN]!r} on"
