"""How much text a task has: from its data where that is here, else from mteb's descriptive statistics."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rerank_eval.files import load_json
from rerank_eval.pipeline import results
from rerank_eval.pipeline.estimate_lengths import EQUAL, Spread, spread_from, spread_of
from rerank_eval.results.manifest import Manifest
from rerank_eval.shipped import evals_root
from rerank_eval.tasks import prepare
from rerank_eval.tasks.registry import TaskRef, build
from rerank_eval.tasks.suites import load_suites

_SAMPLE = 200
"""Documents that are tokenised to learn how long a token is on local data."""
GUESSED = (60, 800)
"""Characters of a query and of a document where nothing tells them: about the median task's of the six suites."""
SHARED = 0.28
"""Share of the top 100 that two retrievers have in common where nothing tells: measured of BM25 and MiniLM on the
embedded functions."""
_CODE = "Programming"
_INDIC = ("Deva", "Beng", "Taml", "Telu", "Gujr", "Guru", "Knda", "Mlym", "Sinh")


@dataclass(frozen=True)
class Cell:
    """One split and subset.

    Attributes:
        subset: Its name.
        split: Its name.
        queries: How many.
        documents: How many the corpus has.
        candidates: A query's candidates on average.
        query_characters: Of a query, on average.
        document_characters: Of a candidate, on average.
        corpus_characters: Of a document of the corpus, on average.
        characters_a_token: Of these texts in Qwen's vocabulary, or in the tokenizer that is at hand.
        spread: How the candidates' lengths spread around their mean.
        corpus_spread: The same of the corpus.
        own_candidates: Whether the task's own lists are used, whatever the retriever.
        tokenizing: Seconds that the tokenizer at hand takes for a million characters, as timed here; 0 without one.
    """

    subset: str
    split: str
    queries: int
    documents: int
    candidates: float
    query_characters: float
    document_characters: float
    corpus_characters: float
    characters_a_token: float
    spread: Spread = EQUAL
    corpus_spread: Spread = EQUAL
    own_candidates: bool = False
    tokenizing: float = 0.0

    @property
    def tokenizing_seconds(self) -> float:
        """Seconds to tokenise the corpus once, which both stages do at most."""
        return self.tokenizing * self.documents * self.corpus_characters / 1e6

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


@dataclass(frozen=True)
class Texts:
    """A task's texts.

    Attributes:
        cells: Its cells.
        source: Where the figures come from: `candidates`, `data`, `statistics` or `guess`.
        metadata: mteb's metadata of the task.
    """

    cells: tuple[Cell, ...]
    source: str
    metadata: Any


@dataclass(frozen=True)
class Wish:
    """Whose candidates' texts are wanted.

    Attributes:
        top_k: Candidates of a query.
        native: Whether a task's own candidates are used where it has some.
        predictions: The retriever's candidates, where they were found before; else None.
        tokenizer: A tokenizer that is at hand, or None.
    """

    top_k: int
    native: bool
    predictions: Path | None = None
    tokenizer: Any = None


def read_texts(task: TaskRef, size: Any, wish: Wish) -> Texts | None:
    """Measure a task's texts.

    Args:
        task: The task.
        size: Size of embedded tasks.
        wish: Whose candidates count.

    Returns:
        The texts, or None where neither the data is local nor mteb has statistics.
    """
    built = build(task, size=size)
    if task.kind == "mteb":
        return _from_statistics(built, wish) or _guessed(task, built, wish)
    prepare.load(built)
    found = _predictions(wish.predictions)
    cells = []
    for subset, split, data in prepare.cells(built):
        lists: list[list[str]] | None = None
        if wish.native and data["top_ranked"] and prepare.gives_lists(built.metadata):
            lists = [list(own) for own in data["top_ranked"].values()]
        elif split in found.get(subset, {}):
            lists = [list(own)[: wish.top_k] for own in found[subset][split].values()]
        cells.append(_measure((subset, split), data, lists, wish))
    metadata = built.metadata
    prepare.unload(built)
    return Texts(tuple(cells), "candidates" if found else "data", metadata)


