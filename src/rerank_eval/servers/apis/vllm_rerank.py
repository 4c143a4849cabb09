"""vLLM's `/rerank`: query and documents go out, the server's chat template makes prompts of them.

From vLLM 0.32, `entrypoints/pooling/scoring/protocol.py` and `io_processor.py`: without `--chat-template` the prompt is
query and document joined, and `instruction` is passed over; a prompt that is too long is refused.
"""

from __future__ import annotations

from typing import Any

from rerank_eval.servers.protocol import Answer, Asked, by_index, counted_tokens, field


class VllmRerank:
    """See the module; `Api` says what each member is."""

    software, host = "vllm", ""
    instructed, raw, whole = True, True, False

    def request(self, asked: Asked) -> tuple[str, dict[str, Any]]:
        """See `Api.request`."""
        body: dict[str, Any] = {"model": asked.model, "query": asked.query, "documents": list(asked.documents)}
        instruction = {} if asked.instruction is None else {"instruction": asked.instruction}
        return "/rerank", body | instruction | {"use_activation": not asked.raw}

    def answer(self, body: Any, count: int) -> Answer:
        """See `Api.answer`."""
        return Answer(by_index(field(body, "results"), "relevance_score", count), counted_tokens(body))


PART = VllmRerank()
