"""From a retriever's section of a config to what finds documents."""

from __future__ import annotations

from pathlib import Path

from rerank_eval.config.schema import BM25, RetrieverConfig
from rerank_eval.engine.quiet import settle
from rerank_eval.models.instruction_sets import InstructionSet
from rerank_eval.models.resolve import ModelRef
from rerank_eval.models.statements import check_retriever
from rerank_eval.rerankers.loading import check_device
from rerank_eval.retrievers.bm25 import Bm25Backend
from rerank_eval.retrievers.dense import load_dense
from rerank_eval.retrievers.retriever import Backend


def load_backend(
    config: RetrieverConfig,
    ref: ModelRef,
    device: str,
    results_dir: Path | None = None,
    instructions: InstructionSet | None = None,
) -> Backend:
    """Load a retriever.

    Args:
        config: The retriever's section of the config.
        ref: The model, resolved.
        device: `auto` or a torch device.
        results_dir: Folder of all results, where embeddings are kept; None keeps them for this process alone.
        instructions: The instruction set that the config names, or None.

    Returns:
        The backend, with weights in memory.

    Raises:
        DeviceError: This machine has no such device.
        ModelError: The model cannot be loaded as an encoder.
    """
    settle()
    check_retriever(config, ref)
    if config.model == BM25:
        return Bm25Backend()
    check_device(device)
    return load_dense(config, ref, device, results_dir, instructions)
