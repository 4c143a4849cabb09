"""Second stage: rerankers as mteb cross-encoders.

`CrossEncoder` implements mteb's `CrossEncoderProtocol` and knows nothing of the pipeline, so that it works in a plain
`mteb.evaluate(reranker, task.convert_to_reranking(folder, top_k=100))`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from mteb.models.model_meta import ModelMeta

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.interface import EngineStats, MarkerFinder, QueryGroup, RenderedPrompt
from rerank_eval.rerankers.instructions import InstructionPolicy
from rerank_eval.rerankers.marked import MarkedTexts
from rerank_eval.results.recorder import CellScores, Floats, Recorder, check_finite


@dataclass(frozen=True)
class GroupScores:
    """The scores of one query's candidates.

    Attributes:
        scores: float64, shape (candidates,); what ranks, higher is better.
        margins: float64, shape (candidates,); log-odds of relevance.
        truncated: bool, shape (candidates,); whether the prompt was cut to max_length.
        lengths: int64, shape (candidates,); tokens of each prompt.
        overlong: Whether the query alone filled the prompt, so that no document was read.
    """

    scores: Floats
    margins: Floats
    truncated: npt.NDArray[np.bool_]
    lengths: npt.NDArray[np.int64]
    overlong: bool = False

    @property
    def tokens(self) -> int:
        """Prompt tokens of all pairs together."""
        return int(self.lengths.sum())


class Scorer(Protocol):
    """What scores a query's candidates: an engine or a sequence classifier.

    Attributes:
        policy: Chooses each query's instruction.
        names: What a margin and its sigmoid are called, such as `P(yes)`.
    """

    policy: InstructionPolicy
    names: tuple[str, str]

    @property
    def markers(self) -> MarkerFinder:
        """Finds markers such as `<|im_end|>` in texts."""
        ...

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[GroupScores]:
        """Score a stream of queries with their candidates; it may be read ahead of what comes out.

        Args:
            groups: Queries (without their instruction), instructions and candidates.

        Yields:
            Each group's scores, in the order of the groups and of their documents.
        """
        ...

    def take_work(self) -> dict[str, float]:
        """Return what was computed since the last call, for a manifest: tokens by kind, and the share wasted."""
        ...

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """Show what the model reads of a pair.

        Args:
            query: The query (without its instruction).
            document: The document.
            instruction: The instruction, or None.
        """
        ...


def work_between(before: EngineStats, now: EngineStats) -> dict[str, float]:
    """Return what was computed between two readings of a running sum, for a manifest.

    Args:
        before: The earlier one.
        now: The later one.
    """
    computed = now.computed_tokens - before.computed_tokens
    padding = now.padding_tokens - before.padding_tokens
    return {
        "prompt_tokens": now.prompt_tokens - before.prompt_tokens,
        "computed_tokens": computed,
        "padding_tokens": padding,
        "padding": padding / computed if computed else 0.0,
        "tokenize_seconds": now.tokenize_seconds - before.tokenize_seconds,
    }


@dataclass
class Counts:
    """What a reranker scored since the counts were last reset, whether now or in an earlier run.

    Attributes:
        queries: Queries.
        pairs: Pairs.
        tokens: Prompt tokens of all pairs.
        truncated: Pairs whose prompt was cut.
        overlong: Queries that alone filled the prompt.
        stored: Pairs that the score store had.
    """

    queries: int = 0
    pairs: int = 0
    tokens: int = 0
    truncated: int = 0
    overlong: int = 0
    stored: int = 0

    def add(self, scored: Answered) -> None:
        """Count a query."""
        result = scored.scores
        self.queries += 1
        self.pairs += len(result.scores)
        self.tokens += result.tokens
        self.truncated += int(result.truncated.sum())
        self.overlong += int(result.overlong)
        self.stored += scored.stored


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
class Answered:
    """A query's scores.

    Attributes:
        query_id: The query's id.
        document_ids: Its candidates.
        scores: What the model says of them.
        stored: How many of them the store had.
        fresh_tokens: Prompt tokens of the others.
    """

    query_id: str
    document_ids: list[str]
    scores: GroupScores
    stored: int = 0
    fresh_tokens: int = 0


class Ledger(Protocol):
    """Where a cell's scores are kept between runs."""

    def find(self, group: QueryGroup) -> tuple[npt.NDArray[np.bool_], GroupScores]:
        """Look up a query's documents: which are there, and their scores (zeros for the others)."""
        ...

    def add(self, candidates: Candidates, group: QueryGroup, scores: GroupScores, fresh: npt.NDArray[np.bool_]) -> None:
        """Keep the scores of those documents that are fresh."""
        ...


