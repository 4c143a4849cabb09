"""Text Embeddings Inference's `/rerank`: a bare list, sorted by score; what is too long is cut in silence if allowed.

From huggingface/text-embeddings-inference, `router/src/http/types.rs`: `raw_scores` leaves the sigmoid out, and without
`truncate` a pair that is too long is refused.
"""

from __future__ import annotations

from typing import Any

from rerank_eval.servers.protocol import Answer, Asked, by_index


class Tei:
    """See the module; `Api` says what each member is."""

    software, host = "tei", ""
    instructed, raw, whole = False, True, False

    def request(self, asked: Asked) -> tuple[str, dict[str, Any]]:
        """See `Api.request`."""
        body = {"query": asked.query, "texts": list(asked.documents), "raw_scores": asked.raw, "truncate": True}
        return "/rerank", body

    def answer(self, body: Any, count: int) -> Answer:
        """See `Api.answer`."""
        return Answer(by_index(body, "score", count))


PART = Tei()
