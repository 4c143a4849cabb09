"""Dense retrieval: texts to vectors by an encoder, documents by exact search among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mteb._create_dataloaders import _corpus_to_dict, create_dataloader
from mteb.types import PromptType

from rerank_eval.config.schema import RetrieverConfig
from rerank_eval.engine import interface
from rerank_eval.engine.topk import Best, scores_of, top_k
from rerank_eval.errors import DeviceError
from rerank_eval.models.instruction_sets import InstructionSet
from rerank_eval.models.ref import ModelRef
from rerank_eval.retrievers.embedders import embedding_engine
from rerank_eval.retrievers.embedding_store import Embed, EmbeddingStore, StoredVectors, TemporaryStore
from rerank_eval.retrievers.encoders import PackedEncoder, load_encoder, load_packed_encoder, shown_prompts
from rerank_eval.retrievers.retriever import Advance, Backend, SearchRequest

CORPUS_CHUNK = 1024
"""Documents that sentence-transformers encodes together; their lengths decide each other's padding."""

_QUERY_CHUNK = 1024

Found = dict[str, dict[str, float]]
"""query id -> document id -> score"""


def encode(
    encoder: Any, rows: Any, prompt_type: PromptType, context: Mapping[str, Any], options: Mapping[str, Any]
) -> torch.Tensor:
    """Embed the rows of a data set as mteb's own search does: (n, dim) float32 on the CPU.

    `encoder` is an mteb `EncoderProtocol`, `rows` a `datasets.Dataset`, `context` mteb's task_metadata, hf_split and
    hf_subset; `options` go to `encode` and hold `batch_size`.
    """
    loader = create_dataloader(
        rows, task_metadata=context["task_metadata"], prompt_type=prompt_type, batch_size=options["batch_size"]
    )
    vectors = encoder.encode(loader, prompt_type=prompt_type, show_progress_bar=False, **context, **options)
    return torch.as_tensor(vectors).float().cpu()


