"""The checks that need torch, transformers and mteb: the machine, the sources, the models."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial

import torch

from rerank_eval.config import LoadedConfig, RetrieverConfig
from rerank_eval.doctor import arithmetic, device, rerankers, retrievers, sources
from rerank_eval.doctor.case import Case
from rerank_eval.doctor.checkpoints import Subject, heads_of
from rerank_eval.doctor.encoder_texts import check_encoder_texts
from rerank_eval.doctor.findings import Finding, ok
from rerank_eval.doctor.vocabulary import check_vocabulary
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.loading import resolve_device
from rerank_eval.engine.quantize import weights_dtype
from rerank_eval.tasks.registry import TaskRef


def examine_machine(case: Case) -> Iterator[Finding]:
    """Check driver, device and dtypes."""
    name = case.loaded.base.device if case.loaded is not None else "auto"
    yield from case.run("driver", lambda: device.check_driver(device.read_driver()))
    yield from case.run("device", lambda: device.check_device(name))
    target = _device(name)
    if case.loaded is None or target is None:
        return
    for dtype, key in _dtypes(case.loaded).items():
        yield from case.run(f"dtype {dtype}", partial(arithmetic.check_dtype, dtype, target, key))
    asked = [run.reranker.compile for run in case.loaded.runs if run.reranker is not None]
    for choice in sorted(set(asked), key=str):
        yield from case.run("torch.compile", partial(arithmetic.check_compile, choice, target))


def _device(name: str) -> torch.device | None:
    try:
        return resolve_device(name)
    except EngineError:  # reported by the device's own check
        return None


def _dtypes(loaded: LoadedConfig) -> dict[str, str]:
    """Return each dtype that the runs ask for, and a key that does."""
    found: dict[str, str] = {}
    for run in loaded.runs:
        if run.retriever.model != "bm25":
            found.setdefault(run.retriever.dtype, "retriever.dtype")
        if run.reranker is not None:
            found.setdefault(run.reranker.dtype, "reranker.dtype")
    return found


def examine_sources(case: Case, loaded: LoadedConfig) -> Generator[Finding, None, list[Subject]]:
    """Check tasks, hub, data and the models' files.

    Returns:
        The models that were found.
    """
    tasks: list[TaskRef] = []
    subjects: list[Subject] = []

    def resolve_tasks() -> Iterator[Finding]:
        found, findings = sources.find_tasks(loaded)
        tasks.extend(found)
        yield from findings

    def resolve_models() -> Iterator[Finding]:
        found, findings = sources.find_models(loaded)
        subjects.extend(found)
        yield from findings

    yield from case.run("tasks", resolve_tasks)
    yield from case.run("hub", lambda: sources.check_hub(sources.needs_hub(loaded, tasks), case.fetch))
    yield from case.run("data", lambda: sources.check_tasks(loaded, tasks))
    yield from case.run("instructions", lambda: sources.check_instructions(loaded, tasks))
    yield from case.run("models", resolve_models)
    for subject in subjects:
        look = partial(sources.check_model, subject, case.fetch)
        yield from case.run(subject.label, look, subject.again(case.fetch))
    return subjects


def examine_models(case: Case, loaded: LoadedConfig, subjects: Sequence[Subject]) -> Iterator[Finding]:
    """Check tokenizers, attention, and, if asked, what the weights answer."""
    target = _device(loaded.base.device)
    seen: set[tuple[str, str]] = set()
    for subject in subjects:
        if subject.ref.origin == "server" and subject.role == "reranker" and case.weights:
            answers = partial(rerankers.check_reranker, subject, loaded.base.device)
            yield from case.run(f"pairs by {subject.ref.label}", answers)
        parameters = sources.present(subject)
        if parameters is None:
            continue
        if (subject.role, subject.ref.name) not in seen:  # what files say does not depend on dtypes
            seen.add((subject.role, subject.ref.name))
            look = partial(_check_texts, subject, case.fetch)
            yield from case.run(f"tokenizer of {subject.ref.label}", look, subject.again(case.fetch))
        if target is None:
            continue
        yield from case.run("attention", partial(_check_attention, subject, target))
        if case.weights:
            name = f"weights of {subject.ref.label}"
            yield from case.run(name, partial(_check_weights, subject, parameters, loaded, target))
    if not case.weights:
        yield ok("weights", "not loaded, as asked for (--no-weights): nothing is known about what the models answer")


def _check_texts(subject: Subject, fetch: str) -> Iterator[Finding]:
    if isinstance(subject.config, RetrieverConfig):
        yield from check_encoder_texts(subject, fetch)
    elif subject.causal:
        yield from check_vocabulary(subject, fetch)


def _check_attention(subject: Subject, target: torch.device) -> Iterator[Finding]:
    heads = heads_of(subject.folder)
    if subject.causal and heads is not None:
        yield from arithmetic.check_attention(target, weights_dtype(subject.config.dtype), heads, subject.ref.label)


def _check_weights(subject: Subject, parameters: int, loaded: LoadedConfig, target: torch.device) -> Iterator[Finding]:
    findings = list(rerankers.check_memory(subject, parameters, target))
    yield from findings
    too_slow = target.type == "cpu" and parameters >= rerankers.LARGEST_ON_CPU
    if too_slow or any(finding.level == "failure" for finding in findings):
        return
    if isinstance(subject.config, RetrieverConfig):
        yield from retrievers.check_retriever(subject, loaded.base.device)
    else:
        yield from rerankers.check_reranker(subject, loaded.base.device)
