"""Evaluation harness for rerankers: retrieve candidates, rerank them, judge the result.

In ten lines (nothing is printed; a problem that you can mend is a `rerank_eval.errors.RerankEvalError`):

    import rerank_eval

    results = rerank_eval.evaluate("offline", tasks="PyModuleRetrieval", results_dir="results")
    results.table()      # the leaderboard, a pandas frame
    results.per_query()  # every metric of every query, a pandas frame
    other = rerank_eval.evaluate("offline", tasks="PyModuleRetrieval", **{"reranker.instruction": "none"})
    rerank_eval.compare(results, other).table()  # differences, intervals, p-values

    reranker = rerank_eval.load_reranker("Qwen/Qwen3-Reranker-0.6B", device="cuda")
    reranker.score("capital of China?", ["Beijing is.", "Paris is not."])  # float64, one a document
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerank_eval.rerankers.listwise import ListwiseReranker as ListwiseReranker
    from rerank_eval.session.api import Compared as Compared
    from rerank_eval.session.api import Results as Results
    from rerank_eval.session.api import compare as compare
    from rerank_eval.session.api import evaluate as evaluate
    from rerank_eval.session.api import load_reranker as load_reranker

try:
    __version__ = version("rerank-eval")
except PackageNotFoundError:  # the engine is also used straight from a source tree
    __version__ = "0+source"

__all__ = ["Compared", "ListwiseReranker", "Results", "__version__", "compare", "evaluate", "load_reranker"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: the engine is also used where neither mteb nor pydantic is installed."""
    if name in __all__:
        import_module("rerank_eval.engine.quiet").settle()  # before torch is imported, if it is not yet
        protocol = name == "ListwiseReranker"
        return getattr(import_module(f"rerank_eval.{'rerankers.listwise' if protocol else 'session.api'}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
