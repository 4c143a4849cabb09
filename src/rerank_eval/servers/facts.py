"""What is known of a server and of the model that it has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Listed:
    """A model that a server has.

    Attributes:
        name: The name under which it has it.
        root: What it was loaded from, as the server calls it; empty where it does not say.
        max_length: The longest prompt in tokens, or None.
        revision: What tells its weights from others, or empty.
    """

    name: str
    root: str = ""
    max_length: int | None = None
    revision: str = ""


@dataclass(frozen=True)
class Facts:
    """What a server says of itself.

    Attributes:
        software: `vllm`, `tei`, `sglang`, `infinity`, `llamacpp`, or whatever owns its models; empty if it is silent.
        version: Of the software, or empty.
        models: Those that it has, as far as it lists them.
        largest: Texts in one request at the most, or None.
        prefix: What stands before the paths of all endpoints, such as Infinity's `--url-prefix`.
    """

    software: str = ""
    version: str = ""
    models: tuple[Listed, ...] = ()
    largest: int | None = None
    prefix: str = ""


@dataclass(frozen=True)
class Served:
    """A served model: what a run has to know of it.

    Attributes:
        api: The protocol's name.
        name: The name under which the server has it.
        facts: What the server says of itself.
        listed: What it says of this model.
    """

    api: str
    name: str
    facts: Facts
    listed: Listed

    @property
    def server(self) -> str:
        """Software and version, as far as they are known."""
        return " ".join(part for part in (self.facts.software, self.facts.version) if part)
