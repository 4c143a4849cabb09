"""Listwise rerankers as Python code: what one has to have, and what of the config's settings it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from rerank_eval.config.listwise import ListwiseConfig
from rerank_eval.config.schema import RerankerConfig
from rerank_eval.errors import ModelError
from rerank_eval.models.ref import ModelRef


class ListwiseReranker(Protocol):
    """A reranker that is given several candidates of a query at once, and says in which order they belong.

    Windows over longer lists are not its business: `reranker.listwise` has window, stride, passes and order. It may
    state a `revision`, as every Python reranker.
    """

    def rank(self, query: str, documents: list[str], instruction: str | None) -> Sequence[int] | str:
        """Rank the documents of one window.

        Args:
            query: The query.
            documents: Their texts, in the order in which they are to be read.
            instruction: What the config chooses, or None. The parameter may be left out: a query's own instruction
                then stands behind the query.

        Returns:
            Places of the documents, best first, counted from 0; or a model's text, such as `[2] > [1]`, whose numbers
            count from 1. Of what is named twice the first mention counts, and what is not named follows in its old
            order: such windows are counted.
        """
        ...


def list_settings(config: RerankerConfig) -> ListwiseConfig:
    """Return how lists are read, null standing for the defaults."""
    return config.listwise or ListwiseConfig()


def list_identity(config: RerankerConfig, ref: ModelRef, *, by_windows: bool) -> dict[str, Any]:
    """Return what of `reranker.listwise` can change a score.

    Args:
        config: The reranker's section of the config.
        ref: The model, for error messages.
        by_windows: Whether it reads windows; otherwise it reads the whole list at once.

    Raises:
        ModelError: A key is set that nothing reads.
    """
    settings = list_settings(config)
    if by_windows:
        return {
            "window": settings.effective_window,
            "stride": settings.effective_stride,
            "passes": settings.effective_passes,
            "order": settings.order,
        }
    for key in ("window", "stride", "passes"):
        if getattr(settings, key) is not None:
            raise ModelError(
                f"reranker.listwise.{key}: {ref.label} reads a query's whole list at once, without windows; take it out"
            )
    return {"order": settings.order}
