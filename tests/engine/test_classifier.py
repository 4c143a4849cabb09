"""Cross-encoders with a classification head: equal to transformers one pair at a time, whatever goes in together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_eval.engine import bidirectional
from rerank_eval.engine.classifier import PairClassifier
from rerank_eval.engine.encoders import Pair
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.memory import is_out_of_memory
from rerank_eval.engine.pair_batches import WINDOW, SortedBatcher
from tests.tiny_classifiers import (
    POSITIONS,
    bert,
    bert_tokenizer,
    gte,
    modernbert,
    tokenizer,
    xlm_roberta,
)

WORDS = ["parse", "the", "header", "of", "a", "message", "and", "return", "its", "fields", "names", "[PAD]"]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=150).map(" ".join)
DOCUMENTS = [
    "",
    "short",
    "a [PAD] written out counts no position",
    *(" ".join(WORDS[: 1 + i % 11] * (1 + i)) for i in range(14)),
    "long " * 900,
]
PLUGIN = Path(__file__).parents[1] / "plugin"
MODELS: dict[str, Callable[[], Any]] = {
    "xlm_roberta": xlm_roberta,
    "bert": bert,
    "gte": gte,
    "modernbert": modernbert,
    "modernbert-mean": lambda: modernbert(classifier_pooling="mean"),
}


@cache
def network(name: str, attention: str, dtype: str = "float32") -> Any:
    model = copy.deepcopy(MODELS[name]()).to(getattr(torch, dtype))
    model.config._attn_implementation = bidirectional.register() if attention == "packed" else attention
    return model.eval()


@cache
def classifier(name: str, attention: str = "packed", dtype: str = "float32", **options: Any) -> PairClassifier:
    words = bert_tokenizer() if name == "bert" else tokenizer()
    return PairClassifier(network(name, attention, dtype), words, max_length=POSITIONS, **options)


def plain(name: str, query: str, documents: Sequence[str], limit: int = POSITIONS) -> np.ndarray:
    """transformers' own forward, one pair at a time."""
    words = bert_tokenizer() if name == "bert" else tokenizer()
    model = network(name, "sdpa")
    with torch.inference_mode():
        encoded = [words([query], [text], truncation=True, max_length=limit, return_tensors="pt") for text in documents]
        return np.array([model(**one).logits.item() for one in encoded])


@pytest.mark.parametrize("name", MODELS)
def test_equal_to_transformers_one_by_one(name: str) -> None:
    expected = plain(name, "decode the header", DOCUMENTS)
    assert np.ptp(expected) > 0.1  # else a constant would pass
    group = QueryGroup("decode the header", None, DOCUMENTS)
    ways = {
        "packed": classifier(name),
        "one by one": classifier(name, "sdpa"),
        "padded": classifier(name, "sdpa", token_budget=700),
        "reference": classifier(name, "sdpa", batch_size=4),
    }
    for way, one in ways.items():
        assert one.way == way
        np.testing.assert_allclose(one.score(group).scores, expected, atol=1e-5, rtol=0)
    by_kernel = classifier(name, kernel="cpu_flash")
    np.testing.assert_allclose(by_kernel.score(group).scores, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", ["cpu_flash", "plain", "blind"])
def test_local_layers_take_a_kernel_that_knows_the_window_and_no_other(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    one = classifier("modernbert", kernel=kernel)
    forward: Any = one._forward
    assert (forward._kernel, forward._local_kernel) == (kernel, "cpu_flash" if kernel == "cpu_flash" else None)
    expected = plain("modernbert", "decode the header", DOCUMENTS)
    scores = one.score(QueryGroup("decode the header", None, DOCUMENTS)).scores
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [1, 3, 17, 18, 127, 128, 129, 131, 300])
@pytest.mark.parametrize("window", [0, 1, 16, 200])
def test_a_window_is_the_softmax_over_the_keys_at_its_distance(length: int, window: int) -> None:
    generator = torch.Generator().manual_seed(length)
    query, key, value = (torch.randn((1, 2, length, 8), generator=generator) for _ in range(3))
    row = bidirectional.PairRow.of([length], None, torch.device("cpu"), window=window)
    found = bidirectional.pair_attention(query, key, value, row, 0.3, window=window)
    expected = torch.zeros(1, length, 2, 8)
    for at in range(length):
        seen = slice(max(0, at - window), at + window + 1)
        weights = (query[0, :, at : at + 1] @ key[0, :, seen].transpose(1, 2) * 0.3).softmax(-1)
        expected[0, at] = (weights @ value[0, :, seen])[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_layer_with_a_window_that_the_row_does_not_say_is_refused() -> None:
    tensors = [torch.randn(1, 2, 5, 8) for _ in range(3)]
    row = bidirectional.PairRow.of([5], None, torch.device("cpu"))
    with pytest.raises(EngineError, match="within a window of 17 tokens, which is not computed packed"):
        bidirectional.pair_attention_forward(torch.nn.Module(), *tensors, None, pair_row=row, sliding_window=17)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), query=TEXTS, documents=st.lists(TEXTS, min_size=1, max_size=10))
