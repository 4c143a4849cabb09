"""A reranking server as an engine: queries go out side by side, scores come back in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
from anyio.from_thread import BlockingPortal, start_blocking_portal

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import EngineStats, QueryGroup, RenderedPrompt, Scores, SpecialTokenFinder
from rerank_eval.engine.listwise import Order, arranged
from rerank_eval.engine.recipe import Recipe
from rerank_eval.errors import ModelError, ServerError
from rerank_eval.servers.client import Address, Connection, in_thread, waited_for
from rerank_eval.servers.fitting import Fitted, Fitter
from rerank_eval.servers.protocol import OTHER_MODEL, Answer, Api, Asked, moved

CONCURRENCY = 16
KNOWN = QueryGroup(
    "What is the capital of China?",
    None,
    [
        "The capital of China is Beijing.",
        "Beijing became the capital under the Yuan dynasty, and again under the Ming.",
        "Bread is baked from flour, water, salt and yeast.",
    ],
)
"""Texts that tell one model, template or set of weights from another by their scores."""
KNOWN_INSTRUCTED = replace(KNOWN, instruction="Given a text of any kind, find what contradicts it")
"""A template may differ in what it makes of an instruction alone."""
_SHOWN = 60


@dataclass(frozen=True)
class Service:
    """What one asks a server for, the same for all queries.

    Attributes:
        address: The server.
        api: Its protocol.
        model: The name under which it has the model.
        raw: Whether to ask for scores before the last activation.
        recipe: Renders the prompts here; None lets the server do so.
        request_size: Texts in one request, or None for all of a query's.
        prefix: What stands before the path of every endpoint.
    """

    address: Address
    api: Api
    model: str
    raw: bool
    recipe: Recipe | None = None
    request_size: int | None = None
    prefix: str = ""

    @property
    def reads_instructions(self) -> bool:
        """Whether an instruction can change a prompt."""
        return self.api.instructed or self.recipe is not None

    def texts(self, group: QueryGroup) -> tuple[str, Sequence[str]]:
        """Return what goes out for query and documents: whole prompts behind an empty query if rendered here."""
        if self.recipe is None:
            behind = f" {group.instruction}" if group.instruction and not self.api.instructed else ""
            return group.query + behind, group.documents
        return "", [self.recipe.prompt(group.query, document, group.instruction) for document in group.documents]

    async def score(self, connection: Connection, group: QueryGroup) -> tuple[Answer, int]:
        """Have a group scored, in as many requests as it takes.

        Returns:
            The scores; and how many requests had broken when the last of these was sent: by then the server may have
            been started anew.

        Raises:
            EngineError: The server refuses a request, or its answer is not what it should be.
            ServerError: It does not answer.
        """
        query, documents = self.texts(group)
        size = self.request_size or len(documents) or 1
        scores: list[float] = []
        tokens: int | None = 0
        broken = 0
        for start in range(0, len(documents), size):
            part = documents[start : start + size]
            instruction = group.instruction if self.api.instructed and self.recipe is None else None
            path, body = self.api.request(Asked(self.model, query, part, instruction, self.raw))
            path = self.prefix + path
            found, broken = await connection.post(path, body)
            answer = connection.read(path, partial(self.api.answer, found, len(part)))
            scores += answer.scores
            tokens = None if tokens is None or answer.tokens is None else tokens + answer.tokens
        return Answer(scores, tokens), broken

    def score_now(self, group: QueryGroup, tries: int | None = None) -> Answer:
        """Have one group scored, and wait for it.

        Raises:
            ModelError: The server refuses it, or its answer is not what it should be.
            ServerError: It does not answer.
        """

        async def work() -> Answer:
            async with Connection(self.address, tries) as connection:
                answer, _ = await self.score(connection, group)
                return answer

        try:
            return in_thread(work)
        except EngineError as error:
            raise ModelError(str(error)) from error


class _NoSpecialTokens:
    """Of a tokenizer that is not known."""

    def found(self, text: str) -> tuple[str, ...]:
        """See `SpecialTokenFinder.found`."""
        return ()


@dataclass(frozen=True)
class _Done:
    answer: Answer
    fitted: Fitted
    places: list[int]
    seconds: float
    broken: int


class ServerEngine:
    """A server's reranker as an engine.

    Args:
        service: What it is asked for.
        fitter: Counts prompts and cuts texts.
        concurrency: Queries under way at a time.
        order: For a model that reads a query's documents together, the order in which they are sent; else None.

    Attributes:
        causal, settings, special_tokens, stats: See `Engine`.
        listwise: See `reads_lists`.
        unclaimed: After an error or an interruption, the groups whose scores had come back behind the query that was
            waited for, and those scores.
        latencies: Seconds that each query took, from its first request to its last answer.
    """

    def __init__(self, service: Service, fitter: Fitter, concurrency: int, order: Order | None = None) -> None:
        self.causal = False
        self.listwise = order is not None
        self.settings: Mapping[str, str | int] = {"concurrency": concurrency}
        self.special_tokens: SpecialTokenFinder = fitter.special_tokens or _NoSpecialTokens()
        self.stats = EngineStats()
        self.unclaimed: list[tuple[QueryGroup, Scores]] = []
        self.latencies: list[float] = []
        self._service, self._fitter, self._concurrency = service, fitter, concurrency
        self._order: Order = order or "given"
        self._known: list[float] = []

    def known_scores(self) -> list[float]:
        """Return the scores of known pairs, by which another model or template behind the same name is found out."""
        instructed = [KNOWN_INSTRUCTED] if self._service.reads_instructions else []
        found = [score for group in (KNOWN, *instructed) for score in self._service.score_now(group).scores]
        self._known = self._known or found
        return found

    def _check_same_model(self) -> None:
        """Refuse a server that was started anew in mid-run with another model, template or activation."""
        if self._known and (share := moved(self._known, self.known_scores())) > OTHER_MODEL:
            raise ModelError(
                f"{self._service.address.where}.model: {self._service.address.url} was started anew and scores known "
                f"pairs otherwise, by up to {share:.2g} of their range: it has another model, template or activation; "
                "nothing that it scored since is kept"
            )

    def score(self, group: QueryGroup) -> Scores:
        """See `Engine.score`."""
        return next(self.score_groups([group]))

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[Scores]:
        """See `Engine.score_groups`.

        Raises:
            EngineError: The server refuses a request, or its answer is not what it should be.
            ModelError: It was started anew with another model.
            ServerError: It does not answer; names the query.
        """
        self.unclaimed = []
        waiting: deque[tuple[QueryGroup, Future[_Done]]] = deque()
        source = iter(groups)
        opened = Connection(self._service.address, concurrency=self._concurrency)
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(opened) as connection:
            started, looked = time.perf_counter(), 0
            try:
                while True:
                    for group in islice(source, max(0, 2 * self._concurrency - len(waiting))):
                        waiting.append((group, self._start(portal, connection, group)))
                    if not waiting:
                        return
                    group, future = waiting[0]
                    done = _result(group, future)
                    if done.broken > looked:
                        self._check_same_model()
                        looked = done.broken
                    scores = self._scores(done)
                    waiting.popleft()
                    self.stats += EngineStats(seconds=time.perf_counter() - started)
                    yield scores
                    started = time.perf_counter()  # what the caller does in between is not scoring
            finally:
                self.stats += EngineStats(retries=connection.retries)
                for group, future in waiting:
                    if (kept := self._finished(future, looked)) is not None:
                        self.unclaimed.append((group, kept))

    def _start(self, portal: BlockingPortal, connection: Connection, group: QueryGroup) -> Future[_Done]:
        ordered, places = arranged(group, self._order)
        return portal.start_task_soon(self._work, connection, self._fitter.fit(ordered), places)

    async def _work(self, connection: Connection, fitted: Fitted, places: list[int]) -> _Done:
        async with connection.turn:
            started = time.perf_counter()
            answer, broken = await self._service.score(connection, fitted.group)
            return _Done(answer, fitted, places, time.perf_counter() - started, broken)

    def _scores(self, done: _Done) -> Scores:
        fitted, values = done.fitted, np.array(done.answer.scores, dtype=np.float64)
        sent = Scores(values, values.copy(), fitted.truncated, np.full(len(values), fitted.overlong), fitted.tokens)
        scores = sent.take(np.argsort(done.places))
        if len(values):
            self.latencies.append(done.seconds)
        self.stats += EngineStats(
            pairs=len(values),
            groups=1,
            prompt_tokens=int(fitted.tokens.sum()),
            truncated_pairs=int(fitted.truncated.sum()),
            overlong_queries=int(fitted.overlong),
            served_tokens=done.answer.tokens or 0,
        )
        return scores

    def _finished(self, future: Future[_Done], looked: int) -> Scores | None:
        """Return scores that had come back, by a server that is known to be the same."""
        future.cancel()
        if not future.done() or future.cancelled() or future.exception() is not None:
            return None
        done = future.result()
        return None if done.broken > looked else self._scores(done)

    def sent(self, group: QueryGroup) -> QueryGroup:
        """Return a group's texts as they go out: a document that would not fit is cut."""
        return self._fitter.fit(group).group

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """See `Engine.render`; the server's own template is not known, so there are no tokens."""
        fitted = self._fitter.fit(QueryGroup(query, instruction, [document]))
        first, [second] = self._service.texts(fitted.group)
        text = first + second if self._service.recipe is not None else f"{first}\n{second}"
        return RenderedPrompt(text, (), bool(fitted.truncated[0]))


def _result(group: QueryGroup, future: Future[_Done]) -> _Done:
    try:
        return waited_for(future)
    except ServerError as error:
        raise ServerError(f"{error} (at query {group.query[:_SHOWN]!r})") from error
