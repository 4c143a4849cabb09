"""What passes through the driver and the disks whatever the number of workers: reading, tokenising, writing.

Rates are by processor time, which is what a core of its own would give: the machine may be busy with other things. Only
the disk's is by the clock.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.model_meta import ModelMeta

from rerank_bench import say
from rerank_bench.scaling_driver import CHARACTERS, DOCUMENTS
from rerank_eval.engine.interface import EngineStats, QueryGroup, RenderedPrompt, Scores, SpecialTokenFinder
from rerank_eval.engine.special_tokens import SpecialTokens
from rerank_eval.models.qwen_vocabulary import build_qwen_tokenizer
from rerank_eval.pipeline.stages import evaluate
from rerank_eval.rerankers.cross_encoder import CrossEncoder
from rerank_eval.rerankers.instructions import InstructionPolicy
from rerank_eval.rerankers.rerank_search import RerankSearch
from rerank_eval.results.recorder import CellScores
from rerank_eval.store.cache import ScoreCache

QUERIES, CORPUS = 500, 20_000
_WRITTEN_PAIRS = 500_000
_WRITTEN_BYTES = 256 << 20
_TOKENISED = 4000


class _Reading(AbsTaskRetrieval):  # type: ignore[misc] # mteb is not typed for us
    """A task of English passages with given candidates."""

    metadata = TaskMetadata(
        name="Reading",
        description="passages for measuring how fast pairs are read",
        type="Retrieval",
        category="t2t",
        dataset={"path": "bench/reading", "revision": "1"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        del num_proc
        if getattr(self, "data_loaded", False):
            return
        generator = np.random.default_rng(0)
        texts = passages(CORPUS)
        ids = [f"d{number}" for number in range(CORPUS)]
        chosen = {f"q{q}": [ids[i] for i in generator.integers(0, CORPUS, DOCUMENTS)] for q in range(QUERIES)}
        data = RetrievalSplitData(
            corpus=Dataset.from_dict({"id": ids, "title": [""] * CORPUS, "text": texts}),
            queries=Dataset.from_dict({"id": list(chosen), "text": [text[:60] for text in texts[:QUERIES]]}),
            relevant_docs={query: {own[0]: 1} for query, own in chosen.items()},
            top_ranked={query: list(dict.fromkeys(own)) for query, own in chosen.items()},
        )
        self.dataset = {"default": {"test": data}}
        self.data_loaded = True


class _Instant:
    """An engine that takes no time.

    What is left is what the driver does with a pair besides handing it out: it reads it, looks for special tokens,
    looks it up in the score cache and writes its score there.
    """

    causal = False
    stats = EngineStats()

    def __init__(self, special_tokens: SpecialTokenFinder) -> None:
        self.special_tokens = special_tokens
        self.settings: dict[str, str | int] = {}
        self._scores = np.random.default_rng(3).normal(size=DOCUMENTS)
        self.first = self.last = 0.0
        self.pairs = 0

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[Scores]:
        self.first = time.process_time()
        for group in groups:
            size = len(group.documents)
            self.pairs += size
            scores = Scores.empty(size)
            scores.scores[:] = scores.margins[:] = self._scores[:size]
            scores.tokens[:] = 1
            yield scores
        self.last = time.process_time()

    def score(self, group: QueryGroup) -> Scores:
        return next(self.score_groups([group]))

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        return RenderedPrompt(f"{query} {document} {instruction}", (), truncated=False)


def passages(number: int) -> list[str]:
    """Return passages of English, Python's own help texts cut anew."""
    from pydoc_data import topics

    prose = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    starts = np.random.default_rng(1).integers(0, len(prose) - CHARACTERS, number)
    return [prose[start : start + CHARACTERS] for start in starts]


def measure(folder: Path) -> dict[str, Any]:
    """Measure the rates.

    Args:
        folder: A folder of the file system that results are written to.

    Returns:
        Pairs a second read and judged, tokens a second tokenised on one core, and what the file system takes.
    """
    found = {"characters": CHARACTERS, "documents": DOCUMENTS}
    parts: dict[str, Callable[[], dict[str, Any]]] = {"reading": lambda: _reading(folder), "tokenising": _tokenising}
    for name, part in parts.items():
        found |= part()
        say(f"rates: {name}: {found}")
    return found | _writing(folder)


def _reading(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    special = SpecialTokens(build_qwen_tokenizer())
    warm, task = _Reading(), _Reading()
    warm.load_data()
    task.load_data()
    engine = _Instant(special)
    policy = InstructionPolicy("none", None)
    meta = ModelMeta.create_empty(
        overwrites={"name": "bench/instant", "revision": "1", "model_type": ["cross-encoder"]}
    )
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        first, second = (ScoreCache(Path(temporary) / name, "instant", {"model": name}) for name in ("warm", "timed"))
        # The first imports what mteb and the store import when they are first used.
        evaluate(RerankSearch(CrossEncoder(_Instant(special), meta, policy, cache=first)), warm)
        started = time.process_time()
        evaluate(RerankSearch(CrossEncoder(engine, meta, policy, cache=second)), task)
        seconds = time.process_time() - started
    reading = engine.last - engine.first
    return {
        "read_pairs": engine.pairs,
        "read_pairs_per_second": engine.pairs / reading,
        "judged_pairs_per_second": engine.pairs / (seconds - reading),
    }


def _tokenising() -> dict[str, Any]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = build_qwen_tokenizer()
    texts = passages(_TOKENISED)
    tokenizer(texts[:100])
    started = time.process_time()
    ids = tokenizer(texts)["input_ids"]
    seconds = time.process_time() - started
    tokens = sum(len(one) for one in ids)
    return {
        "tokens_per_second_on_one_core": tokens / seconds,
        "texts_per_second_on_one_core": len(texts) / seconds,
        "bytes_per_token": sum(len(text.encode()) for text in texts) / tokens,
    }


def _writing(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    cell = CellScores()
    generator = np.random.default_rng(2)
    for query in range(_WRITTEN_PAIRS // DOCUMENTS):
        ids = [f"document-{query}-{number}" for number in range(DOCUMENTS)]
        cell.add(f"query-{query}", ids, generator.normal(size=DOCUMENTS))
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        path = Path(temporary) / "scores.parquet"
        started = time.process_time()
        cell.frame().to_parquet(path)
        table = time.process_time() - started
        size = path.stat().st_size
        block = generator.bytes(_WRITTEN_BYTES)
        started = time.perf_counter()
        with (Path(temporary) / "bytes").open("wb") as handle:
            handle.write(block)
            handle.flush()
            os.fsync(handle.fileno())
        disk = time.perf_counter() - started
    return {
        "table_pairs_per_second": _WRITTEN_PAIRS / table,
        "table_bytes_per_pair": size / _WRITTEN_PAIRS,
        "disk_bytes_per_second": _WRITTEN_BYTES / disk,
    }
