"""Digests by which an altered file is told from the one that was written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerank_eval.names import digest

SEAL = "seal"


def file_digest(path: Path) -> str:
    """Digest a file: the SHA-256 of its bytes, in hexadecimal.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with its own digest.

    Args:
        manifest: Without a seal, or with an old one.
    """
    rest = {key: value for key, value in manifest.items() if key != SEAL}
    return {**rest, SEAL: digest(rest, 64)}


def is_sealed(manifest: Mapping[str, Any]) -> bool:
    """Tell whether a manifest is as it was written.

    Args:
        manifest: As read.
    """
    try:
        return SEAL in manifest and bool(sealed(manifest)[SEAL] == manifest[SEAL])
    except ValueError:  # NaN, which we never write
        return False
