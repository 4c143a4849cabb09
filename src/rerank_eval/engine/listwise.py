"""Rankings of whole lists: in which order documents are read, sliding windows over them, and what an answer says.

A listwise score belongs to a document among the others, in the order in which all of them are read. Windows slide from
the end of the list to its top, as in RankGPT (arXiv 2304.09542) and RankZephyr (2312.02724): what is best in one window
is read again in the next one above it. Where they stand is rank_llm's (castorini/rank_llm, `sliding_windows`), whose
last window reaches the top of the list whatever its length. In RankGPT's first code, a list that the stride does not
divide keeps its top unread; in rank_llm's, one of exactly a window less a stride is not read. Here all are.
"""

from __future__ import annotations

import hashlib
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import FloatArray, QueryGroup

Order = Literal["given", "reversed", "shuffled"]

_NUMBER = re.compile(r"[0-9]+")
_DIGITS = 9
"""More than any list has; Python refuses to read numbers of thousands of digits."""


def arranged(group: QueryGroup, order: Order) -> tuple[QueryGroup, list[int]]:
    """Put a group's documents into the order in which a listwise reranker reads them.

    Args:
        group: The query with its documents in the first stage's order, best first.
        order: `given` leaves them; `reversed` begins with the last one; `shuffled` goes by a digest of query and
            document, so that it is the same in every run and says nothing of where a document stood.

    Returns:
        The group anew, and for each of its documents the place that it had.
    """
    places = list(range(len(group.documents)))
    if order == "reversed":
        places.reverse()
    elif order == "shuffled":  # equal documents keep their order: nothing tells them apart
        places.sort(key=lambda place: _digest(group.query, group.documents[place]))
    return QueryGroup(group.query, group.instruction, [group.documents[place] for place in places]), places


def _digest(query: str, document: str) -> bytes:
    texts = [text.encode("utf-8", "surrogatepass") for text in (query, document)]
    return hashlib.blake2b(len(texts[0]).to_bytes(8, "little") + b"".join(texts), digest_size=16).digest()


def windows(count: int, window: int, stride: int) -> Iterator[tuple[int, int]]:
    """Yield the windows of one pass over a list, from its end to its top, as (first, behind the last).

    Args:
        count: Documents in the list.
        window: Documents in a window.
        stride: By how many documents the next window begins above the last one; at most `window`.
    """
    start, stop = count - window, count
    while stop > 0:
        yield max(start, 0), stop
        if start <= 0:
            return
        start, stop = start - stride, stop - stride


def slide(count: int, window: int, stride: int, passes: int, rank: Callable[[list[int]], Sequence[int]]) -> list[int]:
    """Rank a list by windows.

    Args:
        count: Documents in the list.
        window: As for `windows`.
        stride: As for `windows`.
        passes: How often the windows go over the whole list.
        rank: Given the documents in a window, by their places in the list, returns these places best first. It is not
            asked about a document alone.

    Returns:
        All places, best first.
    """
    ranking = list(range(count))
    for _ in range(passes):
        for start, stop in windows(count, window, stride):
            if stop - start > 1:
                ranking[start:stop] = rank(ranking[start:stop])
    return ranking


def scores_by_rank(ranking: Sequence[int]) -> FloatArray:
    """Return scores that descend by rank: the number of documents for the best one, down to 1.

    Args:
        ranking: Places of n documents, best first.

    Returns:
        float64, shape (n,), in the order of the places.
    """
    scores = np.zeros(len(ranking))
    scores[list(ranking)] = np.arange(len(ranking), 0, -1)
    return scores


def read_ranking(answer: Any, count: int) -> tuple[list[int], bool]:
    """Read a window's answer, and repair what is no permutation as RankGPT and rank_llm do.

    Of documents that are named twice the first mention counts; documents that are not named follow in their old order.

    Args:
        answer: Places of documents, best first, counted from 0; or a model's text, such as `[2] > [1]`, whose numbers
            count from 1 and mean nothing where they are too large.
        count: Documents in the window.

    Returns:
        The places of all documents, best first; and whether the answer had to be repaired.

    Raises:
        EngineError: It is neither text nor a list of whole numbers, or one of them is no place in the window: it would
            be code that counts otherwise, and not a model's slip.
    """
    if isinstance(answer, str):
        named = [int(one) - 1 if len(one) <= _DIGITS else count for one in _NUMBER.findall(answer)]
    else:
        named = _whole_numbers(answer)
        outside = next((one for one in named if not 0 <= one < count), None)
        if outside is not None:
            raise EngineError(f"ranked document {outside} of {count}; places count from 0")
    known = [one for one in dict.fromkeys(named) if 0 <= one < count]
    missing = sorted(set(range(count)).difference(known))
    return known + missing, len(named) != count or bool(missing)


def _whole_numbers(answer: Any) -> list[int]:
    problem = EngineError(f"returned no ranking, which is a list of whole numbers or a text, but {str(answer)[:60]!r}")
    values = answer.tolist() if hasattr(answer, "tolist") else answer
    # An iterator could be read once and raise anything; a set has no order.
    if not isinstance(values, Sequence) or isinstance(values, bytes) or any(isinstance(one, bool) for one in values):
        raise problem
    try:
        return [operator.index(one) for one in values]
    except TypeError:
        raise problem from None
