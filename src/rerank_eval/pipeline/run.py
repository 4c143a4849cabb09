"""Runs a plan: candidates first, then rerankers, then the leaderboard. What is done already is not done again."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rerank_eval.engine.interface import Engine
from rerank_eval.errors import RerankEvalError
from rerank_eval.metrics.registry import percent
from rerank_eval.names import digest
from rerank_eval.pipeline import results, stages
from rerank_eval.pipeline.manifest import Job
from rerank_eval.pipeline.plan import Plan, RunSpec
from rerank_eval.pipeline.progress import Reporter
from rerank_eval.pipeline.provenance import computed_on
from rerank_eval.pipeline.tracking import Guarded
from rerank_eval.rerankers.cross_encoder import CrossEncoder
from rerank_eval.rerankers.family import Prepared
from rerank_eval.rerankers.loading import load_reranking_engine
from rerank_eval.results.manifest import Manifest
from rerank_eval.retrievers.family import load_backend
from rerank_eval.retrievers.retriever import Backend
from rerank_eval.store.cache import ScoreCache
from rerank_eval.store.locks import locked
from rerank_eval.tasks import mirror, prepare
from rerank_eval.tasks.registry import TaskRef, build
from rerank_eval.workers.cluster import Cluster, open_cluster

logger = logging.getLogger(__name__)

_WORTH_TELLING = 0.0005
"""nDCG that ties leave open before it is told: what the leaderboard's second decimal shows."""
_TOKENS_SHOWN = 3
_REMARKS = {
    "judged_queries_missing": "judged queries that are not there left out",
    "judged_documents_missing": "judged documents not in the corpus",
    "queries_without_candidates": "queries without candidates",
    "own_documents_dropped": "queries' own documents dropped",
    "own_documents_kept": "queries' own documents kept",
    "documents_excluded": "documents excluded by the task",
}
"""What a manifest's `data` counts, in words; queries without a judgement are most data sets' usual case."""


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        computed: (row label, task) pairs that were computed.
        skipped: (row label, task) pairs that were there already.
        revisions: Task name -> data revision, for the tasks of this run.
    """

    computed: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    revisions: dict[str, str] = field(default_factory=dict)


class Runner:
    """Carries a plan out in one process, or with the config's `workers`.

    Args:
        plan: What to do.
        reporter: Shows what happens.
        tracker: Told of each result, or None.
        loaded: A reranker in memory, which serves the runs of its settings; None loads each.
    """

    def __init__(
        self, plan: Plan, reporter: Reporter, tracker: Guarded | None = None, loaded: CrossEncoder | None = None
    ) -> None:
        self.plan = plan
        self.tracker = tracker or Guarded(None, reporter.say)
        self.reporter = reporter
        self.outcome = Outcome()
        self._fingerprints: dict[str, str] = {}
        self._model: tuple[str, Any] | None = None
        rows = [row for row in plan.rerankers() if loaded is not None and row.config.reranker == loaded.config]
        self._loaded = (_engine_key(rows[0]), loaded.engine) if rows and loaded is not None else None
        self._cluster: Cluster | None = None
        self._compared: set[str] = set()

    def run(self) -> Outcome:
        """Compute what is missing.

        Raises:
            RerankEvalError: Any problem that a user can mend; finished tasks stay on disk.
        """
        for task in self.plan.tasks:
            self._fingerprint(task)
        base = self.plan.loaded.base
        with open_cluster(base.workers, base.device) as self._cluster:
            self._all(self.plan.retrievers, self._retrieve)
            self._all(self.plan.rerankers(), self._rerank)
        return self.outcome

    def _all(self, rows: Sequence[RunSpec], do: Callable[[Job], None]) -> None:
        """Do each row on each task. What another process is at is left for the end, when it may be done."""
        jobs = [(row, task) for row in rows for task in self.plan.tasks]
        later = [(row, task) for row, task in jobs if not self._one(row, task, do, wait=False)]
        for row, task in later:
            self._one(row, task, do, wait=True)

    def _one(self, row: RunSpec, task: TaskRef, do: Callable[[Job], None], *, wait: bool) -> bool:
        """Do a row on a task unless it is done; say whether that is settled."""
        if self._is_done(row, task):
            return True
        with locked(row.lock(self.plan.results_dir, task.name), wait=wait, waiting=self._waiting(row, task)) as held:
            if held is None:
                return False
            if not self._is_done(row, task):
                folder = row.folder(self.plan.results_dir, task.name)
                size = self.plan.loaded.base.embedded.size
                job = Job(row, task, folder, self.plan.results_dir, self._inputs(row, task), size, held, self._workers)
                do(job)
                self._note(job)
        return True

    def _workers(self) -> list[dict[str, Any]]:
        return self._cluster.devices if self._cluster is not None else []

    def _waiting(self, row: RunSpec, task: TaskRef) -> Callable[[], None]:
        return lambda: self.reporter.say(
            f"  another process is at work on {row.ref.label} and {task.name}{_variant(row)}; waiting for it"
        )

    def _fingerprint(self, task: TaskRef) -> None:
        built = build(task, size=self.plan.loaded.base.embedded.size)
        self._fingerprints[task.name] = prepare.fingerprint(built)
        self.outcome.revisions[task.name] = str(built.metadata.dataset.get("revision"))
        data_root = self.plan.loaded.base.data_folder
        prepare.check_splits(built, data_root)
        if data_root is not None and prepare.from_hub(built):
            mirror.find(built, data_root)  # what is missing is told before any model is loaded

    def _inputs(self, row: RunSpec, task: TaskRef) -> dict[str, Any]:
        inputs = inputs_of(row, task, self._fingerprints[task.name], self.plan.results_dir)
        if inputs is None:
            label = row.retriever.ref.label if row.retriever is not None else row.ref.label
            raise RerankEvalError(f"{task.name}: the candidates of {label} vanished while running")
        return inputs

    def _is_done(self, row: RunSpec, task: TaskRef) -> bool:
        if not results.is_done(row.folder(self.plan.results_dir, task.name), self._inputs(row, task)):
            return False
        self._check_same_model(row)
        self.outcome.skipped.append((row.ref.label, task.name))
        self.reporter.say(f"  done before: {row.kind} {row.ref.label} on {task.name}{_variant(row)}")
        return True

    def _check_same_model(self, row: RunSpec) -> None:
        """Refuse a result as done whose server has another model behind the same name by now."""
        if row.kind == "reranker" and row.ref.served is not None and row.digest not in self._compared:
            self._compared.add(row.digest)
            cache = ScoreCache(self.plan.results_dir, row.ref.label, row.score_identity)
            _compare_known_scores(cache, load_engine(row, self._cluster))

    def _kept(self, key: str, load: Callable[[], Any]) -> Any:
        """Return the model in memory where it is the one that is asked for; else let go of it and load another."""
        if self._model is None or self._model[0] != key:
            self._model = None
            gc.collect()
            self._model = (key, load())
        return self._model[1]

    def _retrieve(self, job: Job) -> None:
        row = job.row
        config, results_dir = row.config, self.plan.results_dir

        def load() -> Backend:
            if self._cluster is not None:
                return self._cluster.backend(config.retriever, row.ref, results_dir, row.instructions)
            return load_backend(config.retriever, row.ref, config.device, results_dir, row.instructions)

        stages.retrieve(job, self._kept(row.digest, load), self.reporter)

    def _rerank(self, job: Job) -> None:
        row = job.row
        key, engine = self._loaded or ("", None)
        if key != _engine_key(row) or engine is None:
            engine = self._kept(_engine_key(row), lambda: load_engine(row, self._cluster))
        model, cache = cross_encoder(job, engine, self._cluster)
        stages.rerank(replace(job, computed_on=lambda: sorted(cache.devices)), model, self.reporter)

    def _note(self, job: Job) -> None:
        self.outcome.computed.append((job.row.ref.label, job.task.name))
        manifest = Manifest.read(job.folder)
        name, score, seconds = manifest.task.main_score, manifest.scores.main, manifest.timings.seconds
        key = f"{job.task.name}/{job.row.ref.label}/{job.row.digest[:6]}"
        self.tracker.log({f"{key}/{name}": score, f"{key}/seconds": seconds})
        self.reporter.say(
            f"  {job.row.kind} {job.row.ref.label} on {job.task.name}{_variant(job.row)}: "
            f"{name} {percent(score)}, {seconds:.1f} s{_reservations(manifest)}"
        )
        devices = manifest.environment.computed_on
        if len(devices) > 1:
            logger.warning(
                "%s: the score cache's pairs were computed by %d: %s; their last digits may differ",
                job.task.name,
                len(devices),
                "; ".join(devices),
            )
        marked = manifest.special_tokens
        if marked.pairs and marked.mode == "keep":
            logger.warning(
                "%s: %d pairs hold special tokens (%s), which the model reads as such: a text can close its own turn; "
                "reranker.special_tokens: escape reads them as text",
                job.task.name,
                marked.pairs,
                ", ".join(list(marked.found)[:_TOKENS_SHOWN]),
            )


def inputs_of(row: RunSpec, task: TaskRef, data: str, results_dir: Path) -> dict[str, Any] | None:
    """Return what a row's result on a task holds for: digests of data and candidates.

    Args:
        row: The row.
        task: The task.
        data: Its data's fingerprint.
        results_dir: Folder of all results.

    Returns:
        The digests; None where a reranker's candidates are not there.
    """
    if row.retriever is None:
        return {"data": data}
    candidates = Manifest.find(row.retriever.folder(results_dir, task.name))
    return None if candidates is None else {"data": data, "candidates": candidates.digest}


def load_engine(row: RunSpec, cluster: Cluster | None) -> Engine:
    """Load a reranker row's model in workers, or in this process where there are none."""
    prepared = _reranker_of(row)
    if cluster is not None and row.ref.origin != "server":  # a server computes where it is
        return cluster.engine(prepared)
    return load_reranking_engine(prepared.config, row.ref, row.config.device, prepared.prompting)


