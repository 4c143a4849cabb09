"""jina-reranker-v3 on transformers' own Qwen3: all documents in one prompt, a cosine for each.

Written from the `modeling.py` that the model is published with (huggingface.co/jinaai/jina-reranker-v3) and from vLLM's
reading of it (`vllm/model_executor/models/jina.py`, `JinaRankingIOProcessor`), which agree: the prompt, the marks, the
projector (two linear layers without bias, ReLU between), the cosine. The limits of `rerank()` and how it joins blocks
are from the former alone. Attention is causal: a document is read behind those before it, and the query behind all, so
that the order changes scores.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import EngineStats, FloatArray, QueryGroup, RenderedPrompt, Scores
from rerank_eval.engine.listwise import Order, arranged
from rerank_eval.engine.prompts import check_fast, encodable, token_ids
from rerank_eval.engine.special_tokens import SpecialTokens

DOCUMENT_MARK, QUERY_MARK = "<|embed_token|>", "<|rerank_token|>"
QUERY_TOKENS, DOCUMENT_TOKENS, BLOCK = 512, 2048, 125
"""Limits of `rerank()`: tokens of a query, tokens of a document, documents in one prompt."""

_SYSTEM = (
    "You are a search relevance expert who can determine a ranking of the passages based on how relevant they are to "
    "the query. If the query is a question, how relevant a passage is depends on how well it answers the question. If "
    "not, try to analyze the intent of the query and assess how well each passage satisfies the intent. If an "
    "instruction is provided, you should follow the instruction when determining the ranking."
)


def prompt_of(query: str, documents: Sequence[str], instruction: str | None = None) -> str:
    """Write the prompt of one block; the texts hold no marks."""
    asked = f"<instruct>\n{instruction}\n</instruct>\n" if instruction else ""
    passages = "".join(
        f'<passage id="{number}">\n{text}{DOCUMENT_MARK}\n</passage>\n' for number, text in enumerate(documents)
    )
    return (
        f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n<|im_start|>user\n"
        f"I will provide you with {len(documents)} passages, each indicated by a numerical identifier. Rank the "
        f"passages based on their relevance to query: {query}\n"
        f"{asked}{passages}<query>\n{query}{QUERY_MARK}\n</query>"
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def without_marks(text: str) -> str:
    """Take the marks out of a text, as the published code does, and those that this makes from their halves."""
    while DOCUMENT_MARK in text or QUERY_MARK in text:
        text = text.replace(QUERY_MARK, "").replace(DOCUMENT_MARK, "")
    return text


class JinaV3(nn.Module):
    """The network.

    Args:
        model: transformers' Qwen3Model.
        projector: From its hidden states to what the cosine is taken of.
    """

    def __init__(self, model: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.projector = projector

    def forward(self, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Return the projected hidden states of some places, (places, size), of one prompt, (tokens,)."""
        hidden = self.model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        projected: torch.Tensor = self.projector(hidden[places])
        return projected


@dataclass
class _Blocks:
    """What came out of a query's blocks, one behind the other."""

    documents: list[FloatArray] = field(default_factory=list)
    queries: list[FloatArray] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def cosines(self) -> FloatArray:
        """Return the cosine of each document with the mean query, which blocks weigh in by their best document."""
        if sum(self.weights) > 0:
            query = np.average(np.array(self.queries), axis=0, weights=self.weights)
            documents = np.concatenate(self.documents)
            lengths = np.linalg.norm(query) * np.linalg.norm(documents, axis=1)
            if (lengths > 0).all():
                scores = documents @ query / lengths
                if np.isfinite(scores).all():
                    return np.asarray(scores, dtype=np.float64)
        raise EngineError(
            "a document's or the query's vector is zero, NaN or infinite: damaged weights, or float16 has overflowed "
            "(use bfloat16 or float32)"
        )


