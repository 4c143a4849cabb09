"""Dense retrieval: a checkpoint that turns texts into vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rerank_eval.config.schema import BM25
from rerank_eval.engine import interface
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.statements import check_retriever
from rerank_eval.rerankers.loading import check_device
from rerank_eval.retrievers.dense import load_dense
from rerank_eval.retrievers.embedders import embedding_engine
from rerank_eval.retrievers.family import Chosen
from rerank_eval.retrievers.retriever import Backend


class Dense:
    """See the module; `Family` says what each method does."""

    def serves(self, ref: ModelRef) -> bool:
        """See `Family.serves`."""
        return ref.source != BM25 and ref.origin not in {"python", "server", "given"}

    def identity(self, chosen: Chosen) -> dict[str, Any]:
        """See `Family.identity`."""
        config = chosen.config
        check_retriever(config, chosen.ref)
        identity: dict[str, Any] = {
            "dtype": config.dtype,
            "instruction": config.instruction if chosen.instructions is None else chosen.instructions.identity,
            "max_length": config.max_length,
            "engine": embedding_engine(config, chosen.ref),
        }
        return identity | interface.arithmetic()

    def load(self, chosen: Chosen, device: str, results_dir: Path | None) -> Backend:
        """See `Family.load`."""
        check_device(device)
        return load_dense(chosen.config, chosen.ref, device, results_dir, chosen.instructions)


PART = Dense()
