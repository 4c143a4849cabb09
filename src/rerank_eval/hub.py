"""Whether the Hugging Face hub can be reached, found out once instead of by minutes of retries."""

from __future__ import annotations

import functools
import os
import socket
from urllib.parse import urlsplit

_ON = {"1", "ON", "YES", "TRUE"}
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def offline() -> bool:
    """Tell whether hub access is switched off by `HF_HUB_OFFLINE`."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in _ON


@functools.cache
def reachable() -> bool:
    """Tell whether the hub's name resolves; behind a proxy it is taken to be in reach."""
    if any(os.environ.get(name) for name in _PROXIES):
        return True
    host = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


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
