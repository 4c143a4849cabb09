"""HTTP to a server: bounded in time and size, tried again where that may help, and never sent elsewhere."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import anyio
import httpx
from anyio.from_thread import start_blocking_portal

from rerank_eval.config.server import ServerKeys
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.prompts import encodable
from rerank_eval.errors import ConfigError, ServerError
from rerank_eval.servers.protocol import SHOWN

TRIES = 8
"""Of a request; with `BACKOFF` a server has about a minute to come back."""
BACKOFF = 0.5
"""Seconds before the second try; twice as many before each further one."""
LONGEST_WAIT = 60.0
"""Seconds that a server's Retry-After is followed for, at the most."""
LARGEST_ANSWER = 256 * 2**20
"""Bytes of an answer, at the most."""
TIMEOUT = 60.0

_OK, _NOT_FOUND, _NOT_ALLOWED, _TOO_MANY = 200, 404, 405, 429
_DENIED = {401, 403}
_BUSY = {_TOO_MANY, 502, 503, 504}
"""The server, or what stands before it, is overloaded, or not there for the moment."""
_FAILED = 500
_NO_JSON = (ValueError, RecursionError)
"""What `json.loads` raises, the second for brackets without end."""
T = TypeVar("T")


@dataclass(frozen=True)
class Address:
    """Where a server is, and how it is spoken to.

    Attributes:
        url: Its address, without a path of an endpoint.
        where: The section of the config, for error messages.
        key: The environment variable that holds the key, or None.
        timeout: Seconds to wait for an answer.
    """

    url: str
    where: str
    key: str | None = None
    timeout: float = TIMEOUT

    @classmethod
    def of(cls, url: str, keys: ServerKeys, where: str) -> Address:
        """Read a config's keys.

        Raises:
            ConfigError: Texts would go to another machine unencrypted.
        """
        parts = urlsplit(url)
        if parts.scheme == "http" and not keys.plain_http and not _is_loopback(parts.hostname or ""):
            raise ConfigError(
                f"{where}.model: {url} is another machine, to which texts and key would go unencrypted; use https, or "
                f"set {where}.plain_http: true in a network that you trust"
            )
        return cls(url, where, None if keys.key is None else keys.key[1:], keys.timeout or TIMEOUT)

    def headers(self) -> dict[str, str]:
        """Return what a request says of itself, the key among it.

        Raises:
            ConfigError: The key's variable is not set, or holds what no header can.
        """
        if self.key is None:
            return {}
        value = os.environ.get(self.key, "").strip()
        if not value or not value.isascii() or not value.isprintable():
            what = "holds no key" if value else "is not set"
            raise ConfigError(f"{self.where}.key: the environment variable {self.key} {what}; export it")
        return {"Authorization": f"Bearer {value}"}


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Connection:
    """Connections to a server that are kept alive, as an asynchronous context.

    Args:
        address: The server.
        tries: Of each request; None for `TRIES`.
        concurrency: How many may hold `turn` at a time.

    Attributes:
        retries: Requests that were sent again.
        broken: Those of them that had no answer at all: the server may have been started anew.
        turn: Held by who has requests under way.
    """

    def __init__(self, address: Address, tries: int | None = None, concurrency: int = 1) -> None:
        self.address = address
        self.retries = self.broken = 0
        self.turn = anyio.CapacityLimiter(concurrency)
        self._tries = TRIES if tries is None else tries
        self._secret = ""

    async def __aenter__(self) -> Self:
        """Open."""
        headers = self.address.headers()
        self._secret = headers.get("Authorization", "").removeprefix("Bearer ")
        loopback = _is_loopback(urlsplit(self.address.url).hostname or "")
        self._client = httpx.AsyncClient(
            base_url=self.address.url,
            headers=headers,
            timeout=httpx.Timeout(self.address.timeout, connect=min(10.0, self.address.timeout), pool=None),
            limits=httpx.Limits(max_connections=None),
            follow_redirects=False,
            trust_env=not loopback,  # a proxy has no business with this machine's own servers
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self._client.aclose()

    async def get(self, path: str) -> Any:
        """Return what stands at a path, or None where the server has no such path.

        Raises:
            ServerError: The server does not answer, or refuses the key.
        """
        status, content, _ = await self._persistently("GET", path, None)
        if status != _OK:
            return None
        try:
            return json.loads(content)
        except _NO_JSON:
            return None

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[Any, int]:
        """Send JSON and return the answer's, and how many requests had broken when it was sent for the last time.

        Raises:
            EngineError: The server refuses this very request, or answers no JSON.
            ServerError: The server does not answer, or refuses the key or the model's name.
        """
        status, content, broken = await self._persistently("POST", path, body)
        if status != _OK:
            raise self._refusal(status, path, content)
        try:
            return json.loads(content), broken
        except _NO_JSON:
            raise EngineError(f"{self._name(path)} answered no JSON but {self._shown(content)}") from None

    async def _persistently(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, bytes, int]:
        """Exchange, again where the server may only be busy or starting; return status, content and what had broken."""
        for turn in range(1, self._tries + 1):
            broken = self.broken
            pause = BACKOFF * 2.0 ** (turn - 1)
            try:
                status, content, headers = await self._exchange(method, path, body)
            except (httpx.RequestError, TimeoutError) as error:
                if turn == self._tries:
                    raise self._silent(path, error) from None
                self.broken += 1
            else:
                if status in _DENIED or 300 <= status < 400:  # noqa: PLR2004 - redirects
                    raise self._denial(status, headers, content)
                if status not in _BUSY and status < _FAILED:
                    return status, content, broken
                if turn == self._tries:
                    if status not in _BUSY:
                        return status, content, broken
                    raise ServerError(
                        f"{self._name(path)} answered {status} to {turn} tries ({self._shown(content)}); lower "
                        f"{self.address.where}.concurrency, or run again later: what was scored is kept"
                    )
                pause = max(pause, _retry_after(headers))
            self.retries += 1
            await anyio.sleep(pause)
        raise AssertionError("not reached")

    async def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[int, bytes, httpx.Headers]:
        content = None if body is None else encodable(json.dumps(body, ensure_ascii=False)).encode()
        headers = {} if content is None else {"Content-Type": "application/json"}
        parts: list[bytes] = []
        size = 0
        with anyio.fail_after(self.address.timeout):  # httpx's own bounds each byte, and a trickle never ends
            async with self._client.stream(method, path, content=content, headers=headers) as response:
                async for part in response.aiter_bytes():
                    size += len(part)
                    if size > LARGEST_ANSWER:
                        raise EngineError(f"{self._name(path)} answered more than {LARGEST_ANSWER >> 20} MiB")
                    parts.append(part)
        return response.status_code, b"".join(parts), response.headers

    def _name(self, path: str) -> str:
        return f"{self.address.where}.model: {self.address.url}{path}"

    def _shown(self, content: bytes) -> str:
        """Return the beginning of an answer without the key, which some servers repeat."""
        text = " ".join(content[: 20 * SHOWN].decode("utf-8", "replace").split())
        return repr(self.without_key(text)[:SHOWN])

    def without_key(self, text: str) -> str:
        """Return a text of the server's without the key."""
        return text.replace(self._secret, "...") if self._secret else text

    def read(self, path: str, reader: Callable[[], T]) -> T:
        """Read an answer.

        Raises:
            EngineError: It is not what the protocol says; names the endpoint, and quotes no key.
        """
        try:
            return reader()
        except EngineError as error:
            raise EngineError(f"{self._name(path)}: {self.without_key(str(error))}") from None

    def _silent(self, path: str, error: httpx.RequestError | TimeoutError) -> ServerError:
        if isinstance(error, (httpx.TimeoutException, TimeoutError)):
            what = f"did not answer within {self.address.timeout:g} s; raise {self.address.where}.timeout"
        else:
            what = f"cannot be reached ({type(error).__name__}: {error}); start it, or correct the address"
        return ServerError(f"{self._name(path)} {what}; what was scored is kept")

    def _denial(self, status: int, headers: httpx.Headers, content: bytes) -> ServerError:
        if status in _DENIED:
            named = f"${self.address.key}" if self.address.key else "no key"
            return ServerError(
                f"{self.address.where}.key: {self.address.url} refuses {named} with {status} ({self._shown(content)}); "
                "name the environment variable that holds its key"
            )
        target = self.without_key(headers.get("location", "elsewhere"))
        return ServerError(
            f"{self.address.where}.model: {self.address.url} redirects to {target[:SHOWN]!r}, which is not followed: "
            "texts and key would go there; name that address if it is yours"
        )

    def _refusal(self, status: int, path: str, content: bytes) -> EngineError | ServerError:
        if status in {_NOT_FOUND, _NOT_ALLOWED}:
            return ServerError(
                f"{self._name(path)} answered {status} ({self._shown(content)}); correct {self.address.where}.api or "
                f"{self.address.where}.served_model"
            )
        return EngineError(f"{self._name(path)} answered {status}: {self._shown(content)}")


def _retry_after(headers: httpx.Headers) -> float:
    try:
        return min(max(float(headers.get("retry-after", "0")), 0.0), LONGEST_WAIT)
    except ValueError:  # a date, which few servers send
        return 0.0


def in_thread(work: Callable[[], Awaitable[T]]) -> T:
    """Run asynchronous work in a thread with an event loop of its own: notebooks have one in theirs."""
    with start_blocking_portal() as portal:
        return waited_for(portal.start_task_soon(work))


def waited_for(future: Future[T]) -> T:
    """Return a future's result; Ctrl-C is noticed meanwhile, even where a library had signals restart a wait."""
    while not wait([future], timeout=0.2).done:
        pass
    return future.result()
