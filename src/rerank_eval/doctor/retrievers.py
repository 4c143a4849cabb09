"""A dense retriever's weights on this very device: known pairs in order, the packed engine as sentence-transformers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mteb
import numpy as np
from datasets import Dataset
from mteb.types import PromptType
from numpy.typing import NDArray

from rerank_eval.config import RetrieverConfig
from rerank_eval.doctor.checkpoints import Subject
from rerank_eval.doctor.encoder_texts import sends_plain_texts
from rerank_eval.doctor.findings import Finding, failure, ok, warning
from rerank_eval.doctor.pairs import PAIRS
from rerank_eval.doctor.rerankers import release
from rerank_eval.retrievers.dense import encode
from rerank_eval.retrievers.embedders import embedding_engine, takes_qwen3_instructions
from rerank_eval.retrievers.encoders import load_encoder, load_packed_encoder

Vectors = NDArray[np.float32]

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2}
"""Largest `1 - cosine` between the two engines' vectors of a text."""
TASK = "NQ"
"""The task whose instruction the queries get: questions that a passage answers. Its data are not read."""


@dataclass(frozen=True)
class Embedded:
    """The known pairs' vectors, each (pairs, dim) float32 of length 1.

    Attributes:
        queries: Behind the retriever's prompt.
        relevant: Documents that answer.
        irrelevant: Documents that do not.
    """

    queries: Vectors
    relevant: Vectors
    irrelevant: Vectors

    def cosines(self) -> NDArray[np.float64]:
        """Return (pairs, 2): of relevant and of irrelevant documents with their query."""
        kinds = [(self.queries * documents).sum(axis=1) for documents in (self.relevant, self.irrelevant)]
        return np.stack(kinds, axis=1).astype(np.float64)

    def farthest(self, other: Embedded) -> float:
        """Return the largest `1 - cosine` between the same text's vectors."""
        mine, theirs = (np.concatenate([one.queries, one.relevant, one.irrelevant]) for one in (self, other))
        return float(1 - (mine * theirs).sum(axis=1).min())


def check_retriever(subject: Subject, device: str) -> Iterator[Finding]:
    """Embed the known pairs as the config says, and once more on the other engine where there are two."""
    config = subject.config
    assert isinstance(config, RetrieverConfig)  # noqa: S101 - the caller's choice
    started = time.monotonic()
    packed = embedding_engine(config, subject.ref) == "packed"
    vectors = embed_pairs(config, subject, device, packed=packed)
    yield judge_order(subject, vectors, f"{config.dtype} in {time.monotonic() - started:.1f} s")
    # Where sentence-transformers reads other texts, its vectors say nothing about the engine.
    if packed and sends_plain_texts(subject):
        yield judge_agreement(subject, vectors, embed_pairs(config, subject, device, packed=False))


def embed_pairs(config: RetrieverConfig, subject: Subject, device: str, *, packed: bool) -> Embedded:
    """Embed the known pairs.

    Returns:
        The vectors.

    Raises:
        ModelError: It cannot be loaded, or a vector is not finite.
        DeviceError: The device's memory does not suffice.
    """
    load = load_packed_encoder if packed else load_encoder
    encoder = load(config, subject.ref, device)
    documents = [pair.relevant for pair in PAIRS] + [pair.irrelevant for pair in PAIRS]
    queries = _embed(encoder, [pair.query for pair in PAIRS], PromptType.query)
    found = _embed(encoder, documents, PromptType.document)
    del encoder
    release()
    return Embedded(queries, found[: len(PAIRS)], found[len(PAIRS) :])


def _embed(encoder: Any, texts: Sequence[str], kind: PromptType) -> Vectors:
    """Embed texts by mteb's own way, so that each engine puts before them what it does in a run."""
    columns = {"id": [str(number) for number in range(len(texts))], "title": [""] * len(texts), "text": list(texts)}
    if kind == PromptType.query:
        del columns["title"]
    context = {"task_metadata": mteb.get_task(TASK).metadata, "hf_split": "test", "hf_subset": "default"}
    vectors = encode(encoder, Dataset.from_dict(columns), kind, context, {"batch_size": 32}).numpy()
    units: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return units


def judge_order(subject: Subject, vectors: Embedded, how: str) -> Finding:
    """Judge whether relevant documents lie nearer to their query than irrelevant ones."""
    name = f"pairs by {subject.ref.label}"
    cosines = vectors.cosines()
    remedy = f"fetch {subject.ref.name} again if its files may be damaged; look at the texts and the pooling above"
    if not np.isfinite(cosines).all():
        return failure(name, f"cosines are not finite ({how})", f"--set retriever.dtype=float32; else {remedy}")
    gaps = cosines[:, 0] - cosines[:, 1]
    wrong, worst = np.flatnonzero(gaps <= 0), int(gaps.argmin())
    closest = f"closest: {cosines[worst, 0]:.2f} and {cosines[worst, 1]:.2f} for {PAIRS[worst].query!r}"
    found = f"relevant above irrelevant in {len(PAIRS) - len(wrong)} of {len(PAIRS)} ({how}), {closest}"
    if not len(wrong):
        return ok(name, found)
    known = subject.ref.published and takes_qwen3_instructions(subject.ref)
    if known or 2 * len(wrong) >= len(PAIRS):
        return failure(name, found, remedy)
    languages = ", ".join(sorted({PAIRS[index].language for index in wrong}))
    return warning(name, found, f"right if the model was not trained on {languages}; else {remedy}")


def judge_agreement(subject: Subject, packed: Embedded, theirs: Embedded) -> Finding:
    """Judge whether the packed engine embeds as sentence-transformers does."""
    name, dtype = f"engines of {subject.ref.label}", subject.config.dtype
    farthest = packed.farthest(theirs)
    found = f"packed and sentence-transformers differ by {farthest:.1e} at most (1 - cosine) in {dtype}"
    if farthest <= TOLERANCE[dtype]:
        return ok(name, found)
    remedy = (
        "see the line on its texts and pooling; else use retriever.engine=sentence-transformers and report this line"
    )
    return failure(name, found, remedy)
