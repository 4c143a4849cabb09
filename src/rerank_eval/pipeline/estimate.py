"""What a run will cost, before a GPU is touched: pairs, tokens, FLOPs, hours, disk, and what is done already."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank_eval.config import LoadedConfig, RerankerConfig, RunConfig
from rerank_eval.config.schema import BM25
from rerank_eval.engine.recipe import MAX_LENGTH, Recipe
from rerank_eval.engine.shapes import EncoderShape, Shape, shape_of
from rerank_eval.errors import ModelError, OfflineError
from rerank_eval.files import at_home
from rerank_eval.models.architectures import effective_max_length
from rerank_eval.models.checkpoint import load_tokenizer, read_mapping
from rerank_eval.models.recipes import find_recipe
from rerank_eval.models.resolve import ModelRef, on_hub, resolve_model
from rerank_eval.names import digest
from rerank_eval.pipeline import results
from rerank_eval.pipeline.estimate_rate import DeviceLoad, Rater, measure_bm25
from rerank_eval.pipeline.estimate_texts import Cell, Texts, Wish, predictions_of, read_texts
from rerank_eval.pipeline.estimate_work import Estimate, Work
from rerank_eval.pipeline.plan import RunSpec, make_plan
from rerank_eval.results.manifest import Manifest
from rerank_eval.retrievers.embedders import saved_max_length
from rerank_eval.tasks import prepare
from rerank_eval.tasks.registry import TaskRef, build, resolve

# Characters a token of a prompt without query and document, and of what follows the document, where no tokenizer is at
# hand: the three recipes with their default instructions, in Qwen's vocabulary, are 69 to 73 and 9 to 11 tokens.
_FRAME, _BEHIND = 4.8, 5.75
_RETRIEVER_FRAME = 25  # `Instruct: ...` and `Query:`
# Bytes a pair: parquet and TREC run, for a retriever mteb's predictions too; measured on the embedded tasks' files.
_RERANKED, _RETRIEVED = 112, 165
_BATCH = 32  # texts at a time, as sentence-transformers takes them; what packs hold follows the device's memory


@dataclass(frozen=True)
class _Subject:
    """A row before its model is looked up."""

    kind: str
    run: RunConfig
    name: str
    revision: str | None
    ref: ModelRef | None
    row: RunSpec | None
    shape: Shape | EncoderShape | None
    tokenizer: Any
    recipe: Recipe | None

    @property
    def dtype(self) -> str:
        """The number format that the config asks for."""
        section = self.run.retriever if self.kind == "retriever" else self.run.reranker
        assert section is not None  # noqa: S101 - a reranker's run has one
        return str(section.dtype)

    @property
    def detail(self) -> str:
        """The row's settings, or what the config says."""
        if self.row is not None:
            return self.row.detail
        section = self.run.retriever if self.kind == "retriever" else self.run.reranker
        recipe = getattr(section, "recipe", "") if not isinstance(self.shape, EncoderShape) else ""
        return ", ".join(part for part in (recipe, self.dtype) if part)


def estimate(loaded: LoadedConfig, rate: float | None = None, device_name: str | None = None) -> Estimate:
    """Estimate a config's work, without loading a model or downloading anything.

    Args:
        loaded: The config.
        rate: FLOP/s of useful work to reckon with, instead of what this machine's device does.
        device_name: A device that is not here, of which `make bench` left files, to reckon with instead.

    Returns:
        The estimate.

    Raises:
        ConfigError: A task or a file that the config names is unknown, or no model was benchmarked on that device.
        DataError: Local data is malformed.
        DeviceError: The config's device is not here, and nothing else is to be reckoned with.
        ModelError: A folder that the config names as a model holds none that is usable.
    """
    rater = Rater.of(loaded, rate, device_name)
    tasks = resolve(loaded.base.tasks, split=loaded.base.split, where=f"{loaded.path}: tasks")
    subjects = list(_subjects(loaded))
    work: list[Work] = []
    unmeasured: list[str] = []
    for task in tasks:
        texts: dict[str, Texts | None] = {}
        scored: list[RerankerConfig | None] = []
        for subject in subjects:
            key = digest([subject.run.retriever.model_dump(mode="json"), subject.kind == "retriever"])
            if key not in texts:
                texts[key] = _texts(loaded, task, subject, subjects)
            found = texts[key]
            if found is None:
                unmeasured.append(task.name)
                continue
            one = _work(loaded, task, subject, found)
            if subject.kind == "reranker" and subject.run.reranker in scored:
                pairs = sum(cell.pairs * cell.shared for cell in found.cells)
                one = dataclasses.replace(one, shared=pairs / max(one.pairs, 1))
            scored += [subject.run.reranker] if subject.kind == "reranker" else []
            work.append(one)
    models = {subject.name: subject for subject in subjects}
    rates = {f"{one.name} {one.dtype}": rater.rate(_asked(one, work)) for one in subjects if one.name != BM25}
    sized = {name: subject.shape for name, subject in models.items() if subject.shape is not None}
    return Estimate(
        tuple(work),
        rates,
        tuple(name for name, subject in models.items() if subject.shape is None and name != BM25),
        tuple(name for name, subject in models.items() if subject.ref is None),
        tuple(dict.fromkeys(unmeasured)),
        {name: 2 * shape.parameters for name, shape in sized.items()},
        rater.shown,
        loaded.base.workers is not None and rate is None,
        rater.seconds,
    )


