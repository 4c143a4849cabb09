"""What a run will cost, before a GPU is touched: pairs, tokens, FLOPs, hours, disk, and what is done already."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rerank_eval.config import LoadedConfig, RerankerConfig, RetrieverConfig
from rerank_eval.config.schema import BM25, GIVEN
from rerank_eval.engine.recipe import MAX_LENGTH
from rerank_eval.engine.shapes import EncoderShape, Shape
from rerank_eval.files import at_home
from rerank_eval.models.architectures import effective_max_length
from rerank_eval.pipeline import results
from rerank_eval.pipeline.estimate_lists import is_listwise, list_counts
from rerank_eval.pipeline.estimate_rate import DeviceLoad, Rater, measure_bm25, useful_flops
from rerank_eval.pipeline.estimate_servers import ServerRate, measure_server
from rerank_eval.pipeline.estimate_subjects import Subject, key_of, subjects_of
from rerank_eval.pipeline.estimate_texts import Cell, frame_of, read_texts
from rerank_eval.pipeline.plan import RunSpec
from rerank_eval.pipeline.run import inputs_of
from rerank_eval.results.manifest import Manifest
from rerank_eval.retrievers.embedders import saved_max_length
from rerank_eval.tasks import prepare
from rerank_eval.tasks.registry import TaskRef, build, resolve

_RETRIEVER_FRAME = 25  # `Instruct: ...` and `Query:`
# Bytes a pair: parquet and TREC run, for a retriever mteb's predictions too; measured on the embedded tasks' files.
_RERANKED, _RETRIEVED = 112, 165
_BATCH = 32  # texts at a time, as sentence-transformers takes them; what packs hold follows the device's memory


@dataclass(frozen=True)
class Work:
    """One row on one task.

    Attributes:
        kind: `retriever` or `reranker`.
        detail: What tells the run from others of the model.
        suite: The suite that the task was asked for as, or None.
        pairs: Of queries and candidates; for a retriever the candidates that it finds.
        texts: Texts that a retriever embeds; 0 for a reranker.
        prompt_tokens: Of all prompts or texts, each counted whole.
        computed_tokens: What the packed engine computes of them, each query's shared prefix once. In one pack small
            groups share the system turn too, which is left out: packs follow the free memory of the device.
        flops: Useful FLOP, 0 for BM25 and where the model's size is not known.
        disk: Bytes of result files, embeddings included.
        done: Whether the result is there.
        seconds: What it takes besides these FLOP: BM25's time or tokenising, as measured here.
        shared: Share of its pairs that an earlier row scores: the same reranker on another retriever's candidates.
        source: Where the text lengths come from, as `Cell.source`.
    """

    kind: str
    model: str
    dtype: str
    detail: str
    task: str
    suite: str | None
    queries: int
    pairs: int
    texts: int
    prompt_tokens: float
    computed_tokens: float
    flops: float
    disk: float
    done: bool
    seconds: float
    shared: float
    source: str

    @property
    def rated(self) -> str:
        """What a rate is told of: model and number format."""
        return f"{self.model} {self.dtype}"

    @property
    def left(self) -> float:
        """FLOP that are still to be done."""
        return 0.0 if self.done else self.flops * (1 - self.shared)


@dataclass(frozen=True)
class Estimate:
    """A config's work.

    Attributes:
        work: Every row on every task.
        rates: Model and number format (`Work.rated`) -> FLOP/s, and where that figure comes from.
        unknown: Models whose size is not known, so that their hours are not.
        unresolved: Models that are not here, so that what is done of them cannot be told.
        unmeasured: Tasks without data here and without statistics.
        checkpoints: Model -> bytes of its weights in 16 bits.
        device: What it is reckoned for, in words.
        workers: Whether a cluster's workers will run it, which are not here.
        measuring: Seconds that were spent on measuring.
        servers: Address -> what its server was measured to do, None for a hosted service.
    """

    work: tuple[Work, ...]
    rates: Mapping[str, tuple[float, str]]
    unknown: tuple[str, ...]
    unresolved: tuple[str, ...]
    unmeasured: tuple[str, ...]
    checkpoints: Mapping[str, int]
    device: str
    workers: bool = False
    measuring: float = 0.0
    servers: Mapping[str, ServerRate | None] = field(default_factory=dict)

    def hours(self, *work: Work) -> float:
        """Return the hours that rows take on one device; what is done takes none."""
        seconds = (
            one.seconds + (one.left / self.rates[one.rated][0] if one.flops else 0.0) for one in work if not one.done
        )
        return sum((each / 3600 for each in seconds), 0.0)


def estimate(loaded: LoadedConfig, rate: float | None = None, device_name: str | None = None) -> Estimate:
    """Estimate a config's work, without loading a model or downloading anything.

    Args:
        loaded: The config.
        rate: FLOP/s of useful work to reckon with, instead of what this machine's device does.
        device_name: A device that is not here, of which `make bench` left files, to reckon with instead.

    Raises:
        ConfigError: A task or a file that the config names is unknown, or no model was benchmarked on that device.
        DataError: Local data is malformed.
        DeviceError: The config's device is not here, and nothing else is to be reckoned with.
        ModelError: A folder that the config names as a model holds none that is usable.
    """
    rater = Rater.of(loaded, rate, device_name)
    tasks = resolve(loaded.base.tasks, split=loaded.base.split, where=f"{loaded.path}: tasks")
    subjects = subjects_of(loaded)
    work: list[Work] = []
    unmeasured: list[str] = []
    servers: dict[str, ServerRate | None] = {}
    measuring = 0.0
    for task in tasks:
        texts: dict[str, list[Cell]] = {}
        scored: list[RetrieverConfig | RerankerConfig] = []
        for subject in subjects:
            key = key_of(subject.kind, subject.run.retriever)
            if key not in texts:
                texts[key] = _texts(loaded, task, subject, subjects)
            if not texts[key]:
                unmeasured.append(task.name)
                continue
            again = subject.kind == "reranker" and subject.section in scored and not is_listwise(subject.row)
            if subject.serves and subject.name not in servers and subject.row is not None:
                began = time.monotonic()
                servers[subject.name] = measure_server(subject.row, texts[key][0])
                measuring += time.monotonic() - began
            work.append(_work(loaded, task, subject, texts[key], servers.get(subject.name), again=again))
            scored.append(subject.section)
    models = {subject.name: subject for subject in subjects}
    rated = {f"{subject.name} {subject.dtype}": subject for subject in subjects if not subject.timed}
    began = time.monotonic()
    rates = {name: rater.rate(_asked(subject, work)) for name, subject in rated.items()}
    return Estimate(
        work=tuple(work),
        rates=rates,
        unknown=tuple(name for name, subject in models.items() if subject.shape is None and not subject.timed),
        unresolved=tuple(name for name, subject in models.items() if subject.ref is None and not subject.serves),
        unmeasured=tuple(dict.fromkeys(unmeasured)),
        checkpoints={name: 2 * one.shape.parameters for name, one in models.items() if one.shape is not None},
        device=rater.shown,
        workers=loaded.base.workers is not None and rate is None,
        measuring=measuring + time.monotonic() - began,
        servers=servers,
    )


def _asked(subject: Subject, work: Sequence[Work]) -> DeviceLoad | None:
    """Say how long the texts are that are left, on average; None where none are, or the model's size is not known."""
    row = (subject.kind, subject.name, subject.dtype)
    left = [one for one in work if (one.kind, one.model, one.dtype) == row and not one.done]
    queries, pairs = sum(one.queries for one in left), sum(one.pairs for one in left)
    prompts, computed = sum(one.prompt_tokens for one in left), sum(one.computed_tokens for one in left)
    if subject.shape is None or not prompts:
        return None
    if subject.kind == "reranker" and isinstance(subject.shape, Shape) and pairs != queries:
        prefix = (prompts - computed) / (pairs - queries)
        return DeviceLoad(subject.shape, subject.dtype, prefix, prompts / pairs - prefix, round(pairs / queries))
    texts = pairs if subject.kind == "reranker" else sum(one.texts for one in left)
    return DeviceLoad(subject.shape, subject.dtype, 0.0, prompts / texts, _BATCH)


