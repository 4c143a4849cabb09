"""Pairs of token ids: whatever the texts and the limit, the ids that the tokenizer itself would give."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.pairs import PairTokenizer, longest_first
from tests.tiny_classifiers import bert_tokenizer, tokenizer

WORDS = ["parse", "the", "header", "of", "émigré", "日本", "[SEP]", "[PAD]", "unhappily", "\ud800", ","]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join)


def clean(text: str) -> str:
    return text.replace("\ud800", "\ufffd")


@pytest.mark.parametrize("make", [tokenizer, bert_tokenizer])
@settings(max_examples=120, deadline=None)
@given(
    query=TEXTS,
    instruction=st.none() | TEXTS,
    documents=st.lists(TEXTS, min_size=1, max_size=6),
    limit=st.integers(7, 70),
)
def test_equal_to_the_tokenizer_s_own_truncation(
    make: Any, query: str, instruction: str | None, documents: list[str], limit: int
) -> None:
    """An instruction stands behind the query, as mteb joins them."""
    words = make()
    found = PairTokenizer(words, limit).pairs(QueryGroup(query, instruction, documents))
    joined = f"{query} {instruction}" if instruction else query
    queries, texts = [clean(joined)] * len(documents), [clean(text) for text in documents]
    expected = words(queries, texts, truncation=True, max_length=limit)
    whole = words(queries, texts)["input_ids"]
    assert found.ids == expected["input_ids"]
    assert found.types == expected.get("token_type_ids", [])
    assert found.truncated.tolist() == [len(ids) > limit for ids in whole]
    assert found.lengths.tolist() == [min(len(ids), limit) for ids in whole]


@given(query=st.integers(0, 40), document=st.integers(0, 40), room=st.integers(2, 60))
def test_a_query_of_up_to_half_the_room_is_never_cut(query: int, document: int, room: int) -> None:
    kept = longest_first(query, document, room)
    assert sum(kept) == min(query + document, room)
    if query <= room // 2:
        assert kept == (query, min(document, room - query))


def test_a_cut_query_is_told() -> None:
    pairs = PairTokenizer(tokenizer(), 20)
    assert not pairs.pairs(QueryGroup("short", None, ["long " * 50])).query_cut
    assert pairs.pairs(QueryGroup("long " * 50, None, ["long " * 50])).query_cut


def test_each_text_is_tokenised_once() -> None:
    asked: list[str] = []

    class Counting(type(tokenizer())):  # type: ignore[misc]
        def __call__(self, texts: Any, *args: Any, **options: Any) -> Any:
            asked.extend(texts if not args else [])
            return super().__call__(texts, *args, **options)

    words = Counting(tokenizer_object=tokenizer().backend_tokenizer, model_input_names=["input_ids"])
    pairs = PairTokenizer(words, 64)
    asked.clear()
    for query in ("one query", "another query"):
        pairs.pairs(QueryGroup(query, None, ["a text", "a second text", "a text"]))
    assert sorted(asked) == ["a second text", "a text", "another query", "one query"]


def test_what_the_model_reads_can_be_shown() -> None:
    prompt = PairTokenizer(tokenizer(), 11).render("which tool", "a hammer drives nails into wood")
    assert prompt.text == "[CLS] which tool [SEP] [SEP] a hammer drives nails into [SEP]"
    assert prompt.truncated
    assert len(prompt.token_ids) == 11


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(EngineError, match="max_length 5 leaves no room beside 4 special tokens"):
        PairTokenizer(tokenizer(), 5)
    from transformers import CanineTokenizer

    with pytest.raises(EngineError, match="slow tokenizer"):
        PairTokenizer(CanineTokenizer(), 64)
