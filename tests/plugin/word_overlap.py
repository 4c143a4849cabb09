"""A reranker and a retriever that count common words, as a package of somebody else's would declare them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


class Overlap:
    """The share of the query's words that a document has, less a penalty for each of the document's words."""

    revision = "1"

    def __init__(self, penalty: float = 0.0) -> None:
        self.penalty = penalty

    def score(self, query: str, documents: Sequence[str], instruction: str | None) -> list[float]:
        asked = words(f"{instruction or ''} {query}")
        return [
            len(asked & words(document)) / max(len(asked), 1) - self.penalty * len(words(document))
            for document in documents
        ]


class WordSearch:
    """The documents with the most words of the query."""

    def search(self, corpus: Mapping[str, str], queries: Mapping[str, str], top_k: int) -> dict[str, dict[str, float]]:
        known = {document_id: words(text) for document_id, text in corpus.items()}
        found = {}
        for query_id, text in queries.items():
            asked = words(text)
            scores = {document_id: float(len(asked & have)) for document_id, have in known.items()}
            best = sorted(scores, key=lambda document_id: (-scores[document_id], document_id))[:top_k]
            found[query_id] = {document_id: scores[document_id] for document_id in best}
        return found


def bare(query: str, documents: Sequence[str]) -> list[int]:
    """A function is a reranker too."""
    return [len(words(query) & words(document)) for document in documents]