def _texts(loaded: LoadedConfig, task: TaskRef, subject: Subject, subjects: list[Subject]) -> list[Cell]:
    retriever = subject.run.retriever
    first = next((one.row for one in subjects if one.section == retriever), None)
    predictions = None
    if first is not None:
        folder = first.folder(at_home(loaded.base.results_dir), task.name)
        path = results.predictions_path(folder, task.name)
        predictions = path if Manifest.find(folder) is not None and path.is_file() else None
    tokenizer = subject.tokenizer or next((one.tokenizer for one in subjects if one.tokenizer is not None), None)
    return read_texts(task, loaded.base.embedded.size, retriever, predictions, tokenizer)


def _work(
    loaded: LoadedConfig,
    task: TaskRef,
    subject: Subject,
    cells: list[Cell],
    server: ServerRate | None,
    *,
    again: bool,
) -> Work:
    prompt, computed, flops = map(sum, zip(*(_counts(subject, cell) for cell in cells), strict=True))
    queries, documents = sum(cell.queries for cell in cells), sum(cell.documents for cell in cells)
    pairs = sum(cell.pairs for cell in cells)
    done = _is_done(loaded, task, subject.row)
    texts, disk = 0, pairs * _RERANKED
    if subject.kind == "retriever":
        texts, disk = queries + documents, pairs * _RETRIEVED
        disk += documents * subject.shape.hidden * 4 if subject.shape is not None else 0
    shared = sum(cell.pairs * cell.shared for cell in cells) / max(pairs, 1) if again else 0.0
    beside = sum(_beside(subject, cell) for cell in cells) if server is None else pairs * (1 - shared) / server.pairs
    return Work(
        kind=subject.kind,
        model=subject.name,
        dtype=subject.dtype,
        detail=subject.detail,
        task=task.name,
        suite=task.suite,
        queries=queries,
        pairs=pairs,
        texts=texts,
        prompt_tokens=prompt,
        computed_tokens=computed,
        flops=flops,
        disk=disk,
        done=done,
        seconds=0.0 if done else beside,
        shared=shared,
        source=cells[0].source,
    )


