"""The pairs that are scored: English text of given token counts, drawn anew for each group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pydoc_data import topics

import numpy as np
from transformers import PreTrainedTokenizerBase

from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.recipes import RECIPES

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

LONGEST_DOCUMENT = 8_000
"""Own tokens at most, so that no workload is truncated at 8,192."""


@dataclass(frozen=True)
class Workload:
    """What a query and its candidates look like.

    Attributes:
        name: For tables.
        prefix: Tokens of the shared prefix: system turn, instruction, query.
        document: Mean own tokens of a document, suffix among them.
        spread: Standard deviation of the logarithm of the documents' tokens; 0 for equal lengths.
        group: Documents of a query.
        small_group: Documents of a query where a laptop has to score them.
    """

    name: str
    prefix: int
    document: int
    spread: float
    group: int = 100
    small_group: int = 100


WORKLOADS = {
    "short": Workload("short passages", 110, 190, 0.5),
    "long-queries": Workload("long queries", 590, 200, 0.5),
    "long-documents": Workload("long documents", 110, 8_000, 0.0, small_group=4),
    "followir": Workload("FollowIR", 200, 800, 0.5, small_group=20),
}


class Texts:
    """Draws groups for a workload; group i is the same in every process.

    Args:
        tokenizer: The checkpoint's.
        workload: What to draw.
        group: Documents of a query.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, workload: Workload, group: int) -> None:
        self._tokenizer = tokenizer
        self._workload = workload
        self._group = group
        # Python's own help texts: some 600 kB of English that every installation carries.
        prose = "\n".join(topics.topics[name] for name in sorted(topics.topics))
        self._ids = np.array(self._count(prose))
        recipe = RECIPES["card"]
        frame = recipe.prompt("", "", INSTRUCTION).removesuffix(" " + recipe.suffix)
        self._query_tokens = max(1, workload.prefix - len(self._count(frame)))
        self._own_frame = len(self._count(" " + recipe.suffix))

    def _count(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _text(self, generator: np.random.Generator, tokens: int) -> str:
        start = int(generator.integers(0, len(self._ids) - tokens))
        text: str = self._tokenizer.decode(self._ids[start : start + tokens].tolist())
        return text.strip()

    def groups(self, first: int, number: int) -> Iterator[QueryGroup]:
        """Yield some groups, made as they are asked for.

        Args:
            first: Number of the first group.
            number: How many.

        Yields:
            The groups.
        """
        return islice((self._make(index) for index in range(first, first + number)), number)

    def _make(self, index: int) -> QueryGroup:
        generator = np.random.default_rng([20_250_605, index])
        load = self._workload
        # The mean of a lognormal is exp(mu + sigma^2 / 2).
        logs = generator.normal(np.log(load.document) - load.spread**2 / 2, load.spread, self._group)
        lengths = np.clip(np.exp(logs).astype(int) - self._own_frame, 1, LONGEST_DOCUMENT - self._own_frame)
        query = self._text(generator, self._query_tokens)
        return QueryGroup(query, INSTRUCTION, [self._text(generator, int(length)) for length in lengths])
