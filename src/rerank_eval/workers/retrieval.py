"""First stage by workers, packed engine: texts go out in blocks, vectors come back in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_eval.config.schema import RetrieverConfig
from rerank_eval.engine.embedding import EmbeddingStats
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.loading import resolve_device
from rerank_eval.models.instruction_sets import InstructionSet
from rerank_eval.models.ref import ModelRef
from rerank_eval.names import digest
from rerank_eval.retrievers.dense import PackedBackend, over_packed
from rerank_eval.retrievers.encoders import (
    PackedEncoder,
    load_packed_encoder,
    packed_encoder,
)
from rerank_eval.workers.blocks import tokens_of
from rerank_eval.workers.models import on_this_host
from rerank_eval.workers.pool import Pool
from rerank_eval.workers.stream import stream

_PIECE = 256
"""Texts that travel together: a fraction of a block of the embedding store, so that its workers share it."""

_WARM_UP = "What is a reranker?"
_SHOWN = 60


class EmbeddingHandler:
    """A loaded packed encoder in a worker; an item is a list of texts with their prompts."""

    def __init__(self, encoder: PackedEncoder) -> None:
        self._encoder = encoder
        self.device = str(encoder.model.device)

    def run(self, items: Sequence[Sequence[str]]) -> list[NDArray[np.float32]]:
        """Embed each item's texts."""
        return [self._encoder.embed(texts, "") for texts in items]

    @property
    def stats(self) -> EmbeddingStats:
        """See `Handler.stats`."""
        return self._encoder.model.stats

    def facts(self) -> tuple[int, int]:
        """Return the length of a vector and the limit in tokens."""
        return self._encoder.model.dim, self._encoder.model.max_length


@dataclass(frozen=True)
class EmbedderSpec:
    """How a worker loads a packed encoder.

    Attributes:
        config: The retriever's section of the config.
        ref: The model as the driver resolved it.
        device: `auto` or a torch device.
    """

    config: RetrieverConfig
    ref: ModelRef
    device: str

    @property
    def key(self) -> str:
        """See `Spec.key`."""
        return digest([self.ref.name, self.ref.revision])

    def load(self) -> EmbeddingHandler:
        """See `Spec.load`."""
        ref = on_this_host(self.ref, self.config.model, "retriever.model")
        # Prompts are the driver's business: here a text is what goes through the tokenizer.
        plain = self.config.model_copy(update={"instruction": "task"})
        handler = EmbeddingHandler(load_packed_encoder(plain, ref, self.device))
        handler.run([[_WARM_UP]])
        return handler

    def unpack(self, answer: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """See `Spec.unpack`; copies, so that nothing keeps Ray's object store from being emptied."""
        return [np.array(vectors) for vectors in answer]


class RemoteEmbedder:
    """What `PackedEncoder` and `PackedBackend` want of an embedder, with the model in workers.

    Args:
        pool: The workers, started with an `EmbedderSpec`.
        device: The config's device; searched on by this process as far as it has it.
    """

    def __init__(self, pool: Pool, device: str) -> None:
        self._pool = pool
        self.dim, self.max_length = pool.ask("facts")
        try:
            self.device = resolve_device(device)
        except EngineError:
            self.device = torch.device("cpu")

    @property
    def stats(self) -> EmbeddingStats:
        """What the workers have done."""
        return self._pool.work or EmbeddingStats()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `PackedEmbedder.embed`."""
        parts = list(self._pieces([texts[start : start + _PIECE] for start in range(0, len(texts), _PIECE)]))
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), dtype=np.float32)

    def embed_blocks(self, blocks: Iterable[Sequence[str]]) -> Iterator[NDArray[np.float32]]:
        """Embed a stream of blocks, read ahead."""
        counts: list[int] = []

        def pieces() -> Iterator[Sequence[str]]:
            for block in blocks:
                parts = [block[start : start + _PIECE] for start in range(0, len(block), _PIECE)]
                counts.append(len(parts))
                yield from parts

        open_: list[NDArray[np.float32]] = []
        for vectors in self._pieces(pieces()):
            open_.append(vectors)
            if len(open_) == counts[0]:
                counts.pop(0)
                yield np.concatenate(open_)
                open_ = []

    def _pieces(self, pieces: Iterable[Sequence[str]]) -> Iterator[NDArray[np.float32]]:
        def weigh(texts: Sequence[str]) -> float:
            return sum(tokens_of(text, self.max_length) for text in texts)

        return stream(self._pool, pieces, weigh=weigh, name=lambda texts: f"texts from {texts[0][:_SHOWN]!r} on")


class RemoteEncoder(PackedEncoder):
    """The packed encoder with its model in workers: prompts are chosen here, by the same code."""

    def embed_blocks(self, blocks: Iterable[Sequence[str]], prompt: str) -> Iterator[NDArray[np.float32]]:
        """See `PackedEncoder.embed_blocks`; several blocks at once."""
        remote: Any = self.model
        vectors: Iterator[NDArray[np.float32]] = remote.embed_blocks(
            [prompt + text for text in block] for block in blocks
        )
        return vectors


def packed_backend(
    embedder: Any,
    config: RetrieverConfig,
    ref: ModelRef,
    results_dir: Path | None,
    instructions: InstructionSet | None,
) -> PackedBackend:
    """Search by the packed engine that workers have; `embedder` is a `RemoteEmbedder`."""
    return over_packed(
        packed_encoder(embedder, config, ref, instructions, kind=RemoteEncoder), config, ref, results_dir
    )
