"""Evaluation harness for rerankers: retrieve candidates, rerank them, judge the result."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rerank-eval")
except PackageNotFoundError:  # the engine is also used straight from a source tree
    __version__ = "0+source"

__all__ = ["__version__"]
