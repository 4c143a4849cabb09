from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rerank_eval.names import did_you_mean, digest, nearest, slug


def test_nearest_ignores_case_and_gives_up_on_the_unrelated() -> None:
    assert nearest("scifcat", ["SciFact", "NFCorpus"]) == "SciFact"
    assert nearest("zzzz", ["SciFact"]) is None
    assert did_you_mean("zzzz", ["b", "a"]) == "valid: a, b"


@given(st.text())
def test_a_slug_stays_inside_its_folder(text: str) -> None:
    name = slug(text)
    assert name
    assert not name.startswith(".")
    assert len(name) <= 120
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def test_long_names_that_share_a_beginning_stay_apart() -> None:
    assert slug("a" * 200 + "1") != slug("a" * 200 + "2")
    assert slug("Qwen/Qwen3-Reranker-0.6B") == "Qwen__Qwen3-Reranker-0.6B"


def test_a_digest_depends_on_the_value_and_not_on_key_order() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
    assert len(digest("\ud800", 12)) == 12