def _asked(subject: _Subject, work: Sequence[Work]) -> DeviceLoad:
    """Say what a model has to do: how long the texts are that are left, on average."""
    own = [one for one in work if (one.kind, one.model, one.dtype) == (subject.kind, subject.name, subject.dtype)]
    left = [one for one in own if not one.done]
    pairs, texts = sum(one.pairs for one in left), sum(one.texts for one in left)
    prompts, computed = sum(one.prompt_tokens for one in left), sum(one.computed_tokens for one in left)
    if subject.kind == "retriever":
        return DeviceLoad(subject.shape, subject.dtype, 0.0, prompts / texts if texts else 0.0, _BATCH)
    queries = sum(one.queries for one in left)
    if isinstance(subject.shape, EncoderShape) or pairs == queries:
        return DeviceLoad(subject.shape, subject.dtype, 0.0, prompts / pairs if pairs else 0.0, _BATCH)
    prefix = (prompts - computed) / (pairs - queries)
    return DeviceLoad(subject.shape, subject.dtype, prefix, prompts / pairs - prefix, round(pairs / queries))


def _subjects(loaded: LoadedConfig) -> Iterator[_Subject]:
    """Yield each retriever and each reranker on its candidates once."""
    seen: set[str] = set()
    rows = _rows(loaded)
    for run in loaded.runs:
        first = digest(run.retriever.model_dump(mode="json"))
        if first not in seen:
            seen.add(first)
            yield _subject(loaded, run, "retriever", rows)
        if run.reranker is not None:
            second = digest([first, run.reranker.model_dump(mode="json")])
            if second not in seen:
                seen.add(second)
                yield _subject(loaded, run, "reranker", rows)


def _rows(loaded: LoadedConfig) -> dict[str, RunSpec]:
    """Return the plan's rows of the runs whose models are here."""
    found: dict[str, RunSpec] = {}
    for run in loaded.runs:
        try:
            plan = make_plan(dataclasses.replace(loaded, runs=(run,), variants=({},)))
        except OfflineError:
            continue
        except ModelError:
            if on_hub(run.retriever.model) or (run.reranker and on_hub(run.reranker.model)):
                continue  # a mirror's models may be fetched later; one on the disk is not there, or broken
            raise
        for row in plan.rows:
            section = run.retriever if row.kind == "retriever" else run.reranker
            assert section is not None  # noqa: S101 - the plan has a reranker's row where the run has one
            found[digest([row.kind, run.retriever.model_dump(mode="json"), section.model_dump(mode="json")])] = row
    return found


def _subject(loaded: LoadedConfig, run: RunConfig, kind: str, rows: Mapping[str, RunSpec]) -> _Subject:
    section = run.retriever if kind == "retriever" else run.reranker
    assert section is not None  # noqa: S101 - asked for where there is one
    row = rows.get(digest([kind, run.retriever.model_dump(mode="json"), section.model_dump(mode="json")]))
    ref = row.ref if row is not None else _resolved(loaded, section.model, section.revision, kind)
    config = read_mapping(ref, "config.json") if ref is not None and section.model != BM25 else None
    name = ref.name if ref is not None else section.model
    recipe = None if run.reranker is None else find_recipe(run.reranker.recipe, f"{loaded.path}: reranker.recipe")
    shape = None if section.model == BM25 else shape_of(name, config if isinstance(config, dict) else None)
    tokenizer = _tokenizer(ref) if section.model != BM25 else None
    return _Subject(kind, run, section.model, section.revision, ref, row, shape, tokenizer, recipe)


def _resolved(loaded: LoadedConfig, name: str, revision: str | None, kind: str) -> ModelRef | None:
    try:
        return resolve_model(name, revision, f"{loaded.path}: {kind}.model", loaded.base.model_folder)
    except OfflineError:
        return None
    except ModelError:
        if on_hub(name):
            return None
        raise


def _tokenizer(ref: ModelRef | None) -> Any:
    try:
        return None if ref is None else load_tokenizer(ref, local=True)
    except ModelError:  # without one the table of scripts does
        return None


def _texts(loaded: LoadedConfig, task: TaskRef, subject: _Subject, subjects: list[_Subject]) -> Texts | None:
    retriever = subject.run.retriever
    first = next((one.row for one in subjects if one.kind == "retriever" and one.run.retriever == retriever), None)
    folder = None if first is None else first.folder(at_home(loaded.base.results_dir), task.name)
    wish = Wish(
        retriever.top_k,
        retriever.candidates == "auto",
        None if folder is None else predictions_of(folder, task.name),
        subject.tokenizer or next((one.tokenizer for one in subjects if one.tokenizer is not None), None),
    )
    return read_texts(task, loaded.base.embedded.size, wish)