def cross_encoder(job: Job, engine: Engine, cluster: Cluster | None) -> tuple[CrossEncoder, ScoreCache]:
    """Return a reranker with its run's instructions, as mteb evaluates it, and where its scores are kept between runs.

    Args:
        job: The reranker's row on a task.
        engine: Its model, loaded.
        cluster: The workers that score, or None for this process.
    """
    row = job.row
    served = row.ref.served

    def devices() -> list[str]:
        if served is not None:
            return [served.server or served.api]
        return computed_on(row.config.device, cluster.devices if cluster is not None else ())

    cache = ScoreCache(
        job.results_dir,
        row.ref.label,
        row.score_identity,
        row.config.store,
        check=job.held.check if job.held is not None else None,
        computed_on=devices,
    )
    _compare_known_scores(cache, engine)
    return CrossEncoder(engine, job.meta(), _reranker_of(row).policy, cache=cache), cache


def _compare_known_scores(cache: ScoreCache, engine: Engine) -> None:
    known = getattr(engine, "known_scores", None)  # a server's engine alone has it
    if known is not None:
        cache.check_same_model(known())


def _engine_key(row: RunSpec) -> str:
    """Digest what one model in memory serves: all settings but the instruction."""
    prepared = _reranker_of(row)
    settings = prepared.config.model_dump(mode="json", exclude={"instruction"})
    recipe = prepared.prompting.recipe
    return digest([settings, recipe.name if recipe else None, row.ref.revision, row.config.device])