def test_the_same_bits_alone_in_any_order_at_any_budget(
    name: str, data: st.DataObject, query: str, documents: list[str]
) -> None:
    whole = classifier(name, token_budget=16_384).score(QueryGroup(query, None, documents)).scores
    order = data.draw(st.permutations(range(len(documents))))
    shuffled = classifier(name, token_budget=300).score(QueryGroup(query, None, [documents[i] for i in order])).scores
    assert shuffled.tobytes() == whole[list(order)].tobytes()
    groups = [QueryGroup(query, None, [text]) for text in documents]
    streamed = [one.scores[0] for one in classifier(name, token_budget=1000).score_groups(groups)]
    assert np.array(streamed).tobytes() == whole.tobytes()
    alone = [classifier(name, token_budget=1).score(group).scores[0] for group in groups]
    assert np.array(alone).tobytes() == whole.tobytes()


def test_the_number_of_threads_changes_nothing() -> None:
    threads = torch.get_num_threads()
    seen = set()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            seen.add(classifier("xlm_roberta").score(QueryGroup("parse", None, DOCUMENTS)).scores.tobytes())
    finally:
        torch.set_num_threads(threads)
    assert len(seen) == 1


@pytest.mark.parametrize(
    "options",
    [{"token_budget": 1}, {"token_budget": 333}, {"attention": "sdpa", "token_budget": 300}, {"attention": "sdpa"}],
    ids=["rows of one", "small rows", "padded", "one by one"],
)
def test_groups_come_back_in_order_and_are_read_as_they_are_needed(options: dict[str, Any]) -> None:
    one = classifier("xlm_roberta", **options)
    read: list[int] = []
    ahead: list[int] = []

    def groups() -> Iterator[QueryGroup]:
        for number in range(60):
            read.append(number)
            yield QueryGroup(f"query {number}", None, DOCUMENTS[number % 5 : number % 5 + number % 4])

    for number, result in enumerate(one.score_groups(groups())):
        ahead.append(len(read) - number)
        start = number % 5
        expected = plain("xlm_roberta", f"query {number}", DOCUMENTS[start : start + number % 4])
        np.testing.assert_allclose(result.scores, expected, atol=1e-5, rtol=0)
    assert len(ahead) == 60
    if options != {"attention": "sdpa", "token_budget": 300}:  # that one gathers a window, longer than this stream
        assert max(ahead) < 40


def test_a_stream_that_was_abandoned_leaves_nothing_behind() -> None:
    one = classifier("xlm_roberta", token_budget=400)
    stream = one.score_groups(QueryGroup(f"query {i}", None, DOCUMENTS[:9]) for i in range(20))
    next(stream)
    stream.close()
    [result] = one.score_groups([QueryGroup("parse", None, DOCUMENTS[:3])])
    np.testing.assert_allclose(result.scores, plain("xlm_roberta", "parse", DOCUMENTS[:3]), atol=1e-5, rtol=0)


def test_cut_pairs_are_counted_to_the_token() -> None:
    model = network("xlm_roberta", "packed")
    limited = PairClassifier(model, tokenizer(), max_length=64)
    long, exact = "word " * 200, "word " * (64 - 4 - 2)
    result = limited.score(QueryGroup("two words", None, ["short", exact, exact + "more", long]))
    assert result.truncated.tolist() == [False, False, True, True]
    assert result.tokens.tolist() == [7, 64, 64, 64]
    expected = plain("xlm_roberta", "two words", ["short", exact, exact + "more", long], limit=64)
    np.testing.assert_allclose(result.scores, expected, atol=1e-5, rtol=0)
    assert (limited.stats.truncated_pairs, limited.stats.prompt_tokens) == (2, 7 + 3 * 64)