def _predictions(path: Path | None) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return the candidates of each subset, split and query; none where they are torn, so that they are found anew."""
    try:
        found = {} if path is None else load_json(path)
        return {
            subset: {split: {query: dict(own) for query, own in queries.items()} for split, queries in splits.items()}
            for subset, splits in found.items()
            if subset != "mteb_model_meta"
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _measure(cell: tuple[str, str], data: Any, lists: list[list[str]] | None, wish: Wish) -> Cell:
    ids = data["corpus"]["id"][:]
    titles = data["corpus"]["title"][:] if "title" in data["corpus"].column_names else [""] * len(ids)
    texts = [f"{title} {text}".strip() for title, text in zip(titles, data["corpus"]["text"][:], strict=True)]
    by_id = dict(zip(ids, texts, strict=True))
    chosen = [by_id[one] for own in lists for one in own if one in by_id] if lists else texts
    queries = list(data["queries"]["text"])
    ratio, tokenizing = characters_a_token(["eng-Latn"], code=True), 0.0
    if wish.tokenizer is not None:
        ratio, tokenizing = _tokenized(chosen, wish.tokenizer)
    return Cell(
        *cell,
        len(queries),
        len(texts),
        sum(map(len, lists)) / len(queries) if lists else min(wish.top_k, len(texts)),
        sum(map(len, queries)) / len(queries),
        sum(map(len, chosen)) / max(len(chosen), 1),
        sum(map(len, texts)) / len(texts),
        ratio,
        spread_of([len(text) for text in chosen]),
        spread_of([len(text) for text in texts]),
        own_candidates=bool(wish.native and data["top_ranked"]),
        tokenizing=tokenizing,
    )


def _tokenized(texts: Sequence[str], tokenizer: Any) -> tuple[float, float]:
    """Return characters a token of some of the texts, and seconds for a million characters."""
    sample = random.Random(0).sample(list(texts), min(_SAMPLE, len(texts)))
    started = time.perf_counter()
    tokens = sum(len(ids) for ids in tokenizer(sample, add_special_tokens=False, verbose=False)["input_ids"])
    characters = sum(map(len, sample))
    return characters / max(tokens, 1), (time.perf_counter() - started) / max(characters, 1) * 1e6


def _from_statistics(built: Any, wish: Wish) -> Texts | None:
    statistics = built.metadata.descriptive_stats or {}
    cells = []
    for split in built.eval_splits:
        whole = statistics.get(split)
        if whole is None:
            return None
        parts = whole.get("hf_subset_descriptive_stats") or {}
        for subset in built.hf_subsets:
            own = parts.get(subset, whole if len(built.hf_subsets) == 1 else None)
            if own is None:
                return None
            cells.append(_cell((subset, split), own, built.metadata, wish))
    return Texts(tuple(cells), "statistics", built.metadata)


def _cell(cell: tuple[str, str], own: Mapping[str, Any], metadata: Any, wish: Wish) -> Cell:
    queries, documents = own["queries_text_statistics"], own["documents_text_statistics"]
    number = own.get("num_documents") or round(documents["total_text_length"] / documents["average_text_length"])
    ranked = own.get("top_ranked_statistics")
    listed = ranked["average_top_ranked_per_query"] if ranked else number
    if not prepare.gives_lists(metadata):  # lists to retrieve from
        own_list = min(wish.top_k, listed)
    else:
        own_list = listed if ranked and wish.native else min(wish.top_k, number)
    languages = metadata.eval_langs
    codes = languages.get(cell[0], ["eng-Latn"]) if isinstance(languages, dict) else languages
    spread = spread_from(number, documents["average_text_length"], documents["max_text_length"])
    return Cell(
        *cell,
        own.get("num_queries") or round(queries["total_text_length"] / queries["average_text_length"]),
        number,
        own_list,
        queries["average_text_length"],
        documents["average_text_length"],
        documents["average_text_length"],
        characters_a_token(codes, code=_CODE in (metadata.domains or ())),
        spread,
        spread,
        own_candidates=own_list is not None,
    )


def _guessed(task: TaskRef, built: Any, wish: Wish) -> Texts | None:
    """Take a task's size from its suite, and its lengths from what mteb counted of it, else as guessed."""
    listed = next((one for suite in load_suites().values() for one in suite.tasks if one.name == task.name), None)
    if listed is None or listed.queries is None or listed.pairs is None:
        return None
    codes = sorted({code for own in dict(built.metadata.eval_langs).values() for code in own})
    candidates = listed.pairs / listed.queries * min(1.0, wish.top_k / 100)
    ratio = characters_a_token(codes, code=_CODE in (built.metadata.domains or ()))
    whole = (built.metadata.descriptive_stats or {}).get(built.eval_splits[-1]) or {}
    lengths = [
        float((whole.get(f"{kind}_text_statistics") or {}).get("average_text_length") or guess)
        for kind, guess in zip(("queries", "documents"), GUESSED, strict=True)
    ]
    documents = round(whole.get("num_documents") or 0)
    cell = Cell("all", "all", listed.queries, documents, candidates, lengths[0], lengths[1], lengths[1], ratio)
    return Texts((cell,), "guess", built.metadata)


@cache
def _table() -> dict[str, float]:
    path = evals_root() / "characters.json"
    scripts = load_json(path)["scripts"]
    return {name: float(own["characters_a_token"]) for name, own in scripts.items()}


def characters_a_token(codes: Iterable[str], *, code: bool) -> float:
    """Say how many characters a token of Qwen's vocabulary holds (`evals/characters.json`).

    Args:
        codes: mteb's language codes, such as `eng-Latn`.
        code: Whether the texts are programs.

    Returns:
        The mean over the languages; for a script that was not measured, that of India's scripts.
    """
    table = _table()
    if code:
        return table["code"]
    found = []
    for one in codes:
        language, _, script = one.partition("-")
        indic = sum(table[name] for name in _INDIC) / len(_INDIC)
        found.append(table["eng"] if language == "eng" else table.get(script, indic))
    return len(found) / sum(1 / one for one in found) if found else table["eng"]


def predictions_of(folder: Path, task: str) -> Path | None:
    """Return the file of a retriever's candidates, where it is whole.

    Args:
        folder: The retriever's folder for the task.
        task: The task's name.
    """
    path = results.predictions_path(folder, task)
    return path if Manifest.find(folder) is not None and path.is_file() else None
