"""A checkpoint's chat template for pairs: whether it has one, and the prompt that it writes.

sentence-transformers 6 and vLLM render a pair as turns of the roles `query` and `document`, behind a `system` turn with
the instruction (https://sbert.net/docs/cross_encoder/usage/custom_models.html).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

from rerank_eval.errors import ModelError
from rerank_eval.models.checkpoint import as_mapping, load_tokenizer, modules, read_mapping, read_text
from rerank_eval.models.ref import ModelRef

QUERY, DOCUMENT, INSTRUCTION = "what holds work still", "A vise holds work still.", "Find the tool that is meant"
_SIZES = {"restore_suffix", "truncation", "max_length", "padding", "tokenize", "return_tensors", "return_dict"}
"""Settings of sentence-transformers for a chat template that change no text."""
_AROUND = 20


def writes_pairs(ref: ModelRef) -> bool:
    """Tell whether a checkpoint's chat template is one for pairs, with turns of the roles query and document."""
    found = [read_text(ref, "chat_template.jinja") or ""]
    kept = read_mapping(ref, "tokenizer_config.json").get("chat_template")
    found += [str(one.get("template")) for one in kept if isinstance(one, Mapping)] if isinstance(kept, list) else []
    found += [kept] if isinstance(kept, str) else []
    whole = "LogitScore" in [kind for kind, _ in modules(ref)]
    sent = "message" in as_mapping(read_mapping(ref, "sentence_bert_config.json").get("modality_config"))
    return any(_is_for_pairs(text, any_will_do=whole and sent) for text in found if text)


@functools.lru_cache(maxsize=16)
def _is_for_pairs(template: str, *, any_will_do: bool) -> bool:
    """Tell whether a template writes a query's and a document's turns, and not as it does any others."""
    if all(any(f"{quote}{role}{quote}" in template for quote in "\"'") for role in ("query", "document")):
        return True
    pair, chat = (_rendered(template, roles) for roles in (("query", "document"), ("user", "user")))
    if pair is None or not (QUERY in pair and DOCUMENT in pair):
        return False
    same = [re.sub("query|document", "user", text or "") for text in (pair, chat)]
    return any_will_do or same[0] != same[1]


def _rendered(template: str, roles: tuple[str, str]) -> str | None:
    from transformers.utils.chat_template_utils import render_jinja_template

    turns = [{"role": role, "content": text} for role, text in zip(roles, (QUERY, DOCUMENT), strict=True)]
    try:
        return str(render_jinja_template([turns], chat_template=template)[0][0])
    except Exception:  # a template for other turns may raise anything
        return None


def written(ref: ModelRef, instruction: str | None) -> str:
    """Return the prompt that a checkpoint's chat template writes for a pair, as sentence-transformers calls it."""
    saved = read_mapping(ref, "sentence_bert_config.json")
    kwargs = as_mapping(as_mapping(saved.get("processing_kwargs")).get("chat_template"))
    options = {str(key): value for key, value in kwargs.items() if key not in _SIZES}
    turns = [("system", instruction)] if instruction is not None else []
    turns += [("query", QUERY), ("document", DOCUMENT)]
    structured = as_mapping(as_mapping(saved.get("modality_config")).get("message")).get("format") == "structured"
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}] if structured else text} for role, text in turns
    ]
    try:
        return str(load_tokenizer(ref).apply_chat_template(messages, tokenize=False, **options))
    except Exception as error:  # a template is a program of somebody else's, which may raise anything
        raise ModelError(
            f"reranker.model: {ref.name}: its chat template cannot be rendered for a query and a document "
            f"({type(error).__name__}: {str(error)[:80]})"
        ) from None


def first_difference(one: str, other: str) -> str:
    """Show where two prompts part, the checkpoint's first."""
    place = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    place = min(len(one), len(other)) if place is None else place
    start = max(place - _AROUND, 0)
    return f"{one[start : place + _AROUND]!r} where the recipe has {other[start : place + _AROUND]!r}"
