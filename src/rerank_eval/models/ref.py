"""A model whose files are known to be in reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rerank_eval.servers.facts import Served


@dataclass(frozen=True)
class ModelRef:
    """A model whose files are known to be in reach.

    Attributes:
        name: `org/name`, the name under which results are filed.
        label: Short name for tables.
        source: What a loader is given: a hub name, a folder, `module:object`, a server's address, or a
            path of candidates.
        revision: Commit on the hub, package version, digest of a local folder's weights, or what a server says.
        origin: Where it comes from; `mirror` is a hub model whose files are in a folder.
        architecture: First entry of `architectures` in its config.json, empty for BM25, Python code and servers.
        notes: What a reader of a table has to know, in plain words.
        folder: Folder from which Python code is imported; empty for all else.
        served: What a server says of it; None for all else.
        checkpoint: What the server loaded it from, where its files are here; None for all else.
    """

    name: str
    label: str
    source: str
    revision: str
    origin: Literal["built-in", "local", "hub", "mirror", "python", "server", "given"]
    architecture: str = ""
    notes: tuple[str, ...] = ()
    folder: str = ""
    served: Served | None = None
    checkpoint: ModelRef | None = None

    @property
    def published(self) -> bool:
        """Whether `name` and `revision` are the hub's, so that mteb's entry of that name is about this model."""
        return self.origin in {"hub", "mirror"}

    @property
    def load_revision(self) -> str | None:
        """The revision that a hub loader is given; None for anything that is not on the hub."""
        return self.revision if self.origin == "hub" else None
