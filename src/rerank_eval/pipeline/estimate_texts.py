"""How much text a task has: from its data where that is here, else from mteb's descriptive statistics.

A mean length does not do: ten documents of 100 tokens and one of 50,000 are not eleven of 4,636. At a limit of 8,192
tokens they come to 9,192 tokens, not to 51,000. So lengths are kept as a spread around their mean.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

from rerank_eval.config import RetrieverConfig
from rerank_eval.engine.recipe import Recipe
from rerank_eval.files import load_json
from rerank_eval.shipped import evals_root
from rerank_eval.tasks import prepare
from rerank_eval.tasks.registry import TaskRef, build
from rerank_eval.tasks.suites import load_suites

BINS = 64
"""Parts of equal weight in which a spread is kept."""
EQUAL = (1.0,)
"""The spread of texts that are all of one length."""
GUESSED = (60, 800)
"""Characters of a query and of a document where nothing tells them: about the median task's of the six suites."""
SHARED = 0.28
"""Share of the top 100 that two retrievers have in common where nothing tells: measured of BM25 and MiniLM on the
embedded functions."""
_SAMPLE = 200
"""Documents that are tokenised to learn how long a token is on local data."""
_INDIC = ("Deva", "Beng", "Taml", "Telu", "Gujr", "Guru", "Knda", "Mlym", "Sinh")

FRAME, BEHIND = 4.8, 5.75
"""Characters a token of a prompt without query and document, and of what follows the document, where no tokenizer is at
hand: Qwen3-Reranker's recipes with their default instructions are 69 to 73 and 9 to 11 tokens of Qwen's vocabulary."""

Spread = tuple[float, ...]
"""Lengths as multiples of their mean, ascending, of equal weight; their mean is 1."""


class Lengths(NamedTuple):
    """Lengths of texts in characters: their mean, and how they spread around it."""

    mean: float
    spread: Spread = EQUAL

    def tokens(self, characters_a_token: float) -> list[float]:
        """Return as many lengths in tokens as the spread has parts."""
        return [self.mean / characters_a_token * part for part in self.spread]


@dataclass(frozen=True)
class Cell:
    """How much text one split and subset has.

    Attributes:
        source: Where the figures come from: `candidates`, `data`, `statistics` or `guess`.
        documents: How many the corpus has.
        candidates: A query's candidates on average.
        query_characters: Of a query, on average.
        candidate: Lengths of the candidates.
        corpus: Lengths of the corpus's documents.
        characters_a_token: Of these texts in Qwen's vocabulary, or in the tokenizer that is at hand.
        own_candidates: Whether the task's own lists are used, whatever the retriever.
        tokenizing: Seconds that the tokenizer at hand takes for a million characters, as timed here; 0 without one.
    """

    source: str
    queries: int
    documents: int
    candidates: float
    query_characters: float
    candidate: Lengths
    corpus: Lengths
    characters_a_token: float
    own_candidates: bool = False
    tokenizing: float = 0.0

    @property
    def shared(self) -> float:
        """The share of a query's candidates that another retriever is taken to find as well."""
        if self.own_candidates or not self.documents:
            return 1.0 if self.own_candidates else SHARED
        return min(1.0, max(SHARED, self.candidates / self.documents))

    @property
    def pairs(self) -> int:
        """Queries times candidates."""
        return round(self.queries * self.candidates)


def read_texts(
    task: TaskRef, size: Any, retriever: RetrieverConfig, predictions: Path | None, tokenizer: Any
) -> list[Cell]:
    """Measure a task's texts.

    Args:
        task: The task.
        size: Size of embedded tasks.
        retriever: Whose candidates count.
        predictions: File of its candidates, where they were found before.
        tokenizer: A tokenizer that is at hand, or None.

    Returns:
        The task's cells; none where neither the data is local nor mteb has statistics.
    """
    built = build(task, size=size)
    if task.kind == "mteb":
        return _from_statistics(built, retriever) or _guessed(task, built, retriever)
    prepare.load(built)
    found = _predictions(predictions)
    cells = []
    for subset, split, data in prepare.cells(built):
        lists: list[list[str]] | None = None
        if retriever.rule == "auto" and data["top_ranked"] and prepare.gives_lists(built.metadata):
            lists = [list(ids) for ids in data["top_ranked"].values()]
        elif split in found.get(subset, {}):
            lists = [list(scores)[: retriever.top_k] for scores in found[subset][split].values()]
        cells.append(_measure(data, lists, retriever, tokenizer, "candidates" if found else "data"))
    prepare.unload(built)
    return cells


