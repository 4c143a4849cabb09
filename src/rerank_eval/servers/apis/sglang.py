"""SGLang's `/v1/rerank`: a bare list; for Qwen3-Reranker the server renders a prompt of its own and returns P(yes).

From sgl-project/sglang, `entrypoints/openai/serving_rerank.py`: blank documents are refused.
"""

from __future__ import annotations

from typing import Any

from rerank_eval.servers.protocol import Answer, Asked, by_index


class Sglang:
    """See the module; `Api` says what each member is."""

    software, host = "sglang", ""
    instructed, raw, whole = True, False, False

    def request(self, asked: Asked) -> tuple[str, dict[str, Any]]:
        """See `Api.request`."""
        instruction = {} if asked.instruction is None else {"instruct": asked.instruction}
        body = {"model": asked.model, "query": asked.query, "documents": list(asked.documents)}
        return "/v1/rerank", body | {"return_documents": False} | instruction

    def answer(self, body: Any, count: int) -> Answer:
        """See `Api.answer`."""
        return Answer(by_index(body, "score", count))


PART = Sglang()
