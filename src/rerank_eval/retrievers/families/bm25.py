"""Sparse retrieval: BM25 by bm25s, through mteb's own language-aware baseline."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from rerank_eval.config.schema import BM25
from rerank_eval.errors import DataError
from rerank_eval.models.ref import ModelRef
from rerank_eval.retrievers.family import Chosen
from rerank_eval.retrievers.retriever import SearchRequest


class Bm25Backend:
    """BM25 by bm25s, through mteb's own language-aware baseline."""

    def search(self, request: SearchRequest) -> dict[str, dict[str, float]]:
        """See `Backend.search`."""
        from mteb.models.model_implementations.bm25 import BM25Search

        within = request.within
        # bm25s draws bars of its own, and mteb's baseline gives no way to say no.
        with contextlib.redirect_stderr(io.StringIO()):
            model = BM25Search()
            try:
                model.index(request.corpus, **request.context, encode_kwargs={})
            except ValueError as error:  # bm25s: max() of an empty vocabulary
                task = request.context["task_metadata"].name
                raise DataError(f"{task}: BM25 finds no word in the corpus but stop words ({error})") from error
            request.advance(len(request.corpus))
            found: dict[str, dict[str, float]] = model.search(
                request.queries,
                **request.context,
                # mteb's baseline cuts to the best of the whole corpus before it keeps a query's own list.
                top_k=request.depth if within is None else len(request.corpus),
                encode_kwargs={},
                top_ranked=None if within is None else dict(within),
            )
        request.advance(len(request.queries))
        return found

    @property
    def work(self) -> dict[str, float]:
        """See `Backend.work`; bm25s does not count."""
        return {}

    def prompts(self, task_metadata: Any) -> None:
        """See `Backend.prompts`; BM25 has none."""


class Bm25:
    """See the module; `Family` says what each method does."""

    def serves(self, ref: ModelRef) -> bool:
        """See `Family.serves`."""
        return ref.source == BM25

    def identity(self, chosen: Chosen) -> dict[str, Any]:
        """See `Family.identity`."""
        return {}

    def load(self, chosen: Chosen, device: str, results_dir: Path | None) -> Bm25Backend:
        """See `Family.load`."""
        return Bm25Backend()


PART = Bm25()