def _predictions(path: Path | None) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return the scores of each subset, split and query; none where they are torn, so that they are found anew."""
    try:
        found = {} if path is None else load_json(path)
        return {
            subset: {split: {query: dict(one) for query, one in queries.items()} for split, queries in splits.items()}
            for subset, splits in found.items()
            if subset != "mteb_model_meta"
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _measure(data: Any, lists: list[list[str]] | None, retriever: RetrieverConfig, tokenizer: Any, source: str) -> Cell:
    ids = data["corpus"]["id"][:]
    titles = data["corpus"]["title"][:] if "title" in data["corpus"].column_names else [""] * len(ids)
    texts = [f"{title} {text}".strip() for title, text in zip(titles, data["corpus"]["text"][:], strict=True)]
    by_id = dict(zip(ids, texts, strict=True))
    chosen = [by_id[one] for listed in lists for one in listed if one in by_id] if lists else texts
    queries = list(data["queries"]["text"])
    ratio, tokenizing = characters_a_token(["eng-Latn"], code=True), 0.0
    if tokenizer is not None:
        ratio, tokenizing = _tokenized(chosen, tokenizer)
    return Cell(
        source=source,
        queries=len(queries),
        documents=len(texts),
        candidates=sum(map(len, lists)) / len(queries) if lists else min(retriever.top_k, len(texts)),
        query_characters=sum(map(len, queries)) / len(queries),
        candidate=_lengths(chosen),
        corpus=_lengths(texts),
        characters_a_token=ratio,
        own_candidates=bool(retriever.rule == "auto" and data["top_ranked"]),
        tokenizing=tokenizing,
    )


def _lengths(texts: Sequence[str]) -> Lengths:
    lengths = [len(text) for text in texts]
    return Lengths(sum(lengths) / max(len(lengths), 1), spread_of(lengths))


def _tokenized(texts: Sequence[str], tokenizer: Any) -> tuple[float, float]:
    """Return characters a token of some of the texts, and seconds for a million characters."""
    sample = random.Random(0).sample(list(texts), min(_SAMPLE, len(texts)))
    started = time.perf_counter()
    tokens = sum(len(ids) for ids in tokenizer(sample, add_special_tokens=False, verbose=False)["input_ids"])
    characters = sum(map(len, sample))
    return characters / max(tokens, 1), (time.perf_counter() - started) / max(characters, 1) * 1e6


def _from_statistics(built: Any, retriever: RetrieverConfig) -> list[Cell]:
    statistics = built.metadata.descriptive_stats or {}
    cells = []
    for split in built.eval_splits:
        whole = statistics.get(split) or {}
        parts = whole.get("hf_subset_descriptive_stats") or {}
        for subset in built.hf_subsets:
            counted = parts.get(subset, whole if len(built.hf_subsets) == 1 else None)
            if not counted:
                return []
            cells.append(_of_statistics(subset, counted, built.metadata, retriever))
    return cells


def _of_statistics(subset: str, counted: Mapping[str, Any], metadata: Any, retriever: RetrieverConfig) -> Cell:
    queries, documents = counted["queries_text_statistics"], counted["documents_text_statistics"]
    mean = documents["average_text_length"]
    number = counted.get("num_documents") or round(documents["total_text_length"] / mean)
    ranked = counted.get("top_ranked_statistics")
    listed = ranked["average_top_ranked_per_query"] if ranked else number
    # Of another task, lists say where to retrieve from.
    native = bool(ranked) and prepare.gives_lists(metadata) and retriever.rule == "auto"
    among = number if prepare.gives_lists(metadata) else listed
    candidates = listed if native else min(retriever.top_k, among)
    languages = metadata.eval_langs
    codes = languages.get(subset, ["eng-Latn"]) if isinstance(languages, dict) else languages
    lengths = Lengths(mean, spread_from(number, mean, documents["max_text_length"]))
    return Cell(
        source="statistics",
        queries=counted.get("num_queries") or round(queries["total_text_length"] / queries["average_text_length"]),
        documents=number,
        candidates=candidates,
        query_characters=queries["average_text_length"],
        candidate=lengths,
        corpus=lengths,
        characters_a_token=characters_a_token(codes, code=_is_code(metadata)),
        own_candidates=native,
    )


def _is_code(metadata: Any) -> bool:
    return "Programming" in (metadata.domains or ())


def _guessed(task: TaskRef, built: Any, retriever: RetrieverConfig) -> list[Cell]:
    """Take a task's size from its suite, and its lengths from what mteb counted of it, else as guessed."""
    listed = next((one for suite in load_suites().values() for one in suite.tasks if one.name == task.name), None)
    if listed is None or listed.queries is None or listed.pairs is None:
        return []
    codes = sorted({code for languages in dict(built.metadata.eval_langs).values() for code in languages})
    whole = (built.metadata.descriptive_stats or {}).get(built.eval_splits[-1]) or {}
    query, document = (
        float((whole.get(f"{kind}_text_statistics") or {}).get("average_text_length") or guess)
        for kind, guess in zip(("queries", "documents"), GUESSED, strict=True)
    )
    cell = Cell(
        source="guess",
        queries=listed.queries,
        documents=round(whole.get("num_documents") or 0),
        candidates=listed.pairs / listed.queries * min(1.0, retriever.top_k / 100),
        query_characters=query,
        candidate=Lengths(document),
        corpus=Lengths(document),
        characters_a_token=characters_a_token(codes, code=_is_code(built.metadata)),
    )
    return [cell]


