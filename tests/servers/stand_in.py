"""A stand-in for reranking servers: speaks their protocols over real HTTP, and scores by words in common.

It is no server anybody runs: `make test-servers` runs the real ones. Forms are those of vLLM 0.32's
`entrypoints/pooling/scoring/protocol.py`, text-embeddings-inference's `router/src/http/types.rs`, SGLang's
`entrypoints/openai/protocol.py` and the API pages of Infinity, Cohere and Jina.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def overlap(query: str, document: str) -> float:
    """Log-odds: 1 more for each word in common, a little less for each word of the document."""
    words, found = set(query.lower().split()), document.lower().split()
    return len(words & set(found)) - 0.013 * len(found) - 1.0


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@dataclass
class StandIn:
    """A stand-in of one kind of software, on a port of its own.

    Attributes:
        software: `vllm`, `tei`, `sglang`, `infinity`, `cohere`, `jina`.
        template: Put around texts, as vLLM's --chat-template; None joins them as they stand.
        largest: Texts in one request at the most.
        requests: Path and body of each scoring request.
    """

    software: str
    name: str = "demo"
    version: str = "0.32.0"
    template: str | None = "<q>{instruction}{query}</q><d>{document}</d>"
    score: Callable[[str, str], float] = overlap
    embed: Callable[[list[str]], list[list[float]]] | None = None
    key: str | None = None
    largest: int | None = None
    delay: float = 0.0
    drop_every: int = 0
    restart_at: int = 0
    busy_first: int = 0
    retry_after: str | None = None
    fail_on: str | None = None
    refuse_on: str | None = None
    change: Any = None
    redirect: str | None = None
    port: int = 0
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0
    most_at_once: int = 0

    def __enter__(self) -> StandIn:
        self._lock, self._now, self._seen = threading.Lock(), 0, 0
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pairs(self) -> int:
        return sum(len(documents_of(body)) for _, body in self.requests)

    def get(self, path: str) -> Any:
        models = [
            {"id": self.name, "object": "model", "owned_by": self.software, "root": "somewhere", "max_model_len": 512}
        ]
        if self.software == "tei":
            info = {"model_id": self.name, "model_sha": "abc", "version": "1.9.0", "max_input_length": 512}
            return info | {"max_client_batch_size": self.largest or 32} if path == "/info" else None
        known = {"vllm": "/v1/models", "sglang": "/v1/models", "infinity": "/models", "jina": "/v1/models"}
        if path == known.get(self.software):
            owner = {"jina": "llamacpp"}.get(self.software, self.software)
            return {"object": "list", "data": [model | {"owned_by": owner} for model in models]}
        if (self.software, path) == ("vllm", "/version"):
            return {"version": self.version}
        if (self.software, path) == ("sglang", "/get_server_info"):
            return {"version": self.version}
        return None

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == ("/embeddings" if self.software == "infinity" else "/v1/embeddings") and self.embed is not None:
            return self._embeddings(body)
        paths = {
            "sglang": ["/v1/rerank"],
            "cohere": ["/v2/rerank"],
            "jina": ["/v1/rerank"],
            "vllm": ["/rerank", "/score"],
        }
        if path not in paths.get(self.software, ["/rerank"]):
            return 404, {"detail": "Not Found"}
        if self.software != "tei" and body.get("model") != self.name:
            return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist.", "code": 404}}
        query, documents = body.get("query", body.get("text_1")), documents_of(body)
        if self.largest is not None and len(documents) > self.largest:
            return 413, {"error": f"batch size {len(documents)} > maximum allowed batch size {self.largest}"}
        if self.software == "sglang" and not all(text.strip() for text in documents):
            return 400, {"message": "Documents cannot be blank"}
        instruction = body.get("instruction", body.get("instruct")) or ""
        template = self.template if self.software == "vllm" else None
        prompts = [
            query + text if template is None else template.format(query=query, document=text, instruction=instruction)
            for text in documents
        ]
        logits = [self.score(query, text) + 0.001 * len(instruction) for text in documents]
        raw = not body.get("use_activation", True) or body.get("raw_scores", False)
        scores = logits if raw else [sigmoid(one) for one in logits]
        usage = {"prompt_tokens": sum(len(prompt) for prompt in prompts)}
        return 200, self._form(path, scores, usage)

    def _embeddings(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body.get("model") != self.name:
            return 404, {"error": {"message": f"The model `{body.get('model')}` does not exist.", "code": 404}}
        assert self.embed is not None
        vectors = self.embed(body["input"])
        data = [{"object": "embedding", "index": place, "embedding": one} for place, one in enumerate(vectors)]
        return 200, {"object": "list", "model": self.name, "data": data[::-1], "usage": {"prompt_tokens": 1}}

    def _form(self, path: str, scores: list[float], usage: dict[str, int]) -> Any:
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        if path == "/score":
            return {
                "object": "list",
                "data": [{"index": i, "object": "score", "score": s} for i, s in enumerate(scores)],
                "usage": usage,
            }
        if self.software in {"tei", "sglang"}:
            return [{"index": place, "score": scores[place]} for place in order]
        return {"results": [{"index": place, "relevance_score": scores[place]} for place in order], "usage": usage}


def documents_of(body: dict[str, Any]) -> list[str]:
    return body.get("documents") or body.get("texts") or body.get("text_2") or body.get("input") or []


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - each fault is a line
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            stand_in.connections += 1

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self._allowed():
                found = stand_in.get(self.path)
                self._answer(404 if found is None else 200, {"detail": "Not Found"} if found is None else found)

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            body = json.loads(text)
            with stand_in._lock:
                stand_in._seen += 1
                seen = stand_in._seen
                stand_in._now += 1
                stand_in.most_at_once = max(stand_in.most_at_once, stand_in._now)
            try:
                self._post(body, seen)
            finally:
                with stand_in._lock:
                    stand_in._now -= 1

        def _post(self, body: dict[str, Any], seen: int) -> None:
            if not self._allowed():
                return
            time.sleep(stand_in.delay)
            if stand_in.redirect:
                self._answer(307, {}, {"Location": stand_in.redirect})
            elif seen <= stand_in.busy_first:
                extra = {} if stand_in.retry_after is None else {"Retry-After": stand_in.retry_after}
                self._answer(429, {"message": "too many requests"}, extra)
            elif stand_in.drop_every and seen % stand_in.drop_every == 0:
                self.close_connection = True
                self.connection.close()
            elif seen == stand_in.restart_at:  # the connection breaks, and a model comes back that says the opposite
                stand_in.score = lambda query, document: -overlap(query, document)
                self.close_connection = True
                self.connection.close()
            elif stand_in.fail_on and stand_in.fail_on in json.dumps(body):
                self._answer(500, {"message": "internal error"})
            elif stand_in.refuse_on and stand_in.refuse_on in json.dumps(body):
                self._answer(400, {"message": "this text is refused"})
            else:
                stand_in.requests.append((self.path, body))
                stand_in.headers.append(dict(self.headers))
                status, answer = stand_in.post(self.path, body)
                if status == 200 and stand_in.change is not None:
                    answer = stand_in.change(answer)
                self._answer(status, answer)

        def _allowed(self) -> bool:
            if stand_in.key is None or self.headers.get("Authorization") == f"Bearer {stand_in.key}":
                return True
            self._answer(401, {"message": f"invalid key: {self.headers.get('Authorization')}"})
            return False

        def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in (headers or {}).items():
                self.send_header(name, text)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler
