"""Second stage: rerankers as mteb cross-encoders.

`CrossEncoder` implements mteb's `CrossEncoderProtocol` and knows nothing of the pipeline, so that it works in a plain
`mteb.evaluate(reranker, task.convert_to_reranking(folder, top_k=100))`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from mteb.models.model_meta import ModelMeta

from rerank_eval.engine.interface import EngineStats, QueryGroup, RenderedPrompt
from rerank_eval.models.instructions import InstructionPolicy
from rerank_eval.models.records import CellScores, Floats, Recorder


@dataclass(frozen=True)
class GroupScores:
    """The scores of one query's candidates.

    Attributes:
        scores: float64, shape (candidates,); what ranks, higher is better.
        margins: float64, shape (candidates,); log-odds of relevance.
        truncated: bool, shape (candidates,); whether the prompt was cut to max_length.
        tokens: Prompt tokens of all pairs together.
    """

    scores: Floats
    margins: Floats
    truncated: npt.NDArray[np.bool_]
    tokens: int


class Scorer(Protocol):
    """What scores a query's candidates: an engine or a sequence classifier.

    Attributes:
        policy: Chooses each query's instruction.
        names: What a margin and its sigmoid are called, such as `P(yes)`.
    """

    policy: InstructionPolicy
    names: tuple[str, str]

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
        "overlong_queries": now.overlong_queries - before.overlong_queries,
        "tokenize_seconds": now.tokenize_seconds - before.tokenize_seconds,
    }


@dataclass
class Counts:
    """What a reranker did since the counts were last reset."""

    queries: int = 0
    pairs: int = 0
    tokens: int = 0
    truncated: int = 0


@dataclass(frozen=True)
class _Group:
    query_id: str
    query: str
    own_instruction: str | None
    document_ids: list[str]
    documents: list[str]


class CrossEncoder:
    """A reranker that mteb can evaluate.

    Args:
        scorer: What scores a query's candidates.
        meta: Identity under which mteb files results.
        advance: Told after each query how many pairs and tokens are done.

    Attributes:
        recorder: Scores of each cell since the last `reset`.
        counts: Pairs, tokens and cut prompts since the last `reset`.
    """

    def __init__(self, scorer: Scorer, meta: ModelMeta, advance: Callable[[int, int], None] | None = None) -> None:
        self.scorer = scorer
        self.mteb_model_meta = meta
        self.advance = advance
        self.recorder = Recorder()
        self.counts = Counts()

    def reset(self) -> None:
        """Forget what was recorded, before another task."""
        self.recorder = Recorder()
        self.counts = Counts()

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
        cell = CellScores()
        parts: list[Floats] = []
        read: deque[_Group] = deque()

        def prompts() -> Iterator[QueryGroup]:
            for group in _groups(inputs1, inputs2):
                read.append(group)
                instruction = self.scorer.policy.choose(group.own_instruction, task_metadata)
                query = self.scorer.policy.query_text(group.query, group.own_instruction)
                yield QueryGroup(query, instruction, group.documents)

        for result in self.scorer.score_groups(prompts()):
            group = read.popleft()
            cell.add(group.query_id, group.document_ids, result.scores)
            parts.append(result.scores)
            self.counts.queries += 1
            self.counts.pairs += len(group.documents)
            self.counts.tokens += result.tokens
            self.counts.truncated += int(result.truncated.sum())
            if self.advance is not None:
                self.advance(len(group.documents), result.tokens)
        cell.check_finite(self.mteb_model_meta.name or "reranker")
        self.recorder.cells[hf_subset, hf_split] = cell
        return np.concatenate(parts) if parts else np.zeros(0)


def _groups(inputs1: Any, inputs2: Any) -> Iterator[_Group]:
    """Join two streams of batches into one group a query; batch borders fall anywhere."""
    current: _Group | None = None
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
            current = _Group(query_id, query, instruction, [], [])
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
