"""vLLM's `/score` with prompts that are rendered here: an empty first text, and whole prompts as second ones.

A server without `--chat-template` joins the two as they stand (`get_score_prompt` in vLLM 0.32's
`entrypoints/pooling/scoring/io_processor.py`), so that any recipe can be sent in any order of its texts.
"""

from __future__ import annotations

from typing import Any

from rerank_eval.servers.protocol import Answer, Asked, by_index, counted_tokens, field


class VllmScore:
    """See the module; `Api` says what each member is."""

    software, host = "vllm", ""
    instructed, raw, whole = False, True, True

    def request(self, asked: Asked) -> tuple[str, dict[str, Any]]:
        """See `Api.request`."""
        body: dict[str, Any] = {"model": asked.model, "text_1": asked.query, "text_2": list(asked.documents)}
        return "/score", body | {"use_activation": not asked.raw}

    def answer(self, body: Any, count: int) -> Answer:
        """See `Api.answer`."""
        return Answer(by_index(field(body, "data"), "score", count), counted_tokens(body))


PART = VllmScore()