def _beside(subject: Subject, cell: Cell) -> float:
    """Return the seconds that a cell takes besides a model's layers: BM25, or tokenising the corpus once."""
    if subject.name == GIVEN:
        return 0.0
    if subject.name != BM25:
        return cell.tokenizing * cell.documents * cell.corpus.mean / 1e6
    texts, queries = (cell.documents, cell.corpus.mean), (cell.queries, cell.query_characters)
    return measure_bm25(texts, queries, subject.run.retriever.top_k)


def _counts(subject: Subject, cell: Cell) -> tuple[float, float, float]:
    """Return prompt tokens, computed tokens and useful FLOP of one cell."""
    query = cell.query_characters / cell.characters_a_token
    config = subject.section
    if isinstance(config, RetrieverConfig):
        return _embedded(subject, cell, query + _RETRIEVER_FRAME)
    if subject.row is not None and is_listwise(subject.row):
        return list_counts(subject.row, subject.shape, cell)
    if subject.ref is None or subject.ref.origin == "python":  # of Python code it is not known what it cuts
        limit = config.max_length or MAX_LENGTH
    else:
        limit = effective_max_length(config, subject.ref)
    documents = cell.candidate.tokens(cell.characters_a_token)
    shape = subject.shape
    if isinstance(shape, EncoderShape):
        prefix, suffixes = 0.0, [min(query + one + 4, limit) for one in documents]
    else:
        assert subject.recipe is not None  # noqa: S101 - asked for rerankers only
        frame = frame_of(subject.recipe, subject.tokenizer)
        behind = frame.behind + (query if frame.query_behind else 0.0)
        prefix = frame.tokens + query - behind
        suffixes = [min(one, max(limit - frame.tokens - query, 0)) + behind for one in documents]
    prompt, computed = cell.pairs * (prefix + _mean(suffixes)), cell.queries * prefix + cell.pairs * _mean(suffixes)
    if shape is None:
        return prompt, computed, 0.0
    alone = useful_flops(shape, prefix, [])
    behind = _mean([useful_flops(shape, prefix, [one]) - alone for one in suffixes])
    return prompt, computed, cell.queries * alone + cell.pairs * behind


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _embedded(subject: Subject, cell: Cell, query: float) -> tuple[float, float, float]:
    if subject.name in {BM25, GIVEN}:
        return 0.0, 0.0, 0.0
    limit = subject.section.max_length or (saved_max_length(subject.ref) if subject.ref else None) or MAX_LENGTH
    documents = [min(text, limit) for text in cell.corpus.tokens(cell.characters_a_token)]
    tokens = cell.queries * query + cell.documents * _mean(documents)
    if subject.shape is None:
        return tokens, tokens, 0.0
    one, *many = [useful_flops(subject.shape, 0, [text]) for text in (query, *documents)]
    return tokens, tokens, cell.queries * one + cell.documents * _mean(many)


def _is_done(loaded: LoadedConfig, task: TaskRef, row: RunSpec | None) -> bool:
    if row is None:
        return False
    root = at_home(loaded.base.results_dir)
    inputs = inputs_of(row, task, prepare.fingerprint(build(task, size=loaded.base.embedded.size)), root)
    return inputs is not None and results.is_done(row.folder(root, task.name), inputs)
