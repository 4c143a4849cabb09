"""The section `reranker.listwise` of a config."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

WINDOW = 20
"""RankGPT's and RankZephyr's, with a stride of half of it."""


class ListwiseConfig(BaseModel):
    """How a listwise reranker reads a query's candidates. All of it is part of a result's identity."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    window: int | None = Field(default=None, ge=2, le=1000)
    """Candidates that a reranker with `rank` is given at a time; null takes 20. One that reads a whole list at once has
    no windows, and refuses this, `stride` and `passes`."""
    stride: int | None = Field(default=None, ge=1, le=1000)
    """By how many candidates the next window begins higher, from the end of the list to its top; null takes half of the
    window."""
    passes: int | None = Field(default=None, ge=1, le=100)
    """How often windows go over the list; null takes 1."""
    order: Literal["given", "reversed", "shuffled"] = "given"
    """In which order candidates are read: `given`, the first stage's, best first; `reversed`; `shuffled`, by a digest
    of query and document, the same in every run."""

    @model_validator(mode="after")
    def _strides_leave_nothing_out(self) -> ListwiseConfig:
        window, stride = self.effective_window, self.effective_stride
        if stride > window:
            raise ValueError(f"stride {stride} exceeds the window of {window}: candidates between would not be read")
        return self

    @property
    def effective_window(self) -> int:
        """`window`, or what null stands for."""
        return self.window or WINDOW

    @property
    def effective_stride(self) -> int:
        """`stride`, or what null stands for."""
        return self.stride or self.effective_window // 2

    @property
    def effective_passes(self) -> int:
        """`passes`, or what null stands for."""
        return self.passes or 1