class JinaV3Engine:
    """Scores lists with jina-reranker-v3; an `Engine`. Scores are cosines, and margins the same.

    Args:
        network: The network in evaluation mode, on its device.
        tokenizer: Its tokenizer, which has both marks.
        order: In which order documents are read.

    Attributes:
        causal, settings, special_tokens, stats: See `Engine`.
        listwise: See `reads_lists`.

    Raises:
        EngineError: The tokenizer is a slow one or lacks a mark.
    """

    causal = False
    listwise = True

    def __init__(self, network: JinaV3, tokenizer: PreTrainedTokenizerBase, order: Order = "given") -> None:
        check_fast(tokenizer)
        for mark in (DOCUMENT_MARK, QUERY_MARK):
            if len(tokenizer.encode(mark, add_special_tokens=False)) != 1:
                raise EngineError(f"its tokenizer has no token {mark}")
        self.settings: Mapping[str, str | int] = {"order": order, "block": BLOCK, "max_document": DOCUMENT_TOKENS}
        self.special_tokens = SpecialTokens(tokenizer)
        self.stats = EngineStats()
        self._network = network.eval()
        self._device = next(network.parameters()).device
        self._tokenizer = tokenizer
        self._marks = tuple(int(tokenizer.convert_tokens_to_ids(mark)) for mark in (DOCUMENT_MARK, QUERY_MARK))
        self._order: Order = order

    def score(self, group: QueryGroup) -> Scores:
        """See `Engine.score`."""
        count, started = len(group.documents), time.perf_counter()
        if count == 0:
            return Scores.empty()
        ordered, places = arranged(group, self._order)
        query, query_length, query_cut = self._cut([ordered.query], QUERY_TOKENS)
        documents, lengths, cut = self._cut(ordered.documents, DOCUMENT_TOKENS)
        found = _Blocks()
        for start, stop in self._blocks(lengths, query_length[0]):
            self._read(_prompt(query[0], documents[start:stop], group.instruction), stop - start, found)
        values = found.cosines()
        scores = Scores.empty(count)
        scores.scores[places], scores.margins[places] = values, values
        scores.truncated[places] = np.array(cut) | query_cut[0]
        scores.tokens[places] = found.tokens
        blocks, tokens = len(found.weights), sum(found.tokens)
        self.stats += EngineStats(
            pairs=count,
            groups=1,
            forwards=blocks,
            prompt_tokens=tokens,
            computed_tokens=tokens,
            truncated_pairs=int(scores.truncated.sum()),
            seconds=time.perf_counter() - started,
            windows=blocks,
        )
        return scores

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[Scores]:
        """See `Engine.score_groups`."""
        return map(self.score, groups)

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """See `Engine.render`: the prompt of a list of one document."""
        [one], _, query_cut = self._cut([query], QUERY_TOKENS)
        documents, _, cut = self._cut([document], DOCUMENT_TOKENS)
        text = _prompt(one, documents, instruction)
        [ids] = token_ids(self._tokenizer, [text])
        return RenderedPrompt(text, tuple(ids), query_cut[0] or cut[0])

    def _cut(self, texts: Sequence[str], limit: int) -> tuple[list[str], list[int], list[bool]]:
        """Cut texts to `limit` tokens; return them without marks, their lengths in tokens, and which lost some."""
        ids = token_ids(self._tokenizer, texts)
        # As published, a text of just the limit is decoded too, and marks go once lengths are counted.
        cut = [
            self._tokenizer.decode(one[:limit]) if len(one) >= limit else text
            for one, text in zip(ids, texts, strict=True)
        ]
        lengths = [min(len(one), limit) for one in ids]
        return [without_marks(encodable(text)) for text in cut], lengths, [len(one) > limit for one in ids]

    def _blocks(self, lengths: Sequence[int], query: int) -> Iterator[tuple[int, int]]:
        """Yield the documents of each prompt as (first, behind the last): 125, or fewer where they are long."""
        room = self._tokenizer.model_max_length - 2 * query
        start, left = 0, room
        for place, length in enumerate(lengths):
            left -= length
            if place + 1 - start >= BLOCK or left <= DOCUMENT_TOKENS:
                yield start, place + 1
                start, left = place + 1, room
        if start < len(lengths):
            yield start, len(lengths)

    def _read(self, prompt: str, count: int, found: _Blocks) -> None:
        """Run one prompt and note what its marks come to."""
        started = time.perf_counter()
        [ids] = token_ids(self._tokenizer, [prompt])
        self.stats += EngineStats(tokenize_seconds=time.perf_counter() - started)
        marks = [[place for place, token in enumerate(ids) if token == mark] for mark in self._marks]
        if [len(one) for one in marks] != [count, 1]:  # a tokenizer that finds a mark elsewhere
            raise EngineError(f"a prompt of {count} documents holds {len(marks[0])} marks of documents")
        places = torch.tensor([*marks[0], *marks[1]], device=self._device)
        with torch.inference_mode():
            vectors = self._network(torch.tensor(ids, device=self._device), places)
            documents, query = vectors[:-1], vectors[-1:]
            best = nn.functional.cosine_similarity(documents, query.expand_as(documents), dim=-1).float().max()
        found.weights.append((1.0 + float(best)) / 2.0)
        found.documents.append(_numbers(documents))
        found.queries.append(_numbers(query)[0])
        ends = [-1, *marks[0][:-1], len(ids) - 1]  # what follows the last document counts as its own
        found.tokens += np.diff(ends).tolist()


def _prompt(query: str, documents: Sequence[str], instruction: str | None) -> str:
    return prompt_of(query, documents, without_marks(encodable(instruction)) if instruction else None)


def _numbers(vectors: torch.Tensor) -> Any:
    return vectors.float().cpu().numpy().astype(np.float64)
