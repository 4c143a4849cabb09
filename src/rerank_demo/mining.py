"""Candidates of each training query among some ten thousand functions of other packages: BM25's and MiniLM's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_demo.corpus import package_of
from rerank_eval.tasks.embedded.stdlib import Function
from rerank_eval.tasks.embedded.texts import sha_order

HELD_OUT_PACKAGES = 14
"""Packages that are never trained on."""
SHARDS = 8
"""Parts of the training corpus, whole packages each, that candidates are taken from: as large as the test's corpus."""
HELD_OUT = -1
DEPTH = 100

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Candidates:
    """Best documents of some queries.

    Attributes:
        queries: (n,) places of the queries' functions in the corpus, ascending.
        documents: (n, depth) places, best first; -1 fills up.
        scores: (n, depth) the retriever's scores.
        positive: (n,) the score of the query's own function, wherever it ranks.
    """

    queries: IntArray
    documents: IntArray
    scores: FloatArray
    positive: FloatArray

    def save(self, path: Path) -> None:
        """Write to an .npz file, whole or not at all."""
        temporary = path.with_suffix(".tmp.npz")
        arrays: dict[str, Any] = dict(vars(self))
        np.savez(temporary, **arrays)
        temporary.rename(path)

    def of(self, queries: IntArray) -> Candidates:
        """Keep the rows of some of the queries.

        Args:
            queries: (m,) places of their functions.
        """
        kept = np.isin(self.queries, queries)
        return Candidates(self.queries[kept], self.documents[kept], self.scores[kept], self.positive[kept])

    @classmethod
    def load(cls, path: Path) -> Candidates:
        """Read what `save` wrote."""
        with np.load(path) as found:
            return cls(**{name: found[name] for name in ("queries", "documents", "scores", "positive")})


def shards(functions: Sequence[Function]) -> IntArray:
    """Assign each function to a shard by its package.

    Returns:
        (n,) shard; `HELD_OUT` for the packages that the evaluation during training looks at.
    """
    names = [package_of(one) for one in functions]
    sizes: dict[str, int] = {}
    for name in names:
        sizes[name] = sizes.get(name, 0) + 1
    ordered = sorted(sizes, key=lambda name: sha_order(f"held out:{name}"))
    held = set(ordered[: min(HELD_OUT_PACKAGES, max(1, len(ordered) // 4))])
    filled = [0] * SHARDS
    place: dict[str, int] = {}
    for name in ordered:
        if name in held:
            place[name] = HELD_OUT
        else:
            place[name] = int(np.argmin(filled))
            filled[place[name]] += sizes[name]
    return np.array([place[name] for name in names], dtype=np.int32)


def bm25_candidates(functions: Sequence[Function], members: IntArray, queries: IntArray, depth: int) -> Candidates:
    """Retrieve with BM25 as mteb's baseline sets it up (bm25s, English stop words and stemmer).

    Args:
        functions: The corpus.
        members: Places of the documents searched.
        queries: Places of the functions whose summaries are the queries; each is a member.
        depth: Candidates of a query.
    """
    import bm25s
    from Stemmer import Stemmer

    stemmer = Stemmer("english")
    options: dict[str, Any] = {"stopwords": "en", "stemmer": stemmer, "show_progress": False}
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize([functions[i].code for i in members], **options), show_progress=False)
    asked = bm25s.tokenize([functions[i].summary for i in queries], return_ids=False, **options)
    depth = min(depth, len(members))
    row_of = {int(place): row for row, place in enumerate(members)}
    documents = np.full((len(queries), depth), -1, dtype=np.int32)
    found = np.zeros((len(queries), depth), dtype=np.float32)
    positive = np.zeros(len(queries), dtype=np.float32)
    for row, words in enumerate(asked):
        scores = retriever.get_scores(words) if words else np.zeros(len(members), dtype=np.float32)
        best = np.argpartition(-scores, depth - 1)[:depth]
        best = best[np.argsort(-scores[best], kind="stable")]
        documents[row], found[row] = members[best], scores[best]
        positive[row] = scores[row_of[int(queries[row])]]
    return Candidates(queries, documents, found, positive)


def dense_candidates(
    queries: IntArray, members: IntArray, query_vectors: torch.Tensor, vectors: torch.Tensor, depth: int
) -> Candidates:
    """Retrieve by the cosine of normalised vectors.

    Args:
        queries: Places of the queries' functions; each is a member.
        members: Places of the documents searched.
        query_vectors: (len(queries), d).
        vectors: (len(members), d).
        depth: Candidates of a query.
    """
    row_of = {int(place): row for row, place in enumerate(members)}
    own = torch.tensor([row_of[int(place)] for place in queries])
    pieces = []
    for start in range(0, len(queries), 1024):
        part = query_vectors[start : start + 1024] @ vectors.T
        best = part.topk(min(depth, len(members)), dim=1)
        pieces.append((best.indices, best.values, part.gather(1, own[start : start + 1024, None])[:, 0]))
    indices, values, positive = (torch.cat(column) for column in zip(*pieces, strict=True))
    return Candidates(queries, members[indices.numpy()], values.numpy(), positive.numpy())


def minilm_vectors(texts: Sequence[str], max_tokens: int) -> torch.Tensor:
    """Encode texts with all-MiniLM-L6-v2, in bfloat16 on a CPU.

    Args:
        texts: The texts.
        max_tokens: Where they are cut.

    Returns:
        (n, 384) float32, normalised.
    """
    from sentence_transformers import SentenceTransformer

    from rerank_eval.config.schema import MINILM
    from rerank_eval.models.resolve import resolve_model

    model = SentenceTransformer(resolve_model(MINILM, None, "training").source, device="cpu")
    model.max_seq_length = max_tokens
    # Not autocast, which converts the weights at every call: 1.5x as fast, and 0.9999 alike float32's.
    vectors = model.bfloat16().encode(list(texts), batch_size=64, convert_to_tensor=True, show_progress_bar=False)
    return torch.nn.functional.normalize(vectors.float().cpu(), dim=1)
