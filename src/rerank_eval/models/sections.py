"""From a config's section to the model that it names: files, code, or a server."""

from __future__ import annotations

from pathlib import Path

from rerank_eval.config.schema import RerankerConfig, RetrieverConfig
from rerank_eval.config.server import on_server
from rerank_eval.errors import ConfigError
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.resolve import resolve_model
from rerank_eval.names import slug


def resolve_section(section: RerankerConfig | RetrieverConfig, where: str, model_root: Path | None = None) -> ModelRef:
    """Find the model that a config's section names: files as `resolve_model` does, or a server by asking it.

    Args:
        section: The reranker or retriever.
        where: The section, for error messages; with the config's path where there is one.
        model_root: As for `resolve_model`.

    Raises:
        ConfigError: A key of a server is wrong, or is set for what is none.
        ModelError: See `resolve_model`.
        OfflineError: See `resolve_model`.
        ServerError: The server does not answer, refuses the key, or has no model of that name.
    """
    if not on_server(section.model):
        if keys := section.server_keys():
            raise ConfigError(f"{where}.{keys[0]}: {section.model} is no server, so that nothing reads it; take it out")
        return resolve_model(section.model, section.revision, f"{where}.model", model_root)
    from rerank_eval.servers.asking import find_served  # HTTP, which few runs need

    served = find_served(section, where)
    short = served.name.rpartition("/")[2] or served.name
    owner = served.facts.software or served.api
    revision = section.revision or served.listed.revision or "unknown"
    checkpoint = None
    if section.checkpoint is not None:
        checkpoint = resolve_model(section.checkpoint, None, f"{where}.checkpoint", model_root)
    note = f"computed by a server ({served.server or served.api}): its weights and dtype are what it was started with"
    return ModelRef(
        f"{slug(owner)}/{slug(short)}",
        f"{short} ({owner})",
        section.model,
        revision,
        "server",
        notes=(note,),
        served=served,
        checkpoint=checkpoint,
    )
