"""Rerankers that are Python code: a class or object with `score`, `predict` or `rank`, or a function.

    class MyReranker:
        revision = "1"  # changed with whatever it reads, such as weights

        def score(self, query, documents, instruction):
            return [...]  # a number for each document; higher is better

`instruction` may be left out. `predict(pairs)` takes (query, document) pairs, as sentence-transformers' CrossEncoder.
A class with `rank` and neither of these is listwise, see `rerankers.listwise`. One whose `score` reads the documents
together, so that a score depends on the others, says so by `listwise = True`: its scores are kept for the very list.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from rerank_eval.config.listwise import ListwiseConfig
from rerank_eval.config.schema import RerankerConfig
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import EngineStats, FloatArray, QueryGroup, RenderedPrompt, Scores
from rerank_eval.engine.listwise import arranged, read_ranking, scores_by_rank, slide
from rerank_eval.engine.memory import is_out_of_memory
from rerank_eval.errors import ModelError
from rerank_eval.models.python_objects import find_object, make_object, parameters
from rerank_eval.models.ref import ModelRef
from rerank_eval.registry import RERANKERS
from rerank_eval.rerankers.family import Prepared, Prompting
from rerank_eval.rerankers.instructions import InstructionPolicy
from rerank_eval.rerankers.listwise import list_identity, list_settings

logger = logging.getLogger(__name__)


class _NoSpecialTokens:
    """Whatever Python code makes of special tokens, it is not known here."""

    def found(self, text: str) -> tuple[str, ...]:
        """See `SpecialTokenFinder.found`."""
        return ()


class ObjectEngine:
    """A Python reranker as an engine.

    Args:
        part: The object or function.
        label: Its name, for error messages.

    Attributes:
        causal, settings, special_tokens, stats: See `Engine`.
    """

    def __init__(self, part: Any, label: str) -> None:
        self.causal = False
        self.settings: Mapping[str, str | int] = {}
        self.special_tokens = _NoSpecialTokens()
        self.stats = EngineStats()
        self._label = label
        self._score = scoring_function(part)
        self._by_pairs, self._takes_instruction = _by_pairs(part), takes_instruction(part)

    def score(self, group: QueryGroup) -> Scores:
        """See `Engine.score`.

        Raises:
            EngineError: The code raised an exception, or returned something else than a number for each document.
        """
        count, started = len(group.documents), time.perf_counter()
        if count == 0:
            return Scores.empty()
        values = self._values(group)
        scores = Scores.empty(count)
        scores.scores[:], scores.margins[:] = values, values
        self.stats += EngineStats(pairs=count, groups=1, seconds=time.perf_counter() - started)
        return scores

    def _values(self, group: QueryGroup) -> FloatArray:
        """Return a number for each document."""
        answer, count = self._answer(group), len(group.documents)
        try:
            values = np.asarray(answer.tolist() if hasattr(answer, "tolist") else answer, dtype=np.float64)
        except (TypeError, ValueError):
            raise EngineError(f"{self._label} returned no list of numbers but {str(answer)[:60]!r}") from None
        if values.shape != (count,):
            raise EngineError(f"{self._label} returned shape {values.shape} for {count} documents, not ({count},)")
        return values

    def _answer(self, group: QueryGroup) -> Any:
        try:
            return self._ask(group)
        except Exception as error:  # whatever somebody's code does
            if is_out_of_memory(error):
                raise
            logger.debug("%s failed", self._label, exc_info=True)
            raise EngineError(f"{self._label} raised {type(error).__name__}: {error}") from error

    def _ask(self, group: QueryGroup) -> Any:
        if self._takes_instruction:
            return self._score(group.query, list(group.documents), instruction=group.instruction)
        query = _with_instruction(group.query, group.instruction)
        if self._by_pairs:
            return self._score([(query, document) for document in group.documents])
        return self._score(query, list(group.documents))

    def score_groups(self, groups: Iterable[QueryGroup]) -> Iterator[Scores]:
        """See `Engine.score_groups`."""
        return map(self.score, groups)

    def render(self, query: str, document: str, instruction: str | None) -> RenderedPrompt:
        """See `Engine.render`; what the code makes of its texts is not known, so there are no tokens."""
        return RenderedPrompt(f"{_with_instruction(query, instruction)}\n{document}", (), truncated=False)


class ListEngine(ObjectEngine):
    """A listwise Python reranker as an engine: windows over what has `rank`, the whole list to what has `score`.

    Args:
        part: The object or function.
        label: Its name, for error messages.
        settings: Windows and order.

    Attributes:
        listwise: See `reads_lists`.
    """

    listwise = True

    def __init__(self, part: Any, label: str, settings: ListwiseConfig) -> None:
        super().__init__(part, label)
        self._ranks = ranks(part)
        self._list = settings

    def _values(self, group: QueryGroup) -> FloatArray:
        """Return scores that descend by rank, from the number of documents to 1; or what `score` says."""
        ordered, places = arranged(group, self._list.order)
        values = self._by_rank(ordered) if self._ranks else super()._values(ordered)
        result = np.zeros(len(places))
        result[places] = values
        return result

    def _by_rank(self, group: QueryGroup) -> FloatArray:
        def rank(places: list[int]) -> list[int]:
            texts = [group.documents[place] for place in places]
            answer = self._answer(QueryGroup(group.query, group.instruction, texts))
            try:
                ranking, repaired = read_ranking(answer, len(places))
            except EngineError as error:
                raise EngineError(f"{self._label} {error}") from None
            if repaired and not self.stats.repaired_windows:
                logger.warning(
                    "%s: query %r: %r is no permutation of %d documents and was repaired; so are others, counted",
                    *(self._label, group.query[:40], str(answer)[:40], len(places)),
                )
            self.stats += EngineStats(windows=1, repaired_windows=int(repaired))
            return [places[one] for one in ranking]

        settings = self._list
        return scores_by_rank(
            slide(
                len(group.documents),
                settings.effective_window,
                settings.effective_stride,
                settings.effective_passes,
                rank,
            )
        )


def _with_instruction(query: str, instruction: str | None) -> str:
    return f"{query} {instruction}" if instruction else query


def ranks(part: Any) -> bool:
    """Tell whether a reranker is asked for a ranking, by `rank`.

    sentence-transformers' CrossEncoder has a `rank` of another kind beside `predict`.
    """
    if not hasattr(part, "rank"):
        return False
    return getattr(part, "listwise", None) is True or not (hasattr(part, "score") or hasattr(part, "predict"))


def is_listwise(part: Any) -> bool:
    """Tell whether a reranker's scores hold for the very list of documents alone."""
    return ranks(part) or getattr(part, "listwise", None) is True


