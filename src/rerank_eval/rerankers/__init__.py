"""Rerankers: what scores a query and its candidates, as mteb cross-encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rerank_eval.config import RerankerConfig
    from rerank_eval.rerankers.cross_encoder import CrossEncoder


def load_reranker(config: RerankerConfig, device: str = "auto") -> CrossEncoder:
    """Load a reranker for use in a plain `mteb.evaluate`, without this project's pipeline.

    Args:
        config: Which model, with which recipe, instruction and arithmetic.
        device: `auto` or a torch device.

    Returns:
        An mteb cross-encoder.

    Raises:
        ConfigError: A recipe or an instruction set that the config names is missing or malformed.
        DeviceError: This machine has no such device.
        ModelError: The model cannot be loaded as a reranker.
        OfflineError: It has to come from the hub and the hub cannot be reached.
    """
    from rerank_eval.engine.quiet import settle

    settle()  # before torch is imported, if it is not yet
    # Imported here: the package is imported by whatever needs one of its small modules, and torch takes seconds.
    from mteb.models.model_meta import ModelMeta

    from rerank_eval.config.renamed import spelled_before
    from rerank_eval.models.sections import resolve_section
    from rerank_eval.rerankers.cross_encoder import CrossEncoder
    from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker

    ref = resolve_section(config, "reranker")
    prepared = prepare_reranker(config, ref)
    settings = config.model_dump(mode="json", include={"dtype", "recipe", "instruction", "engine"})
    settings |= {"head": spelled_before(config.head), **prepared.identity}  # mteb names results by these
    meta = ModelMeta.create_empty(
        overwrites={
            "name": ref.name,
            "revision": ref.revision,
            "model_type": ["cross-encoder"],
            "experiment_kwargs": settings,
        }
    )
    engine = load_reranking_engine(config, ref, device, prepared.prompting)
    return CrossEncoder(engine, meta, prepared.policy, config=config, device=device)


__all__ = ["load_reranker"]
