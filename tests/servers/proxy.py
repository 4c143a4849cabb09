"""A proxy before a real server: slow, or losing requests, or busy; it counts the pairs that come back."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Proxy:
    """Hands requests on to a server.

    Args:
        target: The server's address.
        delay: Seconds before a scoring request is handed on.
        drop_every: Every n-th scoring request's connection is closed without an answer; 0 for none.
        busy: Number of a scoring request, from 1 -> the status that it gets instead of an answer.
        after: Number of scored requests, and what is called when so many have been answered.

    Attributes:
        address: Where it listens.
        scored: Pairs of query and document -> how often the server's scores of them were handed back.
        refused: Scoring requests that were dropped, or answered by the proxy itself.
    """

    def __init__(
        self,
        target: str,
        *,
        delay: float = 0.0,
        drop_every: int = 0,
        busy: Mapping[int, int] | None = None,
        after: tuple[int, Callable[[], None]] | None = None,
    ) -> None:
        self.target, self.delay, self.drop_every, self.busy, self.after = (
            target,
            delay,
            drop_every,
            dict(busy or {}),
            after,
        )
        self.scored: Counter[tuple[str, str]] = Counter()
        self.refused = 0
        self.lock = threading.Lock()
        self._asked = self._answered = 0
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def turn(self) -> int | None:
        """Count a scoring request; return None to hand it on, 0 to drop it, else the status to answer with."""
        with self.lock:
            self._asked += 1
            if self._asked in self.busy:
                self.refused += 1
                return self.busy[self._asked]
            if self.drop_every and self._asked % self.drop_every == 0:
                self.refused += 1
                return 0
            return None

    def count(self, body: dict[str, Any]) -> None:
        """Count the pairs of a request whose answer is handed back."""
        query = body.get("query", body.get("text_1"))
        documents = body.get("documents", body.get("text_2"))
        with self.lock:
            self.scored.update((query, document) for document in documents)
            self._answered += 1
            due = self.after is not None and self._answered == self.after[0]
        if due:
            self.after[1]()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        self._hand_on(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.proxy.turn()
        if status == 0:
            self.close_connection = True
            self.connection.close()
        elif status is not None:
            self._answer(status, b'{"error": "busy"}', {"Retry-After": "0"})
        else:
            time.sleep(self.proxy.delay)
            self._hand_on(body)

    def _hand_on(self, body: bytes | None) -> None:
        request = urllib.request.Request(self.proxy.target + self.path, data=body)  # noqa: S310 - the loopback
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        except OSError:  # the server is gone: so is the connection
            self.close_connection = True
            self.connection.close()
            return
        self._answer(status, content, {})
        if body is not None and status == 200:
            self.proxy.count(json.loads(body))

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
