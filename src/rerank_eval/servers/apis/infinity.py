"""Infinity's `/rerank`: Cohere's form, with `raw_scores`; pairs that are too long are cut in silence.

From infinity-emb 0.0.78, `fastapi_schemas/pymodels.py`. Its `usage` counts characters, and is not read.
"""

from __future__ import annotations

from typing import Any

from rerank_eval.servers.protocol import Answer, Asked, by_index, field


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
        return Answer(by_index(field(body, "results"), "relevance_score", count))


PART = Infinity()