def _reranker_of(row: RunSpec) -> Prepared:
    assert row.prepared is not None  # noqa: S101 - a reranker's row has it
    return row.prepared


def _reservations(manifest: Manifest) -> str:
    """Say what a reader of the score has to know: how many prompts were cut, how much is left to ties."""
    text = ""
    if cut := manifest.truncation.rate:
        text += f", {cut:.1%} of prompts cut to max_length"
    work = manifest.timings.work
    if "latency_p50" in work:
        text += (
            f", {manifest.timings.pairs_per_second or 0:,.0f} pairs/s, a query in {work['latency_p50'] * 1000:,.0f} ms "
            f"(p99 {work['latency_p99'] * 1000:,.0f} ms) with {work['concurrency']:.0f} at a time"
        )
    if retries := work.get("retries"):
        text += f", {retries} requests sent again"
    if repaired := manifest.timings.work.get("repaired_windows"):
        text += f", {repaired} of {manifest.timings.work['windows']} windows repaired"
    if pairs := manifest.special_tokens.pairs:
        text += f", {pairs} pairs with special tokens"
    data, scores = manifest.data, manifest.scores
    text += "".join(f", {data[name]} {words}" for name, words in _REMARKS.items() if name in data)
    key, name = ("p_mrr", "p-MRR") if scores.metric("p_mrr") is not None else ("ndcg_at_10", "nDCG@10")
    worst, best = scores.metric(f"{key}_worst"), scores.metric(f"{key}_best")
    if worst is not None and best is not None and best - worst >= _WORTH_TELLING:
        text += f", {scores.tie_rate:.1%} of candidates tie ({name} {percent(worst)} to {percent(best)})"
    return text


def _variant(row: RunSpec) -> str:
    detail = f" ({row.detail})" if row.detail else ""
    return f"{detail} after {row.retriever.ref.label}" if row.retriever is not None else detail
