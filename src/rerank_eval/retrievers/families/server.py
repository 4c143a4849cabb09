"""Dense retrieval by a server's embeddings; search among them is exact and runs here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rerank_eval.config.schema import RetrieverConfig
from rerank_eval.config.server import ServerKeys
from rerank_eval.engine.loading import resolve_device
from rerank_eval.errors import ModelError
from rerank_eval.files import load_json, write_json
from rerank_eval.models.checkpoint import load_tokenizer
from rerank_eval.models.ref import ModelRef
from rerank_eval.names import digest, slug
from rerank_eval.rerankers.loading import check_device
from rerank_eval.retrievers.dense import PackedBackend
from rerank_eval.retrievers.embedders import (
    is_registered_qwen3,
    saved_max_length,
    saved_prompts,
    takes_qwen3_instructions,
)
from rerank_eval.retrievers.embedding_store import EmbeddingStore, TemporaryStore
from rerank_eval.retrievers.encoders import PackedEncoder, set_instruction
from rerank_eval.retrievers.family import Chosen
from rerank_eval.servers.client import Address
from rerank_eval.servers.embedding import PATH, Limits, ServerEmbedder
from rerank_eval.servers.facts import Served

OTHER_MODEL = 0.02
"""Cosine distance of a known text's two vectors from which on another model is taken to have made one of them; short
dtypes stay well below it."""
_READ = {
    *("model", "revision", "instruction", "max_length", "top_k", "candidates", "own_document"),
    *ServerKeys.model_fields,
}


class Server:
    """See the module; `Family` says what each method does."""

    def serves(self, ref: ModelRef) -> bool:
        """See `Family.serves`."""
        return ref.origin == "server"

    def identity(self, chosen: Chosen) -> Mapping[str, Any]:
        """See `Family.identity`."""
        config, ref = chosen.config, chosen.ref
        for key in config.set_beside(_READ):
            raise ModelError(
                f"retriever.{key}: a server's encoder does not read it; start the server so, and take it out"
            )
        if config.max_length is not None and ref.checkpoint is None:
            raise ModelError(
                "retriever.max_length: name the served model as retriever.checkpoint, and texts are cut here"
            )
        if not _instructed(ref) and config.instruction not in {"task", "default", "none"}:
            raise ModelError(
                "retriever.instruction: nothing says that this encoder takes one; name the served model as "
                "retriever.checkpoint, or set this to task or none"
            )
        instruction = config.instruction if chosen.instructions is None else chosen.instructions.identity
        return {**_of_the_vectors(config, ref), "instruction": instruction}

    def load(self, chosen: Chosen, device: str, results_dir: Path | None) -> PackedBackend:
        """See `Family.load`."""
        check_device(device)
        config, ref = chosen.config, chosen.ref
        served = _served(ref)
        embedder = ServerEmbedder(
            Address.of(config.model, config, "retriever"),
            served.name,
            _limits(config, ref),
            size=min((one for one in (config.request_size, served.facts.largest) if one), default=None),
            concurrency=config.concurrency,
            device=resolve_device(device),
            path=f"{served.facts.prefix}/embeddings" if served.facts.software == "infinity" else PATH,
        )
        prompts = {} if ref.checkpoint is None else saved_prompts(ref.checkpoint)
        encoder = PackedEncoder(embedder, instruct=_instructed(ref), prompts=prompts)
        set_instruction(encoder, config.instruction, chosen.instructions)
        identity = {"name": ref.name, "revision": ref.revision, **_of_the_vectors(config, ref), "dim": embedder.dim}
        if results_dir is None:
            return PackedBackend(encoder, TemporaryStore(), ref.label, identity, config.batch_size)
        folder = results_dir / "embeddings"
        _check_same_model(folder / slug(ref.label) / f"known-{digest(identity, 12)}.json", embedder)
        return PackedBackend(encoder, EmbeddingStore(folder), ref.label, identity, config.batch_size)


def _served(ref: ModelRef) -> Served:
    assert ref.served is not None  # noqa: S101 - `models.sections` fills it in for every server
    return ref.served


def _instructed(ref: ModelRef) -> bool:
    """Tell whether queries stand behind an instruction, by the checkpoint's files or by the served model's name."""
    if ref.checkpoint is not None:
        return takes_qwen3_instructions(ref.checkpoint)
    served = _served(ref)
    return any(is_registered_qwen3(name) for name in (served.name, served.listed.root))


def _limits(config: RetrieverConfig, ref: ModelRef) -> Limits | None:
    if ref.checkpoint is None:
        return None
    tokenizer = load_tokenizer(ref.checkpoint)
    own = saved_max_length(ref.checkpoint) or int(tokenizer.model_max_length)
    known = [config.max_length or own, _served(ref).listed.max_length or own]
    return Limits(tokenizer, min(known))


def _of_the_vectors(config: RetrieverConfig, ref: ModelRef) -> dict[str, Any]:
    """Return what can change a text's vector besides its prompt."""
    served, limits = _served(ref), _limits(config, ref)
    found: dict[str, Any] = {"api": served.api, "served_model": served.name}
    if served.server:
        found["server"] = served.server
    if limits is not None and ref.checkpoint is not None:
        found |= {"checkpoint": ref.checkpoint.revision, "max_length": limits.max_length}
    return found


def _check_same_model(path: Path, embedder: ServerEmbedder) -> None:
    """Hold the vectors of known texts against those that were there when a corpus was embedded.

    Raises:
        ModelError: Another model stands behind the same name.
    """
    try:
        before = np.array(load_json(path), dtype=np.float64)
    except (OSError, ValueError, TypeError):
        before = np.zeros(0)
    if before.shape != embedder.known.shape:
        write_json(path, embedder.known.astype(float).tolist())
        return
    off = 1 - float((before * embedder.known).sum(axis=1).min())
    if off > OTHER_MODEL:
        raise ModelError(
            f"retriever.model: the server's vectors of known texts are {off:.2g} (cosine) off those of when the "
            f"embeddings beside {path} were made: it has another model now; set retriever.revision to a name of your "
            "own for it, and its embeddings are kept apart"
        )


PART = Server()
