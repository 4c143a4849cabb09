"""A server's embeddings, in the form of OpenAI's `/v1/embeddings`, as the packed embedder gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from anyio.from_thread import start_blocking_portal
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rerank_eval.engine.embedding import EmbeddingStats
from rerank_eval.engine.errors import EngineError
from rerank_eval.errors import ModelError
from rerank_eval.servers.client import Address, Connection, waited_for
from rerank_eval.servers.fitting import shortened
from rerank_eval.servers.protocol import SHOWN, field

PATH = "/v1/embeddings"
KNOWN = ["What is the capital of China?", "Bread is baked from flour, water, salt and yeast."]
"""Texts whose vectors tell one model from another."""
_TEXTS = 32
_CONCURRENCY = 8


@dataclass(frozen=True)
class Limits:
    """How long a text may be.

    Attributes:
        tokenizer: The served model's.
        max_length: In tokens, those that the tokenizer adds among them.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def cut(self, text: str) -> tuple[str, int, bool]:
        """Return a text, cut if it is too long, its tokens, and whether it was cut."""
        tokens = self._count(text)
        if tokens <= self.max_length:
            return text, tokens, False
        shorter = shortened(
            self.tokenizer, text, tokens - self.max_length, lambda one: self._count(one) - self.max_length
        )
        return shorter, self._count(shorter), True

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False)["input_ids"])


class ServerEmbedder:
    """What `PackedEncoder` and `PackedBackend` want of an embedder, with the model at a server.

    Args:
        address: The server.
        model: The name under which it has the model.
        limits: Where the model's tokenizer is here; None leaves long texts to the server.
        size: Texts in a request; None for 32.
        concurrency: Requests under way at a time; None for 8.
        device: Where vectors are compared.
        path: Of the endpoint.

    Raises:
        ModelError: The server does not embed `KNOWN`.

    Attributes:
        known: (2, dim) float32, the vectors of `KNOWN`.
        max_length: Of `limits`, or 0.
    """

    def __init__(
        self,
        address: Address,
        model: str,
        limits: Limits | None,
        *,
        size: int | None = None,
        concurrency: int | None = None,
        device: torch.device | None = None,
        path: str = PATH,
    ) -> None:
        self._address, self._model, self._limits, self._path = address, model, limits, path
        self._size, self._concurrency = size or _TEXTS, concurrency or _CONCURRENCY
        self.device = device or torch.device("cpu")
        self.max_length = 0 if limits is None else limits.max_length
        self.stats = EmbeddingStats()
        self._dim: int | None = None
        try:
            self.known = self.embed(KNOWN)
        except EngineError as error:
            raise ModelError(str(error)) from error
        self.stats = EmbeddingStats()

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.known.shape[1])

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, each distinct one once: (n, dim) float32 of length one.

        Raises:
            EngineError: The server refuses a text, or its answer is not what it should be.
            ServerError: It does not answer.
        """
        distinct = list(dict.fromkeys(texts))
        cut = [(text, 0, False) if self._limits is None else self._limits.cut(text) for text in distinct]
        parts = [[text for text, _, _ in cut[start : start + self._size]] for start in range(0, len(cut), self._size)]
        vectors = np.concatenate(self._asked(parts)) if parts else np.zeros((0, self.dim), np.float32)
        self.stats += EmbeddingStats(
            texts=len(texts),
            embedded=len(distinct),
            truncated=sum(was for _, _, was in cut),
            tokens=sum(tokens for _, tokens, _ in cut),
        )
        places = {text: place for place, text in enumerate(distinct)}
        return vectors[[places[text] for text in texts]]

    def _asked(self, parts: Sequence[list[str]]) -> list[NDArray[np.float32]]:
        opened = Connection(self._address, concurrency=self._concurrency)
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as connection:
            futures: list[Future[NDArray[np.float32]]] = [
                portal.start_task_soon(self._one, connection, part) for part in parts
            ]
            try:
                return [waited_for(future) for future in futures]
            finally:
                for future in futures:
                    future.cancel()

    async def _one(self, connection: Connection, texts: list[str]) -> NDArray[np.float32]:
        async with connection.turn:
            body, _ = await connection.post(
                self._path, {"model": self._model, "input": texts, "encoding_format": "float"}
            )
        vectors = connection.read(self._path, lambda: read_vectors(body, len(texts), self._dim))
        self._dim = vectors.shape[1]
        return vectors


def read_vectors(body: Any, count: int, dim: int | None = None) -> NDArray[np.float32]:
    """Read an answer of `/v1/embeddings`, in the order of the texts, each vector of length one.

    Args:
        body: The response's JSON.
        count: Texts that were sent.
        dim: Length of a vector, where it is known.

    Returns:
        (count, dim) float32.

    Raises:
        EngineError: A text has no vector or two, or a vector is not finite, zero, or of another length.
    """
    rows = field(body, "data")
    if not isinstance(rows, list) or len(rows) != count or not all(isinstance(row, Mapping) for row in rows):
        raise EngineError(f"the server returned no list of {count} vectors but {str(rows)[:SHOWN]!r}")
    by_place = {place: row.get("embedding") for row in rows if type(place := row.get("index")) is int}
    if set(by_place) != set(range(count)):
        raise EngineError(f"the server's vectors are not those of texts 0 to {count - 1}")
    try:
        vectors = np.array([by_place[place] for place in range(count)], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise EngineError("the server returned vectors of several lengths, or none of numbers") from None
    norms = np.linalg.norm(vectors, axis=1, keepdims=True) if vectors.ndim == 2 else np.zeros(1)  # noqa: PLR2004
    if not np.isfinite(norms).all() or not (norms > 0).all() or (dim is not None and vectors.shape[1] != dim):
        raise EngineError("the server returned a vector that is zero, not finite, or of another length than before")
    return (vectors / norms).astype(np.float32)