@cache
def _ratios() -> dict[str, float]:
    scripts = load_json(evals_root() / "characters.json")["scripts"]
    return {name: float(script["characters_a_token"]) for name, script in scripts.items()}


def characters_a_token(codes: Iterable[str], *, code: bool) -> float:
    """Say how many characters a token of Qwen's vocabulary holds (`evals/characters.json`).

    Args:
        codes: mteb's language codes, such as `eng-Latn`.
        code: Whether the texts are programs.

    Returns:
        The mean over the languages; for a script that was not measured, that of India's scripts.
    """
    ratios = _ratios()
    if code:
        return ratios["code"]
    indic = sum(ratios[name] for name in _INDIC) / len(_INDIC)
    found = []
    for one in codes:
        language, _, script = one.partition("-")
        found.append(ratios["eng"] if language == "eng" else ratios.get(script, indic))
    return len(found) / sum(1 / one for one in found) if found else ratios["eng"]


def spread_of(lengths: Sequence[float]) -> Spread:
    """Return the spread of known lengths, of at most `BINS` parts: means of runs of (nearly) as many sorted lengths."""
    if not sum(lengths):
        return EQUAL
    ordered = sorted(lengths)
    bins = min(BINS, len(ordered))
    cuts = [len(ordered) * number // bins for number in range(bins + 1)]
    return _scaled([sum(ordered[start:stop]) / (stop - start) for start, stop in itertools.pairwise(cuts)])


@cache
def spread_from(number: int, mean: float, longest: float) -> Spread:
    """Return the log-normal spread of which only this is known, as mteb's descriptive statistics have it.

    Its mean is `mean`, and `longest` is what the longest of `number` texts is expected to be. Held against collections
    whose lengths are known one by one by tests/pipeline/test_estimate_lengths.py.

    Returns:
        The spread; `EQUAL` for fewer than two texts or lengths that do not differ.
    """
    if number < 2 or mean <= 0 or longest <= mean:  # noqa: PLR2004 - one text spreads nowhere
        return EQUAL
    normal = NormalDist()
    extreme = normal.inv_cdf(1 - 1 / (2 * number))
    # longest / mean = exp(sigma * extreme - sigma^2 / 2), of which the smaller root is the one with sigma < extreme.
    root = extreme**2 - 2 * math.log(longest / mean)
    sigma = extreme - math.sqrt(max(root, 0.0))
    return _scaled([math.exp(sigma * normal.inv_cdf((number + 0.5) / BINS)) for number in range(BINS)])


def _scaled(values: Sequence[float]) -> Spread:
    mean = sum(values) / len(values)
    return tuple(value / mean for value in values)


class Frame(NamedTuple):
    """Tokens of a prompt without query and document, those behind the document, and whether the query is there too."""

    tokens: float
    behind: float
    query_behind: bool


def frame_of(recipe: Recipe, tokenizer: Any) -> Frame:
    """Measure what a recipe adds to query and document; without a tokenizer (None) by characters."""
    given = recipe.default_instruction  # a task's own instruction is about as long
    parts = recipe.parts(instructed=given is not None)
    place = next(i for i, part in enumerate(parts) if "document" in part.texts)
    whole, behind = ("".join(part.render("", "", given) for part in some) for some in (parts, parts[place + 1 :]))
    query_behind = any("query" in part.texts for part in parts[place + 1 :])
    if tokenizer is None:
        return Frame(len(whole) / FRAME, len(behind) / BEHIND, query_behind)
    counted, last = tokenizer([whole, behind], add_special_tokens=False)["input_ids"]
    return Frame(float(len(counted)), float(len(last)), query_behind)
