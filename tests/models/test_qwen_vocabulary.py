"""The tokenizer built from dashscope's ranks, against golden ids."""

from __future__ import annotations

import base64
import importlib.util
from types import SimpleNamespace

import pytest
from transformers.convert_slow_tokenizer import bytes_to_unicode

from rerank_eval.engine.prompts import PromptTokenizer
from rerank_eval.engine.recipes import RECIPES
from rerank_eval.errors import ModelError
from rerank_eval.models import qwen_vocabulary
from rerank_eval.models.qwen_vocabulary import (
    ADDED_TOKENS,
    CHAT_TEMPLATE,
    VOCABULARY_SIZE,
    build_qwen_tokenizer,
    last_merge,
    ranks_path,
    read_ranks,
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_qwen_tokenizer()


def test_golden_ids(tokenizer):
    words = ["yes", "no", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "<think>", "</think>"]
    assert tokenizer.convert_tokens_to_ids(words) == [9693, 2152, 151643, 151644, 151645, 151657, 151667, 151668]
    assert (len(ADDED_TOKENS), VOCABULARY_SIZE, len(tokenizer)) == (26, 151_669, 151_669)
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert tokenizer.encode(suffix) == [151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.padding_side) == (151643, 151645, "left")


JUDGE = (
    "151644 8948 198 60256 3425 279 11789 20027 279 8502 3118 389 279 11361 323 279 758 1235 3897 13 7036 429 "
    "279 4226 646 1172 387 330 9693 1 476 330 2152 3263 151645 198 151644 872 198"
)
ANSWER = "151645 198 151644 77091 198 151667 271 151668 271"
GOLDEN = {
    "card": (
        "27 641 1235 26818 16246 264 3482 2711 3239 11 17179 9760 46769 429 4226 279 3239 198 27 2859 26818 3555 "
        "374 279 6722 315 5616 5267 75692 26818 1084 374 26549 13"
    ),
    "mteb": (
        "27 641 1235 26818 16246 279 1196 3239 11 56370 279 9760 46769 198 27 2859 26818 3555 374 279 6722 315 "
        "5616 5267 75692 26818 1084 374 26549 13"
    ),
    "qwen_eval": (
        "27 641 1235 26818 16246 279 1196 3239 11 56370 279 9760 46769 271 27 2859 26818 3555 374 279 6722 315 "
        "5616 1939 75692 26818 1084 374 26549 13 151645 198"
    ),
}


@pytest.mark.parametrize("name", ["card", "mteb", "qwen_eval"])
def test_golden_prompts(tokenizer, name):
    recipe = RECIPES[name]
    maker = PromptTokenizer(tokenizer, recipe, 8192)
    prompt = maker.render("What is the capital of China?", "It is Beijing.", recipe.default_instruction)
    assert " ".join(map(str, prompt.token_ids)) == f"{JUDGE} {GOLDEN[name]} {ANSWER}"


def test_every_byte_and_every_script_comes_back(tokenizer):
    text = "".join(map(chr, range(256))) + " 你好 نعم हिन्दी 🎉 don't\r\n\r\n  tail "
    assert tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text


def test_text_is_normalised_to_nfc(tokenizer):
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


def test_every_rank_is_the_id_of_its_token(tokenizer):
    ranks = read_ranks(ranks_path())
    alphabet = bytes_to_unicode()
    vocabulary = tokenizer.get_vocab()
    assert all(vocabulary["".join(alphabet[byte] for byte in token)] == rank for token, rank in ranks.items())


def test_the_chat_template_renders_turns(tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi\n"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert rendered == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi\n<|im_end|>\n"
    answered = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert answered == rendered + "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_the_last_merge_is_that_of_the_bpe():
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4, b"abc": 5}
    assert last_merge(b"abc", ranks) == (b"a", b"bc")
    assert last_merge(b"ab", ranks) == (b"a", b"b")
    with pytest.raises(ModelError, match="token 1 of the Qwen vocabulary is no merge"):
        last_merge(b"xyz", {b"xyz": 1})


def test_without_dashscope(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"dashscope.*is not installed: pip install 'rerank-eval\[offline\]'"):
        ranks_path()
    empty = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: empty)
    with pytest.raises(ModelError, match=r"does not carry resources/qwen\.tiktoken"):
        ranks_path()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a rank file\n", "not a tiktoken file"), (base64.b64encode(b"a") + b" 0\n", "1 entries, expected")],
)
def test_a_damaged_file(tmp_path, content, message):
    path = tmp_path / "qwen.tiktoken"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_ranks(path)


def test_reading_does_not_import_dashscope():
    import sys

    assert qwen_vocabulary.ranks_path().name == "qwen.tiktoken"
    assert "dashscope" not in sys.modules