def _work(loaded: LoadedConfig, task: TaskRef, subject: _Subject, texts: Texts) -> Work:
    counted = [_counts(subject, cell) for cell in texts.cells]
    pairs = sum(cell.pairs for cell in texts.cells)
    own = subject.kind == "retriever"
    done = _is_done(loaded, task, subject)
    vectors = subject.shape.hidden * 4 if own and subject.shape is not None else 0
    return Work(
        subject.kind,
        subject.name,
        subject.dtype,
        subject.detail,
        task.name,
        task.suite,
        sum(cell.queries for cell in texts.cells),
        pairs,
        sum(cell.queries + cell.documents for cell in texts.cells) if own else 0,
        sum(one[0] for one in counted),
        sum(one[1] for one in counted),
        sum(one[2] for one in counted),
        pairs * (_RETRIEVED if own else _RERANKED) + vectors * sum(cell.documents for cell in texts.cells),
        done,
        0.0 if done else sum(_beside(subject, cell) for cell in texts.cells),
        0.0,
        texts.source,
    )


def _beside(subject: _Subject, cell: Cell) -> float:
    """Return the seconds that a cell takes besides a model's layers: BM25, or turning texts into tokens."""
    if subject.name != BM25:
        return cell.tokenizing_seconds
    texts, queries = (cell.documents, cell.corpus_characters), (cell.queries, cell.query_characters)
    return measure_bm25(texts, queries, subject.run.retriever.top_k)


def _counts(subject: _Subject, cell: Cell) -> tuple[float, float, float]:
    """Return prompt tokens, computed tokens and useful FLOP of one cell."""
    query = cell.query_characters / cell.characters_a_token
    if subject.kind == "retriever":
        return _embedded(subject, cell, query)
    config = subject.run.reranker
    assert config is not None  # noqa: S101 - a reranker has one
    limit = (config.max_length or MAX_LENGTH) if subject.ref is None else effective_max_length(config, subject.ref)
    mean = cell.document_characters / cell.characters_a_token
    documents = [mean * part for part in cell.spread]
    if isinstance(subject.shape, EncoderShape):
        lengths = [min(query + one + 4, limit) for one in documents]
        tokens = cell.pairs * _mean(lengths)
        return tokens, tokens, cell.pairs * _mean([subject.shape.useful_flops(one) for one in lengths])
    frame, suffix = _frame(subject)
    prefix = frame - suffix + query
    own = [min(one, max(limit - frame - query, 0)) + suffix for one in documents]
    prompt, computed = cell.pairs * (prefix + _mean(own)), cell.queries * prefix + cell.pairs * _mean(own)
    if subject.shape is None:
        return prompt, computed, 0.0
    alone = subject.shape.useful_flops(prefix, [])
    behind = _mean([subject.shape.useful_flops(prefix, [one]) - alone for one in own])
    return prompt, computed, cell.queries * alone + cell.pairs * behind


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _embedded(subject: _Subject, cell: Cell, query: float) -> tuple[float, float, float]:
    if subject.name == BM25:
        return 0.0, 0.0, 0.0
    limit = subject.run.retriever.max_length or (saved_max_length(subject.ref) if subject.ref else None) or MAX_LENGTH
    query, mean = query + _RETRIEVER_FRAME, cell.corpus_characters / cell.characters_a_token
    documents = [min(mean * part, limit) for part in cell.corpus_spread]
    tokens = cell.queries * query + cell.documents * _mean(documents)
    shape = subject.shape
    if shape is None:
        return tokens, tokens, 0.0
    one, *many = [_of_text(shape, text) for text in (query, *documents)]
    return tokens, tokens, cell.queries * one + cell.documents * _mean(many)


def _of_text(shape: Shape | EncoderShape, tokens: float) -> float:
    return shape.useful_flops(tokens) if isinstance(shape, EncoderShape) else shape.useful_flops(0, [tokens])


def _frame(subject: _Subject) -> tuple[float, float]:
    """Return the tokens around query and document, and those of them that follow the document."""
    recipe, tokenizer = subject.recipe, subject.tokenizer
    assert recipe is not None  # noqa: S101 - asked for rerankers only
    whole = recipe.prompt("", "", recipe.default_instruction)  # a task's own instruction is about as long
    behind = recipe.closing + recipe.suffix
    if tokenizer is None:
        return len(whole) / _FRAME, len(behind) / _BEHIND
    counted, last = tokenizer([whole, behind], add_special_tokens=False)["input_ids"]
    return float(len(counted)), float(len(last))


def _is_done(loaded: LoadedConfig, task: TaskRef, subject: _Subject) -> bool:
    if subject.row is None:
        return False
    root = at_home(loaded.base.results_dir)
    inputs: dict[str, Any] = {"data": prepare.fingerprint(build(task, size=loaded.base.embedded.size))}
    if subject.row.retriever is not None:
        first = Manifest.find(subject.row.retriever.folder(root, task.name))
        if first is None:
            return False
        inputs["candidates"] = first.digest
    return results.is_done(subject.row.folder(root, task.name), inputs)
