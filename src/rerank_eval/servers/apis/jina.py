"""Jina's `/v1/rerank`, which llama.cpp's server has too."""

from __future__ import annotations

from typing import Any

from rerank_eval.servers.protocol import Answer, Asked, by_index, counted_tokens, field


class Jina:
    """See the module; `Api` says what each member is."""

    software, host = "llamacpp", "api.jina.ai"
    instructed, raw, whole = False, False, False

    def request(self, asked: Asked) -> tuple[str, dict[str, Any]]:
        """See `Api.request`."""
        body = {"model": asked.model, "query": asked.query, "documents": list(asked.documents)}
        return "/v1/rerank", body | {"top_n": len(asked.documents), "return_documents": False}

    def answer(self, body: Any, count: int) -> Answer:
        """See `Api.answer`."""
        return Answer(by_index(field(body, "results"), "relevance_score", count), counted_tokens(body))


PART = Jina()