class CrossEncoder:
    """A reranker that mteb can evaluate.

    Args:
        scorer: What scores a query's candidates.
        meta: Identity under which mteb files results.
        advance: Told after each query how many pairs are done, how many tokens that took, and how many of the pairs
            were stored.
        ledger: Opens a cell's kept scores, given task, subset and split; None keeps nothing.
        config: The settings that it was loaded with, or None.

    Attributes:
        recorder: Scores of each cell since the last `reset`.
        counts: Pairs, tokens and cut prompts since the last `reset`.
        marked: Texts with markers since the last `reset`.
    """

    def __init__(
        self,
        scorer: Scorer,
        meta: ModelMeta,
        advance: Callable[[int, int, int], None] | None = None,
        ledger: Callable[[str, str, str], AbstractContextManager[Ledger]] | None = None,
        config: RerankerConfig | None = None,
    ) -> None:
        self.scorer = scorer
        self.mteb_model_meta = meta
        self.advance = advance
        self.ledger = ledger
        self.config = config
        self.recorder = Recorder()
        self.counts = Counts()
        self.marked = MarkedTexts()

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
        chosen = self.scorer.policy.choose(None, None) if instruction is None else instruction
        [scored] = self.scorer.score_groups([QueryGroup(query, chosen, list(documents))])
        check_finite(self.mteb_model_meta.name or "reranker", query, documents, scored.scores)
        return scored.scores

    def reset(self) -> None:
        """Forget what was recorded, before another task."""
        self.recorder = Recorder()
        self.counts = Counts()
        self.marked = MarkedTexts()

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
        parts = [answered.scores.scores for answered in self.answer(queries, task_metadata, hf_subset, hf_split)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def answer(
        self, queries: Iterable[Candidates], task_metadata: Any, hf_subset: str, hf_split: str
    ) -> Iterator[Answered]:
        """Score a cell query by query, and record it when the last one is done.

        Args:
            queries: Queries with their candidates; read ahead of what comes out.
            task_metadata: mteb's metadata of the task; the source of its instruction.
            hf_subset: Name of the subset.
            hf_split: Name of the split.

        Yields:
            Each query's scores, in order.

        Raises:
            ModelError: A score is NaN or infinite; names the query and the document.
        """
        cell = CellScores()
        opened: AbstractContextManager[Ledger | None] = nullcontext()
        if self.ledger is not None:
            opened = self.ledger(getattr(task_metadata, "name", "") or "task", hf_subset, hf_split)
        with opened as ledger:
            for answered in self._answer(queries, task_metadata, ledger):
                cell.add(answered.query_id, answered.document_ids, answered.scores.scores)
                self.counts.add(answered)
                if self.advance is not None:
                    self.advance(len(answered.document_ids), answered.fresh_tokens, answered.stored)
                yield answered
        self.recorder.cells[hf_subset, hf_split] = cell

    def _answer(self, queries: Iterable[Candidates], task_metadata: Any, ledger: Ledger | None) -> Iterator[Answered]:
        """Let the model score what is not known. Known queries wait without their texts for those before them."""
        read: deque[Answered | _Asked] = deque()

        def unknown() -> Iterator[QueryGroup]:
            for candidates in queries:
                instruction = self.scorer.policy.choose(candidates.own_instruction, task_metadata)
                query = self.scorer.policy.query_text(candidates.query, candidates.own_instruction)
                group = QueryGroup(query, instruction, candidates.documents)
                self.marked.look(group, self.scorer.markers)
                asked = _Asked(candidates, group)
                if ledger is not None:
                    found, known = ledger.find(group)
                    if found.all():
                        read.append(Answered(candidates.query_id, candidates.document_ids, known, len(found)))
                        continue
                    asked = _Asked(candidates, group, found, known)
                read.append(asked)
                yield asked.missing

        def known_first() -> Iterator[Answered]:
            while read and isinstance(first := read[0], Answered):
                read.popleft()
                yield first

        for result in self.scorer.score_groups(unknown()):
            yield from known_first()
            asked = read.popleft()
            assert isinstance(asked, _Asked)  # noqa: S101 - what is known was taken out before
            scores, fresh = asked.joined(result)
            self._check_finite(asked.candidates, scores)
            if ledger is not None:
                ledger.add(asked.candidates, asked.group, scores, fresh)
            own = asked.candidates
            yield Answered(own.query_id, own.document_ids, scores, int((~fresh).sum()), result.tokens)
        yield from known_first()

    def _check_finite(self, candidates: Candidates, scores: GroupScores) -> None:
        """Refuse NaN and infinities, which mteb would accept in silence, before they are kept."""
        check_finite(
            self.mteb_model_meta.name or "reranker", candidates.query_id, candidates.document_ids, scores.scores
        )


@dataclass(frozen=True)
class _Asked:
    """A query that the model is asked about, with what is known of some of its documents."""

    candidates: Candidates
    group: QueryGroup
    found: npt.NDArray[np.bool_] | None = None
    known: GroupScores | None = None

    @property
    def missing(self) -> QueryGroup:
        if self.found is None or not self.found.any():
            return self.group
        texts = [text for text, found in zip(self.group.documents, self.found, strict=True) if not found]
        return QueryGroup(self.group.query, self.group.instruction, texts)

    def joined(self, result: GroupScores) -> tuple[GroupScores, npt.NDArray[np.bool_]]:
        """Return the scores of all documents, and which of them are fresh."""
        if self.found is None or self.known is None or not self.found.any():
            return result, np.ones(len(result.scores), dtype=bool)
        fresh = ~self.found
        whole = self.known
        for array, part in (
            (whole.scores, result.scores),
            (whole.margins, result.margins),
            (whole.truncated, result.truncated),
            (whole.lengths, result.lengths),
        ):
            array[fresh] = part
        return GroupScores(whole.scores, whole.margins, whole.truncated, whole.lengths, result.overlong), fresh


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
