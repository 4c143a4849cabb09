"""Second stage: rerankers as mteb cross-encoders.

`CrossEncoder` implements mteb's `CrossEncoderProtocol` and knows nothing of the pipeline, so that it works in a plain
`mteb.evaluate(reranker, task.convert_to_reranking(folder, top_k=100))`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from mteb.models.model_meta import ModelMeta

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import (
    BoolArray,
    Engine,
    QueryGroup,
    Scores,
    latencies_of,
    reads_lists,
    unclaimed_of,
)
from rerank_eval.engine.memory import is_out_of_memory
from rerank_eval.errors import DeviceError, ModelError
from rerank_eval.rerankers.instructions import InstructionPolicy
from rerank_eval.rerankers.special_token_counts import SpecialTokenCounts
from rerank_eval.rerankers.work import work_of
from rerank_eval.results.recorder import CellScores, Floats, Recorder, check_finite
from rerank_eval.store.cache import ScoreCache
from rerank_eval.store.cell import ScoreCacheCell
from rerank_eval.store.shards import PairDigests, ScoredQuery


def score_groups(engine: Engine, groups: Iterable[QueryGroup]) -> Generator[Scores, None, None]:
    """Score a stream of queries with their candidates; it may be read ahead of what comes out.

    Yields:
        Each group's scores, in the order of the groups and of their documents.

    Raises:
        ModelError: A score is NaN or infinite; names the query.
        DeviceError: Memory does not suffice for one pair.
    """
    waiting: deque[str] = deque()

    def noted() -> Iterator[QueryGroup]:
        for group in groups:
            waiting.append(group.query)
            yield group

    try:
        for scores in engine.score_groups(noted()):
            waiting.popleft()
            yield scores
    except EngineError as error:
        raise ModelError(f"query {waiting[0][:60]!r}: {error}") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if reads_lists(engine):
            raise DeviceError("out of memory, with one list at a time; lower retriever.top_k") from error
        how = "document at a time in the packed engine" if engine.causal else "pair at a time"
        raise DeviceError(
            f"out of memory, with one {how}; lower reranker.max_length, or reranker.batch_size in the reference engine"
        ) from error


@dataclass
class Counts:
    """What a reranker scored, whether now or in an earlier run.

    Attributes:
        queries: Queries.
        pairs: Pairs.
        tokens: Prompt tokens of all pairs.
        truncated: Pairs whose prompt was cut.
        overlong: Queries that alone filled the prompt.
        stored: Pairs that the score cache had.
        instructions: How many queries were scored with which instruction, and where it came from; None means no
            instruction at all.
    """

    queries: int = 0
    pairs: int = 0
    tokens: int = 0
    truncated: int = 0
    overlong: int = 0
    stored: int = 0
    instructions: Counter[tuple[str, str | None]] = field(default_factory=Counter)

    def add(self, reranked: Reranked) -> None:
        """Count a query."""
        scores = reranked.scores
        self.queries += 1
        self.pairs += len(scores)
        self.tokens += int(scores.tokens.sum())
        self.truncated += int(scores.truncated.sum())
        self.overlong += int(scores.query_overlong)
        self.stored += reranked.stored


@dataclass(frozen=True)
class Candidates:
    """One query with its candidates, as mteb gives them.

    Attributes:
        query_id: The query's id.
        query: Its text, without an instruction.
        own_instruction: The instruction that the data gives for it, or None.
        document_ids: The candidates' ids.
        documents: Their texts.
    """

    query_id: str
    query: str
    own_instruction: str | None
    document_ids: list[str]
    documents: list[str]


@dataclass(frozen=True)
class Reranked:
    """A query with its scores.

    Attributes:
        query_id: The query's id.
        document_ids: Its candidates.
        scores: What the model says of them.
        stored: How many of them the score cache had.
        fresh_tokens: Prompt tokens of the others.
    """

    query_id: str
    document_ids: list[str]
    scores: Scores
    stored: int = 0
    fresh_tokens: int = 0


class CrossEncoder:
    """A reranker that mteb can evaluate.

    Args:
        engine: The loaded model.
        meta: Identity under which mteb files results.
        policy: Chooses each query's instruction.
        advance: Told after each query how many pairs are done, how many tokens that took, and how many of the pairs
            were stored.
        cache: Where scores are kept between runs; None keeps nothing.
        config: The settings that it was loaded with, or None.
        device: The device that it was loaded to.

    Attributes:
        recorder: Scores of each cell.
        counts: Pairs, tokens, cut prompts and instructions.
        special_tokens: Texts with special tokens.
    """

    def __init__(
        self,
        engine: Engine,
        meta: ModelMeta,
        policy: InstructionPolicy,
        *,
        advance: Callable[[int, int, int], None] | None = None,
        cache: ScoreCache | None = None,
        config: RerankerConfig | None = None,
        device: str = "auto",
    ) -> None:
        self.engine = engine
        self.mteb_model_meta = meta
        self.policy = policy
        self.advance = advance
        self.cache = cache
        self.config = config
        self.device = device
        self.recorder = Recorder()
        self.counts = Counts()
        self.special_tokens = SpecialTokenCounts()
        self._before, self._answered = engine.stats, len(latencies_of(engine))

    @property
    def work(self) -> dict[str, float]:
        """What the engine has computed since this reranker was made, see `work_of`."""
        return work_of(self.engine, self.engine.stats - self._before, latencies_of(self.engine)[self._answered :])

    def score(self, query: str, documents: Sequence[str], instruction: str | None = None) -> Floats:
        """Score documents for one query, without mteb.

        Args:
            query: The query.
            documents: The documents.
            instruction: The instruction; None takes what the settings say for a query outside any task.

        Returns:
            float64, shape (documents,); higher is better.

        Raises:
            ModelError: A score is NaN or infinite.
        """
        if not documents:
            return np.zeros(0)
        chosen = self.policy.choose(None, None)[1] if instruction is None else instruction
        [scored] = score_groups(self.engine, [QueryGroup(query, chosen, list(documents))])
        check_finite(self.mteb_model_meta.name or "reranker", query, documents, scored.scores)
        return scored.scores

    def predict(
        self,
        inputs1: Any,
        inputs2: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **encode_kwargs: Any,
    ) -> Floats:
        """Score pairs; the pairs of a query come one after the other, as mteb gives them.

        Args:
            inputs1: Batches of queries: `query` and `instruction` apart where mteb gives them, else `text`.
            inputs2: Batches of documents: `text`.
            task_metadata: mteb's metadata of the task; the source of its instruction.
            hf_split: Name of the split.
            hf_subset: Name of the subset.
            prompt_type: Unused, part of mteb's protocol.
            **encode_kwargs: Unused, part of mteb's protocol.

        Returns:
            float64, shape (pairs,), in the order given.

        Raises:
            ModelError: A score is NaN or infinite; names the query and the document.
        """
        queries = _groups(inputs1, inputs2)
        parts = [reranked.scores.scores for reranked in self.answer(queries, task_metadata, hf_subset, hf_split)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def answer(
        self, queries: Iterable[Candidates], task_metadata: Any, hf_subset: str, hf_split: str
    ) -> Iterator[Reranked]:
        """Score a cell query by query, and record it when the last one is done.

        Yields:
            Each query's scores, in order.

        Raises:
            ModelError: A score is NaN or infinite; names the query and the document.
        """
        cell = CellScores()
        opened: AbstractContextManager[ScoreCacheCell | None] = nullcontext()
        if self.cache is not None:
            opened = self.cache.cell(getattr(task_metadata, "name", "") or "task", hf_subset, hf_split)
        with opened as cached:
            for reranked in self._answer(queries, task_metadata, cached):
                cell.add(reranked.query_id, reranked.document_ids, reranked.scores.scores)
                self.counts.add(reranked)
                if self.advance is not None:
                    self.advance(len(reranked.document_ids), reranked.fresh_tokens, reranked.stored)
                yield reranked
        self.recorder.cells[hf_subset, hf_split] = cell

    def _answer(
        self, queries: Iterable[Candidates], task_metadata: Any, cell: ScoreCacheCell | None
    ) -> Iterator[Reranked]:
        """Let the model score what is not known. Known queries wait without their texts for those before them."""
        read: deque[Reranked | _Asked] = deque()
        listwise = reads_lists(self.engine)

        def unknown() -> Iterator[QueryGroup]:
            for candidates in queries:
                origin, instruction = self.policy.choose(candidates.own_instruction, task_metadata)
                self.counts.instructions[origin, instruction] += 1
                query = self.policy.query_text(candidates.query, candidates.own_instruction)
                group = QueryGroup(query, instruction, candidates.documents)
                self.special_tokens.look(group, self.engine.special_tokens)
                asked = _Asked(candidates, group)
                if cell is not None:
                    digests = PairDigests.of_list(group) if listwise else PairDigests.of(group)
                    found, known = cell.find(*digests)
                    if listwise and not found.all():
                        found[:] = False  # a part of a list has no scores
                    if found.all():
                        read.append(Reranked(candidates.query_id, candidates.document_ids, known, len(found)))
                        continue
                    asked = _Asked(candidates, group, digests, found, known)
                read.append(asked)
                yield asked.missing

        def known_first() -> Iterator[Reranked]:
            while read and isinstance(first := read[0], Reranked):
                read.popleft()
                yield first

        try:
            with closing(score_groups(self.engine, unknown())) as results:
                for result in results:
                    known = list(known_first())
                    asked = read.popleft()
                    assert isinstance(asked, _Asked)  # noqa: S101 - what is known was taken out before
                    scores, fresh = self._taken_in(asked, result, cell)  # before a reader can end here
                    yield from known
                    query = asked.candidates
                    stored = len(scores) - fresh
                    yield Reranked(query.query_id, query.document_ids, scores, stored, int(result.tokens.sum()))
        finally:
            if cell is not None:
                self._keep_unclaimed(read, cell)
        yield from known_first()

    def _taken_in(self, asked: _Asked, result: Scores, cell: ScoreCacheCell | None) -> tuple[Scores, int]:
        """Put what the model says beside what was known, and keep it; return all scores, and how many are fresh."""
        scores, fresh = asked.joined(result)
        query, rows = asked.candidates, np.flatnonzero(fresh).tolist()
        # mteb would accept NaN and infinities in silence.
        check_finite(self.mteb_model_meta.name or "reranker", query.query_id, query.document_ids, scores.scores)
        if cell is not None and asked.digests is not None:
            ids = [query.document_ids[row] for row in rows]
            documents = [asked.digests.documents[row] for row in rows]
            cell.add(ScoredQuery(query.query_id, ids, asked.digests.query, documents, scores.take(rows)))
        return scores, len(rows)

    def _keep_unclaimed(self, read: deque[Reranked | _Asked], cell: ScoreCacheCell) -> None:
        """Keep what a server had answered already behind a query that failed or was interrupted."""
        under_way = {id(one.missing): one for one in read if isinstance(one, _Asked)}
        for group, result in unclaimed_of(self.engine):  # by the object: an interruption comes between any two steps
            if (asked := under_way.get(id(group))) is not None:
                self._taken_in(asked, result, cell)


@dataclass(frozen=True)
class _Asked:
    """A query that the model is asked about, with what is known of some of its documents."""

    candidates: Candidates
    group: QueryGroup
    digests: PairDigests | None = None
    found: BoolArray | None = None
    known: Scores | None = None

    @cached_property
    def missing(self) -> QueryGroup:
        if self.found is None or not self.found.any():
            return self.group
        texts = [text for text, found in zip(self.group.documents, self.found, strict=True) if not found]
        return QueryGroup(self.group.query, self.group.instruction, texts)

    def joined(self, result: Scores) -> tuple[Scores, BoolArray]:
        """Return the scores of all documents, and which of them are fresh."""
        if self.found is None or self.known is None or not self.found.any():
            return result, np.ones(len(result), dtype=bool)
        fresh = ~self.found
        self.known.put(fresh, result)
        self.known.overlong[:] = result.query_overlong  # the query's: the latest reading counts
        return self.known, fresh


def _groups(inputs1: Any, inputs2: Any) -> Iterator[Candidates]:
    """Join two streams of batches into one group a query; batch borders fall anywhere."""
    current: Candidates | None = None
    for (query_id, query, instruction), (document_id, document) in zip(
        _queries(inputs1), _documents(inputs2), strict=True
    ):
        same = current is not None and (current.query_id, current.query, current.own_instruction) == (
            query_id,
            query,
            instruction,
        )
        if current is None or not same:
            if current is not None:
                yield current
            current = Candidates(query_id, query, instruction, [], [])
        current.document_ids.append(document_id)
        current.documents.append(document)
    if current is not None:
        yield current


def _queries(batches: Any) -> Iterator[tuple[str, str, str | None]]:
    for batch in batches:
        # For instruction tasks mteb joins query and instruction in `text`; apart, the recipe can place both.
        texts = batch.get("query", batch.get("text"))
        ids = batch.get("id", texts)
        instructions = batch.get("instruction", [None] * len(texts))
        yield from zip(ids, texts, instructions, strict=True)


def _documents(batches: Any) -> Iterator[tuple[str, str]]:
    for batch in batches:
        texts = batch["text"]
        yield from zip(batch.get("id", texts), texts, strict=True)
