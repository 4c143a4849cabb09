"""What a config says of a server that scores or embeds: keys of `reranker` and of `retriever`."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

SCHEMES = ("http://", "https://")
"""What a model's name begins with where it is a server's address."""
AUTO = "auto"
OPENAI = "openai"
"""What `retriever.api` calls the form of OpenAI's `/v1/embeddings`, which most servers have."""
_KEY = re.compile(r"^\$[A-Za-z_][A-Za-z0-9_]*$")
_ENDPOINT = re.compile(r"/(v\d+|v\d+/\w+|rerank|score|embeddings)$")


def on_server(model: str) -> bool:
    """Tell whether a model's name in a config is a server's address."""
    return model.lower().startswith(SCHEMES)


def check_address(value: str) -> str:
    """Refuse an address that is none, or holds what would reach files and logs.

    Raises:
        ValueError: It says what to write instead.
    """
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{value!r} is no address ({error}); write http://HOST:PORT") from None
    if not host or any(one.isspace() or not one.isprintable() for one in value):
        raise ValueError(f"{value!r} is no address; write http://HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address with a name or password in it would reach files; set key: $NAME instead")
    if parts.query or parts.fragment:
        raise ValueError("it has more than an address in it; write http://HOST:PORT, and a secret as key: $NAME")
    if _ENDPOINT.search(parts.path.rstrip("/")):
        raise ValueError(f"{value!r} names an endpoint; write the server's address alone, and the protocol as api")
    return value.rstrip("/")


def _absent(value: Any) -> bool:
    return value is None


class ServerKeys(BaseModel):
    """What a model that a server holds (`model: http://host:8000`) can be told; refused for all others."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    api: str = Field(default=AUTO, exclude_if=lambda value: value == AUTO)
    """The server's protocol. Rerankers: `vllm-rerank`, `tei`, `sglang`, `infinity`, `cohere`, `jina`, where the server
    renders the prompts; `vllm-score`, where they are rendered here, by `recipe`; or one that an installed package
    declares. Retrievers: `openai`. `auto` asks the server what it is."""
    served_model: str | None = Field(default=None, exclude_if=_absent)
    """The name under which the server has the model; null takes it where the server has one alone."""
    checkpoint: str | None = Field(default=None, exclude_if=_absent)
    """The model that is served, by a hub name or folder whose files are here: its tokenizer counts tokens, and cuts
    documents as its recipe does before the server has to. Null leaves what the server cuts unknown."""
    concurrency: int | None = Field(default=None, ge=1, le=1024, exclude_if=_absent)
    """Queries under way at a time; null takes 16. Not part of a result's identity."""
    request_size: int | None = Field(default=None, ge=1, exclude_if=_absent)
    """Texts in one request; null takes all of a query's documents, as far as the server says it takes as many. Not part
    of a result's identity."""
    timeout: float | None = Field(default=None, gt=0, le=86_400, exclude_if=_absent)
    """Seconds to wait for an answer; null takes 60. Not part of a result's identity."""
    key: str | None = Field(default=None, exclude_if=_absent)
    """`$NAME`: the environment variable that holds the key which the server wants. The key itself reaches no file."""
    plain_http: bool | None = Field(default=None, exclude_if=_absent)
    """Whether texts and key may go to another machine unencrypted, by http://."""

    @field_validator("key")
    @classmethod
    def _names_a_variable(cls, value: str | None) -> str | None:
        if value is not None and not _KEY.match(value):  # what was written may be the secret, and is not repeated
            raise ValueError("must be $NAME, an environment variable that holds the key; a key in a file is no secret")
        return value

    def server_keys(self) -> list[str]:
        """Name the keys of a server that are set."""
        return [name for name in self.set_beside(()) if name in ServerKeys.model_fields]

    def set_beside(self, read: Container[str]) -> list[str]:
        """Name the keys that are set to something else than their default, and that nothing reads.

        Args:
            read: Those that are read.
        """
        fields = type(self).model_fields
        return [name for name, one in fields.items() if name not in read and getattr(self, name) != one.default]
