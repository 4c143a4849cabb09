"""The two stages on one task: retrieve candidates, rerank them. Each reads data once and leaves result files."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mteb

from rerank_eval.errors import DataError
from rerank_eval.files import load_json
from rerank_eval.metrics.compute import Cell, Qrels, TaskMetrics
from rerank_eval.pipeline import results
from rerank_eval.pipeline.manifest import FinishedJob, Job, manifest
from rerank_eval.pipeline.progress import Reporter
from rerank_eval.rerankers.cross_encoder import CrossEncoder
from rerank_eval.rerankers.rerank_search import RerankSearch
from rerank_eval.results.manifest import Manifest
from rerank_eval.results.recorder import Recorder
from rerank_eval.retrievers.retriever import Backend, CandidateSearch
from rerank_eval.tasks import prepare
from rerank_eval.tasks.candidates import Rules, drop_excluded, rules_of
from rerank_eval.tasks.registry import build


def retrieve(job: Job, backend: Backend, reporter: Reporter) -> None:
    """Find and judge the loaded retriever's candidates for a retriever row's task.

    Raises:
        DataError: The data set is malformed, or no query got a candidate.
        ModelError: A score is not finite.
    """
    task = _loaded(job)
    rules = _rules(job, task)
    results.begin(job.folder)
    before = backend.work
    texts = sum(len(data["corpus"]) + len(data["queries"]) for _, _, data in prepare.cells(task))
    started = time.time()
    with reporter.bar(f"retrieve {job.task.name} with {job.row.ref.label}", texts, "texts") as bar:
        search = CandidateSearch(
            backend,
            job.meta(),
            top_k=job.row.config.retriever.top_k,
            own_lists=rules.own_lists,
            excluded=rules.excluded,
            advance=bar.advance,
        )
        result = evaluate(search, task)
        judged = _judged(search.recorder, task)
    results.write_predictions(job.folder, job.task.name, search.mteb_model_meta, search.recorder)
    work = {name: value - before[name] for name, value in backend.work.items()}
    facts = _facts(task, rules, judged) | {"counts": {"texts": bar.done}}
    if missing := work.get("queries_without_candidates"):
        facts["data"]["queries_without_candidates"] = int(missing)
    prompts = backend.prompts(task.metadata)
    if prompts is not None:
        facts["instruction"] = {"setting": job.row.identity["instruction"], **prompts}
    _write(job, FinishedJob(task, result, judged, bar, started, facts, work))


def rerank(job: Job, model: CrossEncoder, reporter: Reporter) -> None:
    """Rerank a retriever's candidates for a reranker row's task, and judge the new order.

    Args:
        job: A reranker row on a task.
        model: The loaded reranker, made for this job: its counts are the job's.
        reporter: Shows progress.

    Raises:
        DataError: The candidates name a query or document that the data set does not hold.
        ModelError: A score is not finite.
    """
    task, rules = reranking_task(job)
    results.begin(job.folder)
    pairs = sum(len(ids) for _, _, data in prepare.cells(task) for ids in data["top_ranked"].values())
    started = time.time()
    with reporter.bar(f"rerank {job.task.name} with {job.row.ref.label}", pairs, "pairs") as bar:
        model.advance = bar.advance
        result = evaluate(RerankSearch(model), task)
        judged = _judged(model.recorder, task)
    config = job.row.config.reranker
    assert config is not None  # noqa: S101 - a reranker row has one
    counts = model.counts
    facts = _facts(task, rules, judged) | {
        "counts": {"queries": counts.queries, "pairs": counts.pairs, "prompt_tokens": counts.tokens},
        "truncation": {
            "pairs": counts.truncated,
            "rate": counts.truncated / max(counts.pairs, 1),
            "overlong_queries": counts.overlong,
        },
        "markers": model.special_tokens.summary(config.special_tokens),
        "instruction": model.policy.summary(counts.instructions),
    }
    _write(job, FinishedJob(task, result, judged, bar, started, facts, model.work))


def reranking_task(job: Job) -> tuple[Any, Rules]:
    """Load a task with the candidates that a reranker row reorders.

    Returns:
        An mteb task for reranking, its data loaded; and what may be a candidate.

    Raises:
        DataError: The candidates name a query or document that the data set does not hold, or are not there.
    """
    assert job.row.retriever is not None  # noqa: S101 - a reranker row has one by construction
    source = job.row.retriever.folder(job.results_dir, job.task.name)
    manifest = Manifest.find(source)
    if manifest is None:
        raise DataError(f"{source}: the candidates vanished while running; run again")
    task = _loaded(job)
    rules = _rules(job, task)
    if manifest.native != rules.own_lists:
        raise _stale(source, "its candidates were chosen by other rules")
    predictions = results.predictions_path(source, job.task.name)
    if manifest.native:
        drop_excluded(task, rules)
        if job.row.prepared is not None and job.row.prepared.listwise:
            _check_unaltered(predictions, manifest)
            _order_by_first_stage(task, predictions)
    else:
        _check_unaltered(predictions, manifest)
        _convert(task, predictions, job.row.config.retriever.top_k)
    return task, rules


def _order_by_first_stage(task: Any, predictions: Path) -> None:
    """Put a task's own candidates into the retriever's order: theirs may tell which are relevant.

    A listwise reranker that answers nothing leaves the order as it is, and would get a data set's own for its ranking.
    What the retriever did not find stands last.
    """
    try:
        found = load_json(predictions)
        for subset, split, data in prepare.cells(task):
            data["top_ranked"] = {
                query: _best_first(ids, found[subset][split].get(query, {}))
                for query, ids in data["top_ranked"].items()
            }
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        why = f"not usable as an order of the candidates ({type(error).__name__}: {error})"
        raise _stale(predictions, why) from error


def _best_first(ids: Sequence[str], scores: Mapping[str, float]) -> list[str]:
    """Order documents as `retrievers.retriever.rank` does, those without a score last."""
    return sorted(ids, key=lambda one: (scores.get(one, -math.inf), one), reverse=True)


def _stale(path: Path, why: str) -> DataError:
    """Return the error of candidates that do not do, once the next run is sure to retrieve anew."""
    results.begin(path if path.is_dir() else path.parent)
    return DataError(f"{path}: {why}; run again, and they are retrieved anew")


def _loaded(job: Job) -> Any:
    task = build(job.task, size=job.size)
    prepare.load(task, job.row.config.data_folder)
    return task


def _rules(job: Job, task: Any) -> Rules:
    retriever = job.row.config.retriever
    return rules_of(task, retriever.rule, retriever.own_document)


def _check_unaltered(predictions: Path, manifest: Manifest) -> None:
    """Refuse candidates that are not those of the manifest: mteb would rerank and average what is left of them."""
    written = {name: digest for name, digest in (manifest.files or {}).items() if name == predictions.name}
    if predictions.is_file() and results.altered_file(predictions.parent, written) is not None:
        raise _stale(
            predictions, "altered since it was written, so these are not the candidates that its manifest names"
        )


def _convert(task: Any, predictions: Path, top_k: int) -> None:
    try:
        task.convert_to_reranking(predictions, top_k=top_k)
    except (KeyError, TypeError, ValueError, OSError) as error:  # mteb: bare KeyError for a missing subset
        why = f"not usable as candidates for {task.metadata.name} ({type(error).__name__}: {error})"
        raise _stale(predictions, why) from error


def judgements(task: Any) -> dict[Cell, Qrels]:
    """Return the judgements of each cell of a loaded task, of the queries that are there."""
    found: dict[Cell, Qrels] = {}
    for subset, split, data in prepare.cells(task):
        # mteb averages over the queries that are there; published qrels name some that are not.
        known = set(data["queries"]["id"])
        found[subset, split] = {query: grades for query, grades in data["relevant_docs"].items() if query in known}
    return found


def evaluate(model: Any, task: Any) -> Any:
    """Let mteb run a model on a loaded task, without its result cache: whose key lacks first stage and top_k."""
    outcome = mteb.evaluate(
        model, task, cache=None, co2_tracker=False, show_progress_bar=False, encode_kwargs={"batch_size": 128}
    )
    return outcome.task_results[0]


def _judged(recorder: Recorder, task: Any) -> TaskMetrics:
    return results.judge(recorder, judgements(task), task.metadata.main_score, prepare.changed_judgements(task))


def _facts(task: Any, rules: Rules, judged: TaskMetrics) -> dict[str, Any]:
    return {"native": rules.own_lists, "data": {**task.remarks, **rules.counts}, "digest": judged.digest}


def _write(job: Job, finished: FinishedJob) -> None:
    """Write everything, the manifest last, and free the task's data."""
    if job.held is not None:
        job.held.check()
    results.write_frames(job.folder, finished.judged, job.row.digest)
    mteb_json = results.save_mteb_result(job.results_dir, finished.result, job.meta(), {})
    manifest(job, finished, mteb_json).write(job.folder)
    prepare.unload(finished.task)