def test_work_is_counted() -> None:
    packed = PairClassifier(network("gte", "packed"), tokenizer(), max_length=POSITIONS)
    plain_code = PairClassifier(network("gte", "sdpa"), tokenizer(), max_length=POSITIONS, batch_size=3)
    group = QueryGroup("parse", None, DOCUMENTS)
    lengths = packed.score(group).tokens
    assert packed.stats.computed_tokens == packed.stats.prompt_tokens == lengths.sum()
    assert packed.stats.padding_tokens == 0
    assert (packed.stats.pairs, packed.stats.groups, packed.stats.forwards) == (len(DOCUMENTS), 1, 1)
    plain_code.score(group)
    padded = sum(3 * lengths[start : start + 3].max() for start in range(0, len(lengths), 3))
    assert plain_code.stats.computed_tokens == padded
    assert plain_code.stats.padding_tokens == padded - lengths.sum()
    assert plain_code.settings["way"] == "reference"


@pytest.mark.parametrize("attention", ["packed", "sdpa"])
def test_out_of_memory_halves_the_batch_and_is_remembered(attention: str) -> None:
    model = copy.deepcopy(network("xlm_roberta", attention))
    one = PairClassifier(model, tokenizer(), max_length=POSITIONS, token_budget=4096)

    def exhausted(_module: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        # No machine here has a GPU to exhaust: the real model runs, and its first layer raises what CUDA would.
        if arguments[0].shape[:2].numel() > 600:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.roberta.encoder.layer[0].register_forward_pre_hook(exhausted)
    expected = plain("xlm_roberta", "parse", DOCUMENTS)
    np.testing.assert_allclose(one.score(QueryGroup("parse", None, DOCUMENTS)).scores, expected, atol=1e-5, rtol=0)
    assert one.settings["token_budget"] < 4096
    one.score(QueryGroup("parse", None, DOCUMENTS))
    forwards = one.stats.forwards
    one.score(QueryGroup("parse", None, DOCUMENTS[:-1]))
    assert one.stats.forwards > forwards
    model.roberta.encoder.layer[0].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError) as caught:
        one.score(QueryGroup("parse", None, ["a text"]))
    assert is_out_of_memory(caught.value)


def test_other_runtime_errors_are_not_taken_for_a_lack_of_memory() -> None:
    model = copy.deepcopy(network("xlm_roberta", "packed"))

    def broken(*_: Any) -> None:
        raise RuntimeError("something else")

    model.roberta.encoder.layer[0].register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="something else"):
        PairClassifier(model, tokenizer(), max_length=64).score(QueryGroup("parse", None, ["a", "b"]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", MODELS)
def test_half_precision_is_near_and_does_not_tie(name: str, dtype: str) -> None:
    exact = classifier(name).score(QueryGroup("decode the header", None, DOCUMENTS)).scores
    half = classifier(name, "packed", dtype).score(QueryGroup("decode the header", None, DOCUMENTS)).scores
    np.testing.assert_allclose(half, exact, atol=0.12)
    assert len(set(half.tolist())) == len(set(exact.tolist()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"token_budget": 4096}])
def test_a_logit_that_is_not_finite_is_refused(bad: float, options: dict[str, int]) -> None:
    model = copy.deepcopy(network("xlm_roberta", "sdpa" if "batch_size" in options else "packed"))
    with torch.no_grad():
        model.classifier.out_proj.bias[0] = bad
    with pytest.raises(EngineError, match="2 of 2 logits are NaN or infinite"):
        PairClassifier(model, tokenizer(), max_length=64, **options).score(QueryGroup("parse", None, ["a", "b"]))


def test_sorted_batches_keep_the_budget_and_waste_little() -> None:
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(5, 0.7, 4000), 10, 1000).astype(int)
    pairs = [Pair(i // 20, i % 20, [0] * int(length), []) for i, length in enumerate(lengths)]
    batcher = SortedBatcher(8192)
    batches = [batch for start in range(0, 4000, 20) for batch in batcher.add(pairs[start : start + 20])]
    assert len(batches) > WINDOW  # before the end, so that memory stays bounded
    batches += batcher.flush()
    assert sorted((pair.group, pair.index) for batch in batches for pair in batch) == [
        divmod(i, 20) for i in range(4000)
    ]
    padded = [len(batch) * max(len(pair.ids) for pair in batch) for batch in batches]
    assert max(padded) <= 8192
    assert sum(padded) / lengths.sum() < 1.1
