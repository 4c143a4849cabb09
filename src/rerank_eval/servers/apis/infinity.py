"""Infinity's `/rerank`: Cohere's form, with `raw_scores`."""

from __future__ import annotations

from typing import Any

from rerank_eval.servers.protocol import Answer, Asked, by_index, counted_tokens, field


class Infinity:
    """See the module; `Api` says what each member is."""

    software, host = "infinity", ""
    instructed, raw, whole = False, True, False

    def request(self, asked: Asked) -> tuple[str, dict[str, Any]]:
        """See `Api.request`."""
        body = {"model": asked.model, "query": asked.query, "documents": list(asked.documents)}
        return "/rerank", body | {"raw_scores": asked.raw, "return_documents": False}

    def answer(self, body: Any, count: int) -> Answer:
        """See `Api.answer`."""
        return Answer(by_index(field(body, "results"), "relevance_score", count), counted_tokens(body))


PART = Infinity()
