"""What an estimate comes to: each row on each task, and the hours at a rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """One row on one task.

    Attributes:
        kind: `retriever` or `reranker`.
        model: The model's name.
        dtype: Its number format.
        detail: What tells the run from others of the model.
        task: The task.
        suite: The suite it was asked for as, or None.
        queries: How many.
        pairs: Of queries and candidates; for a retriever the candidates that it finds.
        texts: Texts that a retriever embeds; 0 for a reranker.
        prompt_tokens: Of all prompts or texts, each counted whole.
        computed_tokens: What the packed engine computes of them, each query's shared prefix once. In one pack small
            groups share the system turn too, which is left out: packs follow the free memory of the device.
        flops: Useful FLOP, 0 for BM25 and where the model's size is not known.
        disk: Bytes of result files, embeddings included.
        done: Whether the result is there.
        seconds: What it takes besides these FLOP: BM25's time or tokenising, as measured here.
        shared: Share of its pairs that an earlier row scores: the same reranker on another retriever's candidates.
        source: Where the text lengths come from: `candidates`, `data` or `statistics`.
    """

    kind: str
    model: str
    dtype: str
    detail: str
    task: str
    suite: str | None
    queries: int
    pairs: int
    texts: int
    prompt_tokens: float
    computed_tokens: float
    flops: float
    disk: float
    done: bool
    seconds: float
    shared: float
    source: str

    @property
    def rated(self) -> str:
        """What a rate is told of: model and number format."""
        return f"{self.model} {self.dtype}"

    @property
    def left(self) -> float:
        """FLOP that are still to be done."""
        return 0.0 if self.done else self.flops * (1 - self.shared)


@dataclass(frozen=True)
class Estimate:
    """A config's work.

    Attributes:
        work: Every row on every task.
        rates: Model and number format (`Work.rated`) -> FLOP/s, and where that figure comes from.
        unknown: Models whose size is not known, so that their hours are not.
        unresolved: Models that are not here, so that what is done of them cannot be told.
        unmeasured: Tasks without data here and without statistics.
        checkpoints: Model -> bytes of its weights in 16 bits.
        device: What it is reckoned for, in words.
        workers: Whether a cluster's workers will run it, which are not here.
        measuring: Seconds that were spent on measuring.
    """

    work: tuple[Work, ...]
    rates: Mapping[str, tuple[float, str]]
    unknown: tuple[str, ...]
    unresolved: tuple[str, ...]
    unmeasured: tuple[str, ...]
    checkpoints: Mapping[str, int]
    device: str
    workers: bool = False
    measuring: float = 0.0

    def hours(self, work: Work) -> float:
        """Return the hours that a row's task takes on one device, 0 where it is done."""
        if work.done:
            return 0.0
        return (work.seconds + (work.left / self.rates[work.rated][0] if work.flops else 0.0)) / 3600
