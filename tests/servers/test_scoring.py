"""Queries side by side, in order, through faults: what a run over HTTP meets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import pytest

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import QueryGroup, Scores
from rerank_eval.errors import ModelError, RerankEvalError, ServerError
from rerank_eval.models.sections import resolve_section
from rerank_eval.rerankers.cross_encoder import score_groups
from rerank_eval.rerankers.loading import load_reranking_engine, prepare_reranker
from rerank_eval.servers import client
from rerank_eval.servers.scoring import ServerEngine
from tests.servers.stand_in import StandIn, overlap, sigmoid


@pytest.fixture(autouse=True)
def _waits_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF", 0.01)


def groups(count: int = 12, documents: int = 5) -> list[QueryGroup]:
    return [
        QueryGroup(
            f"tool number {query}",
            None,
            [f"tool {query + one} number {one} {'saw ' * one}" for one in range(documents)],
        )
        for query in range(count)
    ]


def expected(asked: list[QueryGroup]) -> list[list[float]]:
    return [[overlap(group.query, text) for text in group.documents] for group in asked]


def engine_of(server: StandIn, **settings: Any) -> ServerEngine:
    config = RerankerConfig(model=server.url, **settings)
    ref = resolve_section(config, "reranker")
    engine = load_reranking_engine(config, ref, "cpu", prepare_reranker(config, ref).prompting)
    assert isinstance(engine, ServerEngine)
    server.requests.clear()
    server.headers.clear()
    server.connections = server.most_at_once = 0
    return engine


def scored(engine: ServerEngine, asked: list[QueryGroup]) -> list[list[float]]:
    return [found.scores.tolist() for found in engine.score_groups(asked)]


def test_queries_go_out_side_by_side_and_come_back_in_order() -> None:
    with StandIn("vllm", delay=0.05) as server:
        engine = engine_of(server, concurrency=4)
        started = time.perf_counter()
        assert scored(engine, groups()) == expected(groups())
        elapsed = time.perf_counter() - started
        assert server.most_at_once == 4
        assert server.connections <= 4  # kept alive
        assert elapsed >= 0.15
    assert engine.stats.pairs == 60
    assert len(engine.latencies) == 12
    assert min(engine.latencies) >= 0.05
    assert {name.lower() for headers in server.headers for name in headers}.isdisjoint({"authorization", "cookie"})


def test_a_query_without_documents_asks_nothing() -> None:
    with StandIn("vllm") as server:
        engine = engine_of(server)
        found = list(engine.score_groups([QueryGroup("x", None, []), *groups(1), QueryGroup("y", None, [])]))
    assert [len(one) for one in found] == [0, 5, 0]
    assert len(server.requests) == 1
    assert len(engine.latencies) == 1


@pytest.mark.parametrize("fault", [{"drop_every": 3}, {"busy_first": 5}, {"busy_first": 2, "retry_after": "0.05"}])
def test_what_fails_once_is_asked_again(fault: dict[str, Any]) -> None:
    with StandIn("vllm") as server:
        engine = engine_of(server, concurrency=3)
        server._seen = 0
        for name, value in fault.items():
            setattr(server, name, value)
        assert scored(engine, groups()) == expected(groups())
    assert engine.stats.retries >= 2
    assert len(server.requests) == 12  # nothing was scored twice


def test_a_server_that_asks_to_wait_is_waited_for() -> None:
    with StandIn("vllm") as server:
        engine = engine_of(server, concurrency=1)
        server._seen, server.busy_first, server.retry_after = 0, 1, "0.5"
        started = time.perf_counter()
        scored(engine, groups(1))
        assert time.perf_counter() - started >= 0.5


@pytest.mark.parametrize(("fault", "status"), [("fail_on", "500"), ("refuse_on", "400")])
def test_a_query_that_always_fails_is_named(fault: str, status: str) -> None:
    with StandIn("vllm") as server:
        engine = engine_of(server, concurrency=3)
        setattr(server, fault, "number 7")
        found = []
        with pytest.raises(ModelError, match=rf"query 'tool number \d+': .*answered {status}"):
            for one in score_groups(engine, groups(documents=1)):
                found.append(one.scores.tolist())
    assert found == expected(groups(documents=1))[: len(found)]


def test_what_came_back_behind_a_failed_query_is_not_lost() -> None:
    with StandIn("vllm") as server:
        engine = engine_of(server, concurrency=4)
        server.refuse_on = '"query": "tool number 3"'
        found: list[Scores] = []
        with pytest.raises(EngineError, match="is refused"):
            for one in engine.score_groups(groups(8)):
                found.append(one)
                time.sleep(0.3 if len(found) == 3 else 0)  # those behind the one that fails come back meanwhile
    assert len(found) == 3
    assert engine.unclaimed
    for group, one in engine.unclaimed:
        assert group in groups(8)[4:]
        assert one.scores.tolist() == expected([group])[0]


def test_a_server_that_is_gone_is_named_with_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TRIES", 3)
    with StandIn("vllm") as server:
        engine = engine_of(server)
    with pytest.raises(ServerError, match=r"cannot be reached .* \(at query 'tool number 0'\)"):
        scored(engine, groups())


def test_a_server_that_comes_back_is_waited_for() -> None:
    server = StandIn("vllm")
    with server:
        engine = engine_of(server)
    back = StandIn("vllm", port=server.port)

    def start() -> None:
        time.sleep(0.7)
        back.__enter__()

    starting = threading.Thread(target=start)
    starting.start()
    assert scored(engine, groups()) == expected(groups())
    starting.join()
    back.__exit__()
    assert engine.stats.retries > 0


def test_a_slow_server_is_told_apart_from_a_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TRIES", 2)
    with StandIn("vllm") as server:
        engine = engine_of(server, timeout=0.2)
        server.delay = 1.0
        with pytest.raises(ServerError, match=r"did not answer within 0.2 s; raise reranker.timeout"):
            scored(engine, groups(1))


def test_a_redirect_is_not_followed() -> None:
    with StandIn("vllm") as other, StandIn("vllm") as server:
        engine = engine_of(server)
        server.redirect = f"{other.url}/rerank"
        with pytest.raises(ServerError, match="redirects to"):
            scored(engine, groups(1))
        assert other.requests == []


def test_an_answer_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LARGEST_ANSWER", 2**20)
    with StandIn("vllm") as server:
        engine = engine_of(server)
        server.change = lambda answer: answer | {"padding": "x" * 2**21}
        with pytest.raises(EngineError, match="more than 1 MiB"):
            scored(engine, groups(1))


def test_what_is_no_json_is_refused() -> None:
    with StandIn("vllm") as server:
        engine = engine_of(server)
        server.change = lambda _: b"<html>gateway</html>"
        with pytest.raises(EngineError, match="answered no JSON but '<html>gateway</html>'"):
            scored(engine, groups(1))


@pytest.mark.parametrize(
    "answer",
    [
        b"[" * 200_000,
        b'{"results":[{"index":0,"relevance_score":1' + b"0" * 400 + b"}]}",
        b'{"results":[{"index":1' + b"0" * 400 + b',"relevance_score":1}]}',
        b'{"results":[{"index":[0],"relevance_score":1}]}',
        b'{"results":{"error":"who is Bearer sk-hunter2?"}}',
        b'{"error":"who is Bearer sk-hunter2?"}',
    ],
)
def test_an_answer_that_is_none_is_refused_in_one_line(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_TEST_KEY", "sk-hunter2")
    with StandIn("vllm") as server:
        engine = engine_of(server, key="$RERANK_TEST_KEY")
        server.change = lambda _: answer
        with pytest.raises(EngineError, match=r"reranker.model: http.*/rerank") as error:
            scored(engine, groups(1, 1))
        assert "hunter2" not in str(error.value)
        with pytest.raises(ModelError, match=r"reranker\.model"):
            engine.known_scores()


def test_a_server_that_refuses_known_pairs_is_named() -> None:
    with StandIn("vllm", refuse_on="e") as server, pytest.raises(ModelError, match=r"answered 400.*is refused"):
        engine_of(server)


class _Raw:
    """Answers every request with the same bytes, the last of which come one by one."""

    def __init__(self, answer: bytes, slowly: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._answer, self._slowly = answer, slowly
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(65_536)
                at_once = len(self._answer) - self._slowly
                connection.sendall(self._answer[:at_once])
                for place in range(at_once, len(self._answer)):
                    time.sleep(0.1)
                    connection.sendall(self._answer[place : place + 1])


HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        HEAD + b"\r\n" + b"[" * 200_000,
        HEAD + b'\r\n{"data": 5}',
        HEAD + b'\r\n{"data": [{"id": ["x"], "owned_by": "vllm"}]}',
        HEAD + b'\r\n{"data": [{"id": "\\ud800", "owned_by": "vllm"}]}',
        HEAD + b"Content-Length: 500\r\n\r\n{}",
    ],
)
def test_a_server_that_says_nonsense_of_itself_is_one_line(answer: bytes) -> None:
    with pytest.raises(RerankEvalError, match=r"reranker\.\w+: http"):
        resolve_section(RerankerConfig(model=_Raw(answer).url), "reranker")


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for() -> None:
    server = _Raw(HEAD + b'Content-Length: 60\r\n\r\n{"data": []}' + b" " * 48, slowly=48)
    started = time.perf_counter()
    with pytest.raises(ServerError, match=r"did not answer within 0.5 s"):
        resolve_section(RerankerConfig(model=server.url, timeout=0.5), "reranker")
    assert time.perf_counter() - started < 4


def test_lone_surrogates_are_sent_as_the_engine_reads_them() -> None:
    with StandIn("vllm") as server:
        engine = engine_of(server)
        scored(engine, [QueryGroup("a \ud800 b", None, ["\udfff"])])
        [(_, body)] = server.requests
    assert (body["query"], body["documents"]) == ("a \ufffd b", ["\ufffd"])


def test_an_interrupted_stream_leaves_nothing_running() -> None:
    with StandIn("vllm", delay=0.02) as server:
        engine = engine_of(server, concurrency=2)
        stream = engine.score_groups(groups(40))
        next(stream)
        stream.close()
        time.sleep(0.1)
        asked = len(server.requests)
        time.sleep(0.2)
        assert len(server.requests) == asked < 12
        assert scored(engine, groups(2)) == expected(groups(2))  # and the engine goes on being of use


@pytest.mark.parametrize("order", ["given", "reversed", "shuffled"])
def test_a_listwise_model_gets_whole_lists_in_the_order_that_is_asked_for(order: str) -> None:
    with StandIn("jina", name="jina-reranker-v3") as server:
        engine = engine_of(server, listwise={"order": order})
        assert engine.listwise
        [group] = groups(1)
        [found] = engine.score_groups([group])
        sent = server.requests[0][1]["documents"]
    assert sorted(sent) == sorted(group.documents)
    assert (sent == list(group.documents)) is (order == "given")
    assert (sent == list(reversed(group.documents))) is (order == "reversed")
    assert found.scores.tolist() == pytest.approx([sigmoid(one) for one in expected([group])[0]])
