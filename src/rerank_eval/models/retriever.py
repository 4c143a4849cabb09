"""First stage: dense and sparse retrievers behind mteb's `SearchProtocol`, with exact top-k search."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from mteb._create_dataloaders import create_dataloader
from mteb.models.model_meta import ModelMeta
from mteb.types import PromptType

from rerank_eval.config.schema import BM25, RetrieverConfig
from rerank_eval.errors import ModelError
from rerank_eval.models.records import CellScores, Recorder
from rerank_eval.models.resolve import ModelRef

logger = logging.getLogger(__name__)

_CORPUS_CHUNK = 1024
_QUERY_CHUNK = 1024

Advance = Callable[[int], None]
"""Told how many texts (first stage) or pairs (second stage) are done since the last call."""


@dataclass(frozen=True)
class SearchRequest:
    """One cell to search.

    Attributes:
        corpus: `datasets.Dataset` with columns `id`, `title`, `text`.
        queries: `datasets.Dataset` with columns `id`, `text` and perhaps `instruction`.
        depth: Documents kept for each query.
        within: For each query, the documents among which to search; None searches the corpus.
        context: mteb's task_metadata, hf_split and hf_subset.
        advance: Told of each text embedded or query answered.
    """

    corpus: Any
    queries: Any
    depth: int
    within: Mapping[str, Sequence[str]] | None
    context: dict[str, Any]
    advance: Advance


class Backend(Protocol):
    """What finds documents: embeddings or BM25."""

    def search(self, request: SearchRequest) -> dict[str, dict[str, float]]:
        """Find the best documents of each query.

        Args:
            request: The cell and how deep to search.

        Returns:
            query id -> document id -> score; higher is better, at most `depth` documents.
        """
        ...


class CandidateSearch:
    """A retriever as mteb's evaluator wants it: keeps the top k, drops a query's own document first.

    mteb drops identical ids only when it scores, so that the query's own document would take one of the k places.

    Args:
        backend: What finds documents.
        meta: Identity under which mteb files the result.
        top_k: Documents kept for each query.
        drop_identical: Drop the document that carries the query's id (mteb's `ignore_identical_ids`).
        advance: Told of progress.

    Attributes:
        recorder: What was found, cell by cell.
    """

    def __init__(
        self,
        backend: Backend,
        meta: ModelMeta,
        *,
        top_k: int,
        drop_identical: bool = False,
        advance: Advance | None = None,
    ) -> None:
        self.backend = backend
        self.mteb_model_meta = meta
        self.top_k = top_k
        self.drop_identical = drop_identical
        self.recorder = Recorder()
        self._advance: Advance = advance or (lambda _: None)
        self._corpus: Any = None

    def index(self, corpus: Any, **_: Any) -> None:
        """Keep the corpus for `search`."""
        self._corpus = corpus

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Search the indexed corpus; see `Backend.search`.

        Raises:
            ModelError: A score is not finite.
        """
        native = dict(top_ranked) if top_ranked else None
        depth = max((len(ids) for ids in native.values()), default=0) if native else self.top_k
        context = {"task_metadata": task_metadata, "hf_split": hf_split, "hf_subset": hf_subset}
        found = self.backend.search(
            SearchRequest(self._corpus, queries, depth + int(self.drop_identical), native, context, self._advance)
        )
        cell = CellScores()
        results: dict[str, dict[str, float]] = {}
        for query_id in queries["id"]:
            ranked = rank(found.get(query_id, {}))
            if self.drop_identical:
                ranked = [(document_id, score) for document_id, score in ranked if document_id != query_id]
            ranked = ranked[:depth]
            cell.add(query_id, [d for d, _ in ranked], np.array([s for _, s in ranked], dtype=np.float64))
            results[query_id] = dict(ranked)
        cell.check_finite(self.mteb_model_meta.name or "retriever")
        self.recorder.cells[hf_subset, hf_split] = cell
        return results


