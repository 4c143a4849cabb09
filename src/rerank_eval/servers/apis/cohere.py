"""Cohere's `/v2/rerank`, as the service has it and gateways such as LiteLLM imitate it."""

from __future__ import annotations

from typing import Any

from rerank_eval.servers.protocol import Answer, Asked, by_index, field


class Cohere:
    """See the module; `Api` says what each member is."""

    software, host = "", "api.cohere.com"
    instructed, raw, whole = False, False, False

    def request(self, asked: Asked) -> tuple[str, dict[str, Any]]:
        """See `Api.request`."""
        body = {"model": asked.model, "query": asked.query, "documents": list(asked.documents)}
        return "/v2/rerank", body | {"top_n": len(asked.documents)}

    def answer(self, body: Any, count: int) -> Answer:
        """See `Api.answer`."""
        return Answer(by_index(field(body, "results"), "relevance_score", count))


PART = Cohere()
