"""How a reranker is loaded: from a section of the config to an engine."""

from __future__ import annotations

from collections.abc import Mapping

from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import Engine, reads_lists
from rerank_eval.engine.loading import resolve_device
from rerank_eval.engine.quiet import settle
from rerank_eval.errors import DeviceError, ModelError
from rerank_eval.models.python_objects import refuse_options
from rerank_eval.models.ref import ModelRef
from rerank_eval.rerankers.family import Prepared, Prompting, family_of


def check_device(device: str, otherwise: str = "") -> None:
    """Refuse a device that this machine does not have, before anything is computed.

    Args:
        device: `auto` or a torch device.
        otherwise: What else one can do, behind the error's line.

    Raises:
        DeviceError: It is not there.
    """
    try:
        resolve_device(device)
    except EngineError as error:
        raise DeviceError(f"device: {error}{otherwise}") from error


def prepare_reranker(config: RerankerConfig, ref: ModelRef, prompting: Prompting | None = None) -> Prepared:
    """Hold a reranker's settings against what its files say, before anything is loaded.

    Raises:
        ConfigError: A recipe or an instruction set that the config names is missing or malformed.
        ModelError: What would be computed is not what the files say; one line that says what to set.
        OfflineError: A file has to come from the hub and the hub cannot be reached.
    """
    refuse_options(config, ref, "reranker")
    prepared = family_of(config, ref).prepare(config, ref, prompting or Prompting.of(config))
    if config.listwise is not None and not prepared.listwise:
        raise ModelError(
            f"reranker.listwise: {ref.label} scores each pair by itself, so that neither windows nor an order change "
            "anything; take it out"
        )
    if prepared.listwise and not isinstance(prepared.identity.get("listwise"), Mapping):
        raise ModelError(f"reranker.model: the family of {ref.label} leaves `listwise` out of its identity; mend it")
    return prepared


def load_reranking_engine(
    config: RerankerConfig, ref: ModelRef, device: str, prompting: Prompting | None = None
) -> Engine:
    """Load a reranker; its checkpoint is checked once more, as the last chance before code of it could run.

    Args:
        config: The reranker's section of the config.
        ref: The model, resolved.
        device: `auto` or a torch device.
        prompting: Recipe and instructions, where they were looked up before.

    Returns:
        The engine, with weights in memory.

    Raises:
        DeviceError: This machine has no such device.
        ModelError: The model cannot be loaded as a reranker.
    """
    settle()
    check_device(device)
    prepared = prepare_reranker(config, ref, prompting)
    engine = family_of(config, ref).load(prepared, device)
    if reads_lists(engine) != prepared.listwise:  # scores of a list would be kept as those of pairs, or the other way
        raise ModelError(f"reranker.model: the family of {ref.label} disagrees with its engine on `listwise`; mend it")
    return engine