def rank(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Order documents by score, ties by the larger document id, as trec_eval and mteb do.

    Args:
        scores: document id -> score.

    Returns:
        (document id, score) pairs, best first.
    """
    return sorted(scores.items(), key=lambda item: (item[1], item[0]), reverse=True)


@dataclass
class DenseBackend:
    """Exact search over an mteb encoder's embeddings, in float32, corpus chunk by corpus chunk.

    Attributes:
        encoder: An mteb `EncoderProtocol`.
        encode_kwargs: Passed to `encode`, such as the batch size.
    """

    encoder: Any
    encode_kwargs: dict[str, Any] = field(default_factory=dict)

    def _encode(self, rows: Any, prompt_type: PromptType, context: dict[str, Any]) -> torch.Tensor:
        loader = create_dataloader(
            rows,
            task_metadata=context["task_metadata"],
            prompt_type=prompt_type,
            batch_size=self.encode_kwargs["batch_size"],
        )
        vectors = self.encoder.encode(
            loader, prompt_type=prompt_type, show_progress_bar=False, **context, **self.encode_kwargs
        )
        return torch.as_tensor(vectors).float().cpu()

    def search(self, request: SearchRequest) -> dict[str, dict[str, float]]:
        """See `Backend.search`."""
        queries = self._encode(request.queries, PromptType.query, request.context)
        request.advance(len(queries))
        return self._search_corpus(request, queries) if request.within is None else self._score_within(request, queries)

    def _similarity(self, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.encoder.similarity(queries, documents)).float().cpu()

    def _search_corpus(self, request: SearchRequest, queries: torch.Tensor) -> dict[str, dict[str, float]]:
        query_ids, document_ids = list(request.queries["id"]), list(request.corpus["id"])
        best = _Best.empty(len(query_ids))
        for start in range(0, len(document_ids), _CORPUS_CHUNK):
            stop = min(start + _CORPUS_CHUNK, len(document_ids))
            documents = self._encode(request.corpus.select(range(start, stop)), PromptType.document, request.context)
            parts = []
            for first in range(0, len(queries), _QUERY_CHUNK):
                part = slice(first, first + _QUERY_CHUNK)
                parts.append(best.part(part).merged(self._similarity(queries[part], documents), start, request.depth))
            best = _Best.joined(parts)
            request.advance(stop - start)
        return {
            query_id: {document_ids[row]: score for row, score in zip(rows, scores, strict=True)}
            for query_id, rows, scores in zip(query_ids, best.rows.tolist(), best.scores.tolist(), strict=True)
        }

    def _score_within(self, request: SearchRequest, queries: torch.Tensor) -> dict[str, dict[str, float]]:
        within = request.within or {}
        query_ids, document_ids = list(request.queries["id"]), list(request.corpus["id"])
        wanted = {document_id for query_id in query_ids for document_id in within.get(query_id, ())}
        rows = [row for row, document_id in enumerate(document_ids) if document_id in wanted]
        chunks = [torch.zeros((0, queries.shape[1]))]
        for start in range(0, len(rows), _CORPUS_CHUNK):
            chunk = rows[start : start + _CORPUS_CHUNK]
            chunks.append(self._encode(request.corpus.select(chunk), PromptType.document, request.context))
            request.advance(len(chunk))
        vectors = torch.cat(chunks)
        position = {document_ids[row]: index for index, row in enumerate(rows)}
        found: dict[str, dict[str, float]] = {}
        for query_id, query in zip(query_ids, queries, strict=True):
            ids = [document_id for document_id in within.get(query_id, ()) if document_id in position]
            if ids:
                candidates = vectors[[position[document_id] for document_id in ids]]
                found[query_id] = dict(zip(ids, self._similarity(query[None], candidates)[0].tolist(), strict=True))
        return found


@dataclass
class _Best:
    """The best documents so far: scores float32 and corpus rows int64, both of shape (queries, kept)."""

    scores: torch.Tensor
    rows: torch.Tensor

    @classmethod
    def empty(cls, queries: int) -> _Best:
        return cls(torch.full((queries, 0), -torch.inf), torch.zeros((queries, 0), dtype=torch.long))

    @classmethod
    def joined(cls, parts: Sequence[_Best]) -> _Best:
        return cls(torch.cat([part.scores for part in parts]), torch.cat([part.rows for part in parts]))

    def part(self, part: slice) -> _Best:
        return _Best(self.scores[part], self.rows[part])

    def merged(self, similarity: torch.Tensor, start: int, depth: int) -> _Best:
        rows = torch.arange(start, start + similarity.shape[1]).expand(len(similarity), -1)
        all_scores, all_rows = torch.cat([self.scores, similarity], dim=1), torch.cat([self.rows, rows], dim=1)
        # A stable sort, not topk: equal scores then keep corpus order, whatever the chunk size.
        order = torch.sort(all_scores, dim=1, descending=True, stable=True).indices[:, :depth]
        return _Best(all_scores.gather(1, order), all_rows.gather(1, order))


class Bm25Backend:
    """BM25 by bm25s, through mteb's own language-aware baseline."""

    def search(self, request: SearchRequest) -> dict[str, dict[str, float]]:
        """See `Backend.search`."""
        from mteb.models.model_implementations.bm25 import BM25Search

        within = request.within
        # bm25s draws bars of its own, and mteb's baseline gives no way to say no.
        with contextlib.redirect_stderr(io.StringIO()):
            model = BM25Search()
            model.index(request.corpus, **request.context, encode_kwargs={})
            request.advance(len(request.corpus))
            found: dict[str, dict[str, float]] = model.search(
                request.queries,
                **request.context,
                # mteb's baseline cuts to the best of the whole corpus before it keeps a query's own list.
                top_k=request.depth if within is None else len(request.corpus),
                encode_kwargs={},
                top_ranked=None if within is None else dict(within),
            )
        request.advance(len(request.queries))
        return found


def load_backend(config: RetrieverConfig, ref: ModelRef, device: str) -> Backend:
    """Load a retriever.

    Args:
        config: The retriever's section of the config.
        ref: The model, resolved.
        device: `auto` or a torch device.

    Returns:
        The backend, with weights in memory.

    Raises:
        ModelError: The model cannot be loaded as an encoder.
    """
    if config.model == BM25:
        return Bm25Backend()
    try:
        encoder = _load_encoder(config, ref, None if device == "auto" else device)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(f"retriever.model: {ref.name} cannot be loaded as an encoder: {error}") from error
    if config.max_length is not None:
        _limit_length(encoder, config.max_length)
    _set_instruction(encoder, config.instruction)
    return DenseBackend(encoder, {"batch_size": config.batch_size})


def _load_encoder(config: RetrieverConfig, ref: ModelRef, device: str | None) -> Any:
    import mteb
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

    options: dict[str, Any] = {"model_kwargs": {"dtype": getattr(torch, config.dtype), "use_safetensors": True}}
    if ref.origin == "hub":
        try:
            meta = mteb.get_model_meta(ref.name, fetch_from_hf=False)
        except KeyError:
            meta = None
        if meta is not None and meta.loader is not None:
            return meta.model_copy(update={"revision": ref.revision}).load_model(device=device, **options)
    return SentenceTransformerEncoderWrapper(
        ref.source,
        revision=ref.load_revision,
        device=device,
        trust_remote_code=config.trust_remote_code,
        **options,
    )


def _limit_length(encoder: Any, max_length: int) -> None:
    model = getattr(encoder, "model", None)
    if model is None or not hasattr(model, "max_seq_length"):
        raise ModelError("retriever.max_length: this encoder's length cannot be set; leave the key out")
    model.max_seq_length = max_length


def _set_instruction(encoder: Any, instruction: str) -> None:
    if instruction in {"task", "default"}:
        return  # mteb's own way: the task's prompt, else the model's
    if instruction == "none":
        if getattr(encoder, "instruction_template", None) is not None:
            encoder.instruction_template = lambda _instruction, _prompt_type=None: ""
        if getattr(encoder, "model_prompts", None):
            encoder.model_prompts = None
        return
    if getattr(encoder, "instruction_template", None) is None:
        raise ModelError("retriever.instruction: this encoder takes no instruction; set it to task or none")
    encoder.get_instruction = lambda _task_metadata, _prompt_type: instruction