def scoring_function(part: Any) -> Any:
    """Return what is asked: `rank` of a listwise reranker, else `score`, `predict`, or the function; else None."""
    for name in ("rank",) if ranks(part) else ("score", "predict"):
        if hasattr(part, name):
            return getattr(part, name)
    return part if not isinstance(part, type) and parameters(part)[:2] == ["query", "documents"] else None


def takes_instruction(part: Any) -> bool:
    """Tell whether what a reranker is asked by has a parameter `instruction`."""
    return not _by_pairs(part) and "instruction" in parameters(scoring_function(part))


def _by_pairs(part: Any) -> bool:
    return hasattr(part, "predict") and not hasattr(part, "score") and not ranks(part)


class PythonObject:
    """See the module; `Family` says what each method does."""

    def serves(self, ref: ModelRef) -> bool:
        """See `Family.serves`."""
        return ref.origin == "python"

    def prepare(self, config: RerankerConfig, ref: ModelRef, prompting: Prompting) -> Prepared:
        """See `Family.prepare`."""
        part = find_object(config, ref, "reranker", RERANKERS)
        if scoring_function(part) is None:
            raise ModelError(
                f"reranker.model: {ref.label} has neither score(query, documents) nor predict(pairs) nor "
                "rank(query, documents), so that it is no reranker"
            )
        if takes_instruction(part):
            policy = InstructionPolicy(config.instruction, None, instructions=prompting.instructions, place="its own")
        elif config.instruction in {"task", "none"}:
            policy = InstructionPolicy(config.instruction, None, reads_task_prompt=False, place="behind the query")
        else:
            name = "rank" if ranks(part) else "score"
            raise ModelError(
                f"reranker.instruction: {ref.label} takes no instruction; give its {name} a parameter `instruction`, "
                "or set this to task (a query's own, FollowIR's kind, then stands behind the query) or none"
            )
        identity: dict[str, Any] = {"options": config.options} if config.options else {}
        listwise = is_listwise(part)
        if listwise:
            identity["listwise"] = list_identity(config, ref, by_windows=ranks(part))
        return Prepared(config, ref, prompting, policy, identity, listwise=listwise)

    def load(self, prepared: Prepared, device: str) -> ObjectEngine:
        """See `Family.load`."""
        config, label = prepared.config, prepared.ref.label
        part = make_object(config, prepared.ref, "reranker", RERANKERS, device)
        if is_listwise(part) != prepared.listwise:  # set by its constructor, which identities cannot wait for
            raise ModelError(f"reranker.model: {label} has `listwise` in an object only; set it in the class")
        return ListEngine(part, label, list_settings(config)) if prepared.listwise else ObjectEngine(part, label)


PART = PythonObject()
