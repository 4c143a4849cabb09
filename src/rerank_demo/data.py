"""Everything that a training run reads, prepared once in a working folder: tokens, shards, candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from rerank_demo import corpus
from rerank_demo.mining import (
    DEPTH,
    HELD_OUT,
    Candidates,
    bm25_candidates,
    dense_candidates,
    minilm_vectors,
    shards,
)
from rerank_demo.tokenizer import load_tokenizer, train_tokenizer
from rerank_eval.engine.prompts import token_ids
from rerank_eval.engine.recipes.card import RECIPE as CARD
from rerank_eval.tasks.embedded.stdlib import Function
from rerank_eval.tasks.embedded.texts import sha_order

VOCABULARY = 16_000
MAX_TOKENS = 400
"""Tokens kept of a function."""
HELD_OUT_QUERIES = 300
HELD_OUT_DOCUMENTS = 4_000

MINILM_WIDTH = 384

IntArray = NDArray[np.int32]


@dataclass(frozen=True)
class Ragged:
    """Lists of token ids in one array.

    Attributes:
        flat: All ids.
        ends: (n,) one past each list's last place in `flat`.
    """

    flat: NDArray[np.uint16]
    ends: NDArray[np.int64]

    @classmethod
    def pack(cls, lists: Sequence[Sequence[int]]) -> Ragged:
        """Join lists."""
        flat = np.array([token for ids in lists for token in ids], dtype=np.uint16)
        return cls(flat, np.cumsum([len(ids) for ids in lists], dtype=np.int64))

    def __getitem__(self, place: int) -> list[int]:
        """Return one list."""
        begin = int(self.ends[place - 1]) if place else 0
        ids: list[int] = self.flat[begin : int(self.ends[place])].tolist()
        return ids

    def __len__(self) -> int:
        """Return the number of lists."""
        return len(self.ends)


@dataclass(frozen=True)
class Teacher:
    """MiniLM's vectors, from which its opinion of any pair follows.

    Attributes:
        documents: (functions, 384) float16 of each function's code; zeros for the held-out packages.
        queries: (training queries, 384) float16.
    """

    documents: NDArray[np.float16]
    queries: NDArray[np.float16]

    def save(self, path: Path) -> None:
        """Write to an .npz file, whole or not at all."""
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, documents=self.documents, queries=self.queries)
        temporary.rename(path)

    @classmethod
    def load(cls, path: Path) -> Teacher:
        """Read what `save` wrote."""
        with np.load(path) as found:
            return cls(found["documents"], found["queries"])

    def cosines(self, row: int, places: Sequence[int]) -> NDArray[np.float32]:
        """Compare a training query with documents.

        Args:
            row: The query's row.
            places: Places of functions.

        Returns:
            (len(places),) float32.
        """
        asked = self.queries[row].astype(np.float32)
        found: NDArray[np.float32] = self.documents[list(places)].astype(np.float32) @ asked
        return found


@dataclass(frozen=True)
class TrainingData:
    """What is trained and evaluated on.

    Attributes:
        functions: The corpus.
        tokenizer: The reranker's own.
        documents: Per function the ids of its code as the recipe renders it.
        queries: Per function the ids of the query line with its summary.
        shard: (n,) see `mining.shards`.
        bm25: Candidates of the training queries.
        minilm: The same by MiniLM; None until they are computed.
        teacher: MiniLM's vectors; None until they are computed.
    """

    functions: list[Function]
    tokenizer: PreTrainedTokenizerBase
    documents: Ragged
    queries: Ragged
    shard: IntArray
    bm25: Candidates
    minilm: Candidates | None
    teacher: Teacher | None = None

    def members(self, shard: int) -> IntArray:
        """List a shard's functions."""
        return np.flatnonzero(self.shard == shard).astype(np.int32)


def _tokens(folder: Path, functions: Sequence[Function], tokenizer: PreTrainedTokenizerBase) -> tuple[Ragged, Ragged]:
    path = folder / "tokens.npz"
    if not path.is_file():
        documents = Ragged.pack(
            [ids[:MAX_TOKENS] for ids in token_ids(tokenizer, [_document(one.code[:4000]) for one in functions])]
        )
        queries = Ragged.pack(token_ids(tokenizer, [_query(one.summary) for one in functions]))
        temporary = path.with_suffix(".tmp.npz")
        np.savez(temporary, a=documents.flat, b=documents.ends, c=queries.flat, d=queries.ends)
        temporary.rename(path)
    with np.load(path) as found:
        return Ragged(found["a"], found["b"]), Ragged(found["c"], found["d"])


def _tokenizer(folder: Path, functions: Sequence[Function], shard: IntArray, size: int) -> PreTrainedTokenizerBase:
    target = folder / "tokenizer"
    if not (target / "tokenizer.json").is_file():
        trained = [one for one, place in zip(functions, shard, strict=True) if place != HELD_OUT]
        texts = (text[:3000] for one in trained for text in (one.code, one.summary, one.summary))
        train_tokenizer(texts, size).save_pretrained(target)
    return load_tokenizer(target)


def train_queries(functions: Sequence[Function], shard: IntArray) -> IntArray:
    """List the functions whose summaries are training queries."""
    return np.array([i for i in corpus.askable(functions) if shard[i] != HELD_OUT], dtype=np.int32)


