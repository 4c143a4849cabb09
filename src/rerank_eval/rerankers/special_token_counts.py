"""How many texts hold special tokens such as `<|im_end|>`: every result says it, so that no turn closes unseen."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from rerank_eval.config.renamed import spelled_before
from rerank_eval.engine.interface import QueryGroup, SpecialTokenFinder


class SpecialTokenCounts:
    """Counts the texts with special tokens among what a reranker is given, whether it scores them now or did so before.

    Texts are looked at as they stand: also where a special token lies beyond what `max_length` leaves of a text.
    """

    def __init__(self) -> None:
        self._pairs = 0
        self._queries = 0
        self._documents: set[bytes] = set()
        self._of: Counter[str] = Counter()

    def look(self, group: QueryGroup, finder: SpecialTokenFinder) -> None:
        """Look at a query, its instruction and its documents."""
        of_query = {*finder.found(group.query), *finder.found(group.instruction or "")}
        self._queries += bool(of_query)
        for document in group.documents:
            found = finder.found(document)
            if found:
                self._documents.add(hashlib.blake2b(document.encode(errors="surrogatepass"), digest_size=16).digest())
            if found or of_query:
                self._pairs += 1
                self._of.update(of_query.union(found))

    def summary(self, mode: str) -> dict[str, Any]:
        """Return what a manifest says.

        Args:
            mode: What becomes of special tokens, `keep` or `escape`, which manifests spell `neutralise`.

        Returns:
            `mode`; `pairs` with a special token in any text; `queries` whose own text or instruction holds one;
            distinct `documents` that hold one; `found`: special token -> pairs.
        """
        return {
            "mode": spelled_before(mode),
            "pairs": self._pairs,
            "queries": self._queries,
            "documents": len(self._documents),
            "found": dict(sorted(self._of.items(), key=lambda item: (-item[1], item[0]))),
        }
