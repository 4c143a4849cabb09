"""A model on the worker's host: found again, and found to be the same."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from rerank_eval.errors import ModelError
from rerank_eval.models.ref import ModelRef
from rerank_eval.models.resolve import resolve_model


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
    if ref.origin == "python":
        here = _code_on_this_host(ref, name, where)
    elif ref.origin == "built-in":
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
            f"{where}: {here.source} on host {socket.gethostname()} holds other weights or code ({here.revision}) than "
            f"the driver's ({ref.revision}); copy the driver's there"
        )
    return here


def _code_on_this_host(ref: ModelRef, name: str, where: str) -> ModelRef:
    if not ref.source:
        raise ModelError(
            f"{where}: {name} is an object of the process that started the run, which workers cannot reach; name its "
            "class as python:MODULE:CLASS, or run without workers"
        )
    if ref.folder not in sys.path:
        sys.path.append(ref.folder)
    return resolve_model(name, None, where)
