"""A model on the worker's host: found again, and found to be the same."""

from __future__ import annotations

import socket
from pathlib import Path

from rerank_eval.errors import ModelError
from rerank_eval.models.resolve import ModelRef, resolve_model


def on_this_host(ref: ModelRef, name: str, where: str) -> ModelRef:
    """Resolve a model again where the worker runs.

    Args:
        ref: The model as the driver resolved it, folders named from the root.
        name: Its name in the config.
        where: Config key for error messages.

    Returns:
        The model, with its place on this host.

    Raises:
        ModelError: Its folder is not here, or holds other weights than the driver's.
    """
    if ref.origin == "hub":
        return ref
    if ref.origin == "built-in":
        here = resolve_model(name, None, where)
    elif not (Path(ref.source) / "config.json").is_file():
        raise ModelError(
            f"{where}: {ref.source} is not on host {socket.gethostname()}; workers read it from the same path as the "
            "driver: put it on a shared file system, or copy it to every host"
        )
    elif ref.origin == "mirror":
        return ref
    else:
        here = resolve_model(ref.source, None, where)
    if here.revision != ref.revision:
        raise ModelError(
            f"{where}: {here.source} on host {socket.gethostname()} holds other weights ({here.revision}) than the "
            f"driver's ({ref.revision}); copy the driver's there"
        )
    return here
