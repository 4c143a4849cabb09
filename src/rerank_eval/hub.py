"""Whether the Hugging Face hub can be reached, found out once instead of by minutes of retries."""

from __future__ import annotations

import functools
import os
import socket
from urllib.parse import urlsplit

_ON = {"1", "ON", "YES", "TRUE"}
_PROXIES = ("{}_PROXY", "{}_proxy", "ALL_PROXY", "all_proxy")
_PATIENCE = 10.0
"""Seconds to wait for the hub to take a connection: many clusters resolve its name and let nothing out."""


def offline() -> bool:
    """Tell whether hub access is switched off by `HF_HUB_OFFLINE`."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in _ON


@functools.cache
def reachable() -> bool:
    """Tell whether the hub takes a connection, or what HF_ENDPOINT names; behind a proxy it is taken to be in reach."""
    address = urlsplit(endpoint())
    scheme = address.scheme
    if any(os.environ.get(name.format(scheme.upper() if "PROXY" in name else scheme)) for name in _PROXIES):
        return True
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        with socket.create_connection((address.hostname or "", port), timeout=_PATIENCE):
            return True
    except (OSError, ValueError):
        return False


def endpoint() -> str:
    """Return the hub's address: `HF_ENDPOINT`, else the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def go_offline_if_unreachable() -> bool:
    """Switch the hub libraries to their offline mode when the hub is out of reach, so that they do not retry.

    Returns:
        True when hub access is off, whether by the user's wish or by this function.
    """
    if offline():
        return True
    if reachable():
        return False
    go_offline()
    return True


def go_offline() -> None:
    """Switch the hub libraries to their offline mode for this process and its children."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    # Both libraries read the variables once, at import, which may already have happened.
    import datasets.config
    import huggingface_hub.constants

    huggingface_hub.constants.HF_HUB_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = True


def why_unreachable() -> str:
    """Say in a clause why the hub is not asked."""
    return "the hub cannot be reached" if not reachable() else "HF_HUB_OFFLINE is set"