@dataclass
class DenseBackend:
    """Exact search over an mteb encoder's embeddings, in float32, corpus chunk by corpus chunk.

    Attributes:
        encoder: An mteb `EncoderProtocol`.
        encode_kwargs: Passed to `encode`, such as the batch size.
    """

    encoder: Any
    encode_kwargs: dict[str, Any] = field(default_factory=dict)

    def encoded(self, rows: Any, prompt_type: PromptType, context: Mapping[str, Any]) -> torch.Tensor:
        """Embed rows together; see `encode`.

        Raises:
            DeviceError: The device's memory does not suffice.
        """
        try:
            return encode(self.encoder, rows, prompt_type, context, self.encode_kwargs)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"out of device memory; lower retriever.batch_size ({self.encode_kwargs.get('batch_size')}) or "
                "retriever.max_length"
            ) from error

    def search(self, request: SearchRequest) -> Found:
        """See `Backend.search`."""
        queries = self.encoded(request.queries, PromptType.query, request.context)
        request.advance(len(queries))
        if request.within is None:
            return _named(request, self._search_corpus(request, queries))
        return self._score_within(request, queries)

    @property
    def work(self) -> dict[str, float]:
        """See `Backend.work`; sentence-transformers does not count."""
        return {}

    def prompts(self, task_metadata: Any) -> dict[str, str] | None:
        """See `Backend.prompts`."""
        return shown_prompts(self.encoder, task_metadata)

    def similarity(self, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        """Return the encoder's own similarities, (queries, documents) float32 on the CPU."""
        return torch.as_tensor(self.encoder.similarity(queries, documents)).float().cpu()

    def with_chunk(self, best: Best, queries: torch.Tensor, documents: torch.Tensor, start: int, depth: int) -> Best:
        """Merge a chunk of documents, (n, dim) from row `start` of the corpus on, into the best so far."""
        parts = []
        for first in range(0, len(queries), _QUERY_CHUNK):
            part = slice(first, first + _QUERY_CHUNK)
            parts.append(best.part(part).merged(self.similarity(queries[part], documents), start, depth))
        return Best.joined(parts) if parts else best

    def _search_corpus(self, request: SearchRequest, queries: torch.Tensor) -> Best:
        best = Best.empty(len(queries))
        for start in range(0, len(request.corpus), CORPUS_CHUNK):
            rows = request.corpus.select(range(start, min(start + CORPUS_CHUNK, len(request.corpus))))
            documents = self.encoded(rows, PromptType.document, request.context)
            best = self.with_chunk(best, queries, documents, start, request.depth)
            request.advance(len(rows))
        return best

    def chunks_encoded(
        self, request: SearchRequest, chunks: Iterable[Any], prompt_type: PromptType
    ) -> Iterator[torch.Tensor]:
        """Embed chunks of rows, each on its own; see `encoded`."""
        for rows in chunks:
            yield self.encoded(rows, prompt_type, request.context)

    def scores_within(
        self, queries: torch.Tensor, vectors: torch.Tensor, places: Sequence[Sequence[int]]
    ) -> Iterator[list[float]]:
        """Yield the similarities of each query, (q, dim), to documents of its own: `places` among (n, dim) vectors."""
        for query, rows in zip(queries, places, strict=True):
            yield self.similarity(query[None], vectors[rows])[0].tolist() if rows else []

    def _score_within(self, request: SearchRequest, queries: torch.Tensor) -> Found:
        rows, lists = _wanted(request)
        starts = range(0, len(rows), CORPUS_CHUNK)
        selected = (request.corpus.select(rows[start : start + CORPUS_CHUNK]) for start in starts)
        chunks = [torch.zeros((0, queries.shape[1]))]
        for vectors in self.chunks_encoded(request, selected, PromptType.document):
            chunks.append(vectors)
            request.advance(len(vectors))
        scores = self.scores_within(queries, torch.cat(chunks), [places for _, _, places in lists])
        return _by_document(lists, scores)


@dataclass(frozen=True)
class _CorpusTexts:
    """A corpus's texts as mteb's search reads them: title and text joined."""

    corpus: Any

    def __len__(self) -> int:
        return len(self.corpus)

    def block(self, start: int, stop: int) -> list[str]:
        columns = self.corpus[start:stop]
        names = [name for name in ("id", "title", "text") if name in columns]
        rows = (dict(zip(names, values, strict=True)) for values in zip(*(columns[n] for n in names), strict=True))
        return [_corpus_to_dict(row)["text"] for row in rows]


class PackedBackend:
    """Exact search over stored embeddings of a whole corpus, tile by tile.

    Args:
        encoder: The encoder.
        store: Where a corpus's embeddings are kept.
        label: The model's short name.
        identity: All that can change a vector besides text and prompt.
        batch_size: Queries read at a time.
    """

    def __init__(
        self, encoder: PackedEncoder, store: EmbeddingStore, label: str, identity: Mapping[str, Any], batch_size: int
    ) -> None:
        self.encoder = encoder
        self.store = store
        self.label = label
        self.identity = dict(identity)
        self._options = {"batch_size": batch_size}

    def search(self, request: SearchRequest) -> Found:
        """See `Backend.search`."""
        queries = encode(self.encoder, request.queries, PromptType.query, request.context, self._options).numpy()
        request.advance(len(queries))
        device = self.encoder.model.device
        if request.within is None:
            return _named(request, top_k(queries, self._stored(request, request.corpus), request.depth, device=device))
        rows, lists = _wanted(request)
        vectors = self._stored(request, request.corpus.select(rows))
        places = [np.array(rows_of, dtype=np.int64) for _, _, rows_of in lists]
        scores = scores_of(queries, vectors, places, device=device)
        return _by_document(lists, (found.tolist() for found in scores))

    @property
    def work(self) -> dict[str, float]:
        """See `Backend.work`; a corpus whose embeddings were there already adds nothing."""
        stats = self.encoder.model.stats
        names = ("texts", "embedded", "truncated", "tokens", "tokenize_seconds")
        return {name: getattr(stats, name) for name in names}

    def prompts(self, task_metadata: Any) -> dict[str, str] | None:
        """See `Backend.prompts`."""
        return shown_prompts(self.encoder, task_metadata)

    def _stored(self, request: SearchRequest, corpus: Any) -> StoredVectors:
        metadata = request.context["task_metadata"]
        prompt = self.encoder.prompt(metadata, PromptType.document)
        return self.fill(corpus, metadata, lambda blocks: self.encoder.embed_blocks(blocks, prompt), request.advance)

    def fill(self, corpus: Any, task_metadata: Any, embed: Embed, advance: Advance = lambda _: None) -> StoredVectors:
        """Return a corpus's vectors, letting `embed` make those that the store lacks.

        Args:
            corpus: `datasets.Dataset` with columns `id`, `title`, `text`.
            task_metadata: mteb's metadata of the task, which may name a prompt.
            embed: Embeds a stream of blocks of texts.
            advance: Told of each text done.
        """
        prompt = self.encoder.prompt(task_metadata, PromptType.document)
        identity, dim = {**self.identity, "prompt": prompt}, self.encoder.model.dim
        return self.store.vectors(self.label, identity, _CorpusTexts(corpus), dim=dim, embed=embed, advance=advance)


_Lists = list[tuple[str, list[str], list[int]]]
"""For each query its id, the documents of its own list that the corpus holds, and their places among the rows read."""


def _by_document(lists: _Lists, scores: Iterable[list[float]]) -> Found:
    return {
        query_id: dict(zip(ids, found, strict=True))
        for (query_id, ids, _), found in zip(lists, scores, strict=True)
        if ids
    }


def _wanted(request: SearchRequest) -> tuple[list[int], _Lists]:
    """Return the rows of the corpus that some query's own list names, ascending, and the lists."""
    within = request.within or {}
    query_ids = list(request.queries["id"])
    wanted = {document_id for query_id in query_ids for document_id in within.get(query_id, ())}
    rows: list[int] = []
    position: dict[str, int] = {}
    for row, document_id in enumerate(request.corpus["id"][:]):
        if document_id in wanted:
            position[document_id] = len(rows)
            rows.append(row)
    lists = []
    for query_id in query_ids:
        ids = [document_id for document_id in within.get(query_id, ()) if document_id in position]
        lists.append((query_id, ids, [position[document_id] for document_id in ids]))
    return rows, lists


def _named(request: SearchRequest, best: Best) -> Found:
    """Put ids to rows, reading only the ids that were found."""
    rows = torch.unique(best.rows).tolist()
    names = dict(zip(rows, request.corpus.select(rows)["id"], strict=True))
    return {
        query_id: {names[row]: score for row, score in zip(found, scores, strict=True)}
        for query_id, found, scores in zip(request.queries["id"], best.rows.tolist(), best.scores.tolist(), strict=True)
    }


def load_dense(
    config: RetrieverConfig,
    ref: ModelRef,
    device: str,
    results_dir: Path | None,
    instructions: InstructionSet | None = None,
) -> Backend:
    """Load a dense retriever; see `load_backend`."""
    if embedding_engine(config, ref) != "packed":
        return DenseBackend(load_encoder(config, ref, device, instructions), {"batch_size": config.batch_size})
    return over_packed(load_packed_encoder(config, ref, device, instructions), config, ref, results_dir)


def over_packed(
    encoder: PackedEncoder, config: RetrieverConfig, ref: ModelRef, results_dir: Path | None
) -> PackedBackend:
    """Search over a packed encoder's embeddings, kept below `results_dir`; None keeps them for this process alone."""
    identity: dict[str, Any] = {
        "name": ref.name,
        "revision": ref.revision,
        "engine": "packed",
        "dtype": config.dtype,
        "max_length": encoder.model.max_length,
        **interface.arithmetic(),
    }
    store = TemporaryStore() if results_dir is None else EmbeddingStore(results_dir / "embeddings")
    return PackedBackend(encoder, store, ref.label, identity, config.batch_size)