def held_out_queries(functions: Sequence[Function], shard: IntArray) -> IntArray:
    """List the functions of held-out packages whose summaries the evaluation asks."""
    held = [i for i in corpus.askable(functions) if shard[i] == HELD_OUT]
    return np.array(
        sorted(sorted(held, key=lambda i: sha_order(f"asked:{functions[i].id}"))[:HELD_OUT_QUERIES]), dtype=np.int32
    )


def held_out_documents(functions: Sequence[Function], shard: IntArray, queries: IntArray) -> IntArray:
    """List the functions of held-out packages that the evaluation searches: the queries' own and others."""
    asked = {int(place) for place in queries}
    others = [int(i) for i in np.flatnonzero(shard == HELD_OUT) if int(i) not in asked]
    chosen = sorted(others, key=lambda i: sha_order(f"searched:{functions[i].id}"))[: HELD_OUT_DOCUMENTS - len(asked)]
    return np.array(sorted([*asked, *chosen]), dtype=np.int32)


def _bm25(folder: Path, functions: Sequence[Function], shard: IntArray) -> Candidates:
    path = folder / "bm25.npz"
    if not path.is_file():
        asked = train_queries(functions, shard)
        parts = []
        for number in range(int(shard.max()) + 1):
            members = np.flatnonzero(shard == number).astype(np.int32)
            parts.append(bm25_candidates(functions, members, asked[shard[asked] == number], DEPTH))
        joined = joined_candidates(parts)
        joined.save(path)
    return Candidates.load(path)


def joined_candidates(parts: Sequence[Candidates]) -> Candidates:
    """Join the candidates of several shards, in the order of their queries."""
    order = np.argsort(np.concatenate([part.queries for part in parts]), kind="stable")
    depth = min(part.documents.shape[1] for part in parts)
    return Candidates(
        np.concatenate([part.queries for part in parts])[order],
        np.concatenate([part.documents[:, :depth] for part in parts])[order],
        np.concatenate([part.scores[:, :depth] for part in parts])[order],
        np.concatenate([part.positive for part in parts])[order],
    )


def prepare(
    folder: Path,
    *,
    allow_download: bool = True,
    vocabulary: int = VOCABULARY,
    listed: list[corpus.Package] | None = None,
) -> TrainingData:
    """Prepare the data, each step once.

    Args:
        folder: Working folder.
        allow_download: Get missing wheels by pip.
        vocabulary: Size of the vocabulary.
        listed: The packages; the project's list when None.

    Returns:
        The data; the same for the same packages.

    Raises:
        DataError: A wheel is missing.
    """
    functions = corpus.read(corpus.build(folder, allow_download=allow_download, listed=listed))
    shard = shards(functions)
    tokenizer = _tokenizer(folder, functions, shard, vocabulary)
    documents, queries = _tokens(folder, functions, tokenizer)
    bm25, mined = _bm25(folder, functions, shard), folder / "minilm.npz"
    minilm = Candidates.load(mined) if mined.is_file() else None
    if minilm is not None:  # what was mined in part is trained on in part
        bm25 = bm25.of(minilm.queries)
    return TrainingData(
        functions=functions,
        tokenizer=tokenizer,
        documents=documents,
        queries=queries,
        shard=shard,
        bm25=bm25,
        minilm=minilm,
        teacher=Teacher.load(folder / "vectors.npz") if minilm is not None else None,
    )


def mine_minilm(
    folder: Path, data: TrainingData, count: int | None = None, max_tokens: int = 128
) -> tuple[Candidates, Teacher]:
    """Compute MiniLM's vectors and candidates, shard by shard, each once.

    Args:
        folder: Working folder.
        data: The training data.
        count: Shards to have, the first ones; all when None. What is trained on afterwards are their queries alone, so
            that a short session need not wait for what it would not come to.
        max_tokens: Where MiniLM cuts.

    Returns:
        The candidates and the vectors, also stored for the next `prepare`.
    """
    bm25, total = _bm25(folder, data.functions, data.shard), int(data.shard.max()) + 1
    numbers = range(total if count is None else min(count, total))
    asked = bm25.queries[data.shard[bm25.queries] < len(numbers)]
    teacher = Teacher(
        np.zeros((len(data.functions), MINILM_WIDTH), np.float16), np.zeros((len(asked), MINILM_WIDTH), np.float16)
    )
    parts = []
    for number in numbers:
        members, rows = data.members(number), np.flatnonzero(data.shard[asked] == number)
        path = folder / f"minilm-{number}.npz"
        if not path.is_file():
            documents = minilm_vectors([data.functions[i].code for i in members], max_tokens).half()
            queries = minilm_vectors([data.functions[i].summary for i in asked[rows]], max_tokens).half()
            Teacher(documents.numpy(), queries.numpy()).save(folder / f"vectors-{number}.npz")
            dense_candidates(asked[rows], members, queries.float(), documents.float(), DEPTH).save(path)
            print(f"MiniLM's candidates: shard {number} of {total}", flush=True)  # noqa: T201
        part = Teacher.load(folder / f"vectors-{number}.npz")
        teacher.documents[members], teacher.queries[rows] = part.documents, part.queries
        parts.append(Candidates.load(path))
    teacher.save(folder / "vectors.npz")
    joined = joined_candidates(parts)
    joined.save(folder / "minilm.npz")
    return joined, teacher


def _query(text: str) -> str:
    return CARD.query_template.format(query=text)


def _document(text: str) -> str:
    return CARD.document_template.format(document=text)
