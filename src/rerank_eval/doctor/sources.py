"""Where models and data come from: names that resolve, files that are whole, and the hub where it is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from rerank_eval import hub
from rerank_eval.config import LoadedConfig, RerankerConfig, RetrieverConfig
from rerank_eval.doctor.checkpoints import Subject, count_parameters, folder_of, lacks_files
from rerank_eval.doctor.findings import Finding, failure, ok, said, warning
from rerank_eval.errors import ModelError, RerankEvalError
from rerank_eval.models.instruction_sets import find_instruction_set
from rerank_eval.models.needs import fetch_command, hub_models
from rerank_eval.models.resolve import on_hub
from rerank_eval.models.sections import resolve_section
from rerank_eval.names import digest
from rerank_eval.rerankers.family import Prompting
from rerank_eval.rerankers.loading import prepare_reranker
from rerank_eval.retrievers.family import Chosen, resolve_retriever, retriever_settings
from rerank_eval.tasks import mirror, prepare
from rerank_eval.tasks.registry import TaskRef, build, resolve
from rerank_eval.typed import command

SHOWN = 5
"""Tasks with a problem that get a line of their own."""
PATIENCE = 5.0
"""Seconds for the hub's name, and as many for its answer."""
_NOT_PROBED = {"instruction", "top_k", "candidates", "own_document", "head"}
"""Settings on which nothing that is probed depends."""


def find_tasks(loaded: LoadedConfig) -> tuple[list[TaskRef], list[Finding]]:
    """Resolve a config's tasks.

    Returns:
        The tasks, and a finding where a name stands for nothing.
    """
    try:
        return resolve(loaded.base.tasks, split=loaded.base.split, where=f"{loaded.path}: tasks"), []
    except RerankEvalError as error:
        return [], [failure("tasks", str(error), f"name what `{command('tasks')}` lists, or a BEIR folder")]


def needs_hub(loaded: LoadedConfig, tasks: Sequence[TaskRef]) -> list[str]:
    """List what a config's runs read through the hub or its cache: models' names, each once, and `data sets`."""
    found = [name for run in loaded.runs for name in hub_models(run)]
    if loaded.base.data_root is None and any(task.kind == "mteb" for task in tasks):
        found.append("data sets")
    return list(dict.fromkeys(found))


def check_hub(wanted: Sequence[str], fetch: str, *, seconds: float = PATIENCE) -> Iterator[Finding]:
    """Ask the hub for an answer, where something has to come from it.

    Args:
        wanted: What `needs_hub` lists.
        fetch: The command that fetches what a run needs.
        seconds: How long to wait for its name, and as long for its answer.
    """
    what = ", ".join(wanted)
    if not wanted:
        yield ok("hub", "not needed: everything that the config names is on this machine")
        return
    if hub.offline():
        yield ok("hub", f"switched off by HF_HUB_OFFLINE: {what} must be in the cache")
        return
    remedy = (
        f"mend the network or HTTPS_PROXY, or name a mirror of the hub in HF_ENDPOINT; else run `{fetch}` where there "
        "is one and set HF_HUB_OFFLINE=1"
    )
    problem = _within(seconds, _resolve_name)
    if problem is None:
        problem = _within(2 * seconds, lambda: _ask(seconds))
    if problem:
        # Everything after this would wait as long again.
        hub.go_offline()
        yield failure("hub", f"{hub.endpoint()} cannot be reached ({problem}), for {what}", remedy)
    else:
        yield ok("hub", f"{hub.endpoint()} answers")


def _within(seconds: float, ask: Callable[[], str]) -> str | None:
    """Run something that may hang; return what it says, None where that is nothing."""
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(seconds)
    return (answers[0] or None) if answers else f"no answer within {seconds:.0f} s"


def _resolve_name() -> str:
    return "" if hub.reachable() else "its name does not resolve"


def _ask(seconds: float) -> str:
    from huggingface_hub import get_session

    try:
        answer = get_session().head(hub.endpoint(), timeout=seconds, follow_redirects=True)
    except Exception as error:  # the session's errors are those of the library that it is built on
        return said(error)
    return f"it answers {answer.status_code}" if answer.status_code >= 500 else ""  # noqa: PLR2004 - server errors


def check_tasks(loaded: LoadedConfig, tasks: Sequence[TaskRef]) -> Iterator[Finding]:
    """Find each task's data: in the mirror, in the hub's cache, in its folder."""
    problems: list[tuple[str, str]] = []
    origins: dict[str, int] = {}
    for ref in tasks:
        try:
            origin = _find_data(ref, loaded)
        except RerankEvalError as error:
            problems.append((ref.name, str(error)))
        else:
            origins[origin] = origins.get(origin, 0) + 1
    if origins:
        yield ok("data", ", ".join(f"{number} task(s) {origin}" for origin, number in origins.items()))
    remedy = f"run `{fetch_command(loaded)}` where there is a network, then bring data_root or the hub's cache here"
    for name, message in problems[:SHOWN]:
        beir = any(task.kind == "beir" for task in tasks if task.name == name)
        yield failure(f"data of {name}", message, "correct the folder's file that is named" if beir else remedy)
    if len(problems) > SHOWN:
        rest = [name for name, _ in problems[SHOWN:]]
        yield failure("data", f"{len(rest)} more tasks lack theirs, such as {rest[0]}", remedy)


def _find_data(ref: TaskRef, loaded: LoadedConfig) -> str:
    """Find a task's data, and say where they are."""
    task = build(ref, size=loaded.base.embedded.size)
    if not prepare.from_hub(task):
        return "from this Python installation" if ref.kind == "embedded" else "from a folder that is whole"
    prepare.check_splits(task, loaded.base.data_folder)
    if loaded.base.data_folder is not None:
        mirror.find(task, loaded.base.data_folder)
        return f"whole in {loaded.base.data_folder}"
    prepare.check_present(task)
    return "in the hub's cache" if hub.offline() else "on the hub or in its cache"


def find_models(loaded: LoadedConfig) -> tuple[list[Subject], list[Finding]]:
    """Resolve every model that a config's runs name, each set of settings once.

    Returns:
        The models, retrievers first, and a finding for each that is not to be had.
    """
    subjects: dict[str, Subject] = {}
    findings: dict[str, Finding] = {}
    wanted: list[tuple[str, RetrieverConfig | RerankerConfig]] = [("retriever", run.retriever) for run in loaded.runs]
    wanted += [("reranker", run.reranker) for run in loaded.runs if run.reranker is not None]
    for role, config in wanted:
        key = digest([role, config.model_dump(mode="json", exclude=_NOT_PROBED)])
        if key in subjects:
            continue
        try:
            causal = False
            if isinstance(config, RerankerConfig):
                ref = resolve_section(config, f"{loaded.path}: {role}", loaded.base.model_folder)
                prepared = prepare_reranker(config, ref, Prompting.of(config, f"{loaded.path}: reranker"))
                ref, causal = prepared.ref, prepared.causal
            else:
                ref = resolve_retriever(config, f"{loaded.path}: {role}", loaded.base.model_folder)
                retriever_settings(Chosen(config, ref))
        except RerankEvalError as error:
            fetch = f"run `{fetch_command(loaded)}` where there is a network, or " if on_hub(config.model) else ""
            remedy = f"{fetch}correct {role}.model, or the files that are named"
            findings[f"{role} {config.model}"] = failure(f"{role} {config.model}", str(error), remedy)
            continue
        subjects[key] = Subject(role, config, ref, folder_of(ref), causal)
    return list(subjects.values()), list(findings.values())


def check_instructions(loaded: LoadedConfig, tasks: Sequence[TaskRef]) -> Iterator[Finding]:
    """Hold the instruction sets that the runs name against the tasks, as a run does before it begins."""
    named = {("retriever", run.retriever.instruction) for run in loaded.runs}
    named |= {("reranker", run.reranker.instruction) for run in loaded.runs if run.reranker is not None}
    for role, instruction in sorted(named):
        found = find_instruction_set(instruction, f"{loaded.path}: {role}.instruction")
        if found is not None:
            found.check([task.base for task in tasks], f"{loaded.path}: {role}.instruction")
            yield ok(f"{role}.instruction", f"{instruction} says something of every task, or what to do without")


def check_model(subject: Subject, fetch: str) -> Iterator[Finding]:
    """Tell which model a config's key comes to, and whether its weights are here and whole."""
    ref, folder, where = subject.ref, subject.folder, f"{subject.role}.model"
    notes = f"; {'; '.join(ref.notes)}" if ref.notes else ""
    found = f"{ref.name}, revision {ref.revision}, {ref.origin}, {ref.architecture or 'no weights'}{notes}"
    if folder is None:
        if ref.origin in {"built-in", "python", "server", "given"}:
            yield ok(subject.label, found)
            return
        yield warning(subject.label, f"{found}: not in the cache yet", f"run `{fetch}`; else the first run fetches it")
        return
    if ref.origin == "hub" and not hub.offline() and lacks_files(folder):
        # A download broke off, or only a config was read: the loader fetches the rest.
        yield warning(subject.label, f"{found}: not whole in the cache yet", f"run `{fetch}`; else the first run does")
        return
    parameters = count_parameters(folder, where, pinned=ref.published)
    if parameters is None:
        yield failure(subject.label, f"{found}: {folder} holds no weights", subject.again(fetch))
    else:
        yield ok(subject.label, f"{found}, {parameters / 1e6:,.1f} M parameters")


def present(subject: Subject) -> int | None:
    """Return a model's number of parameters where its weights are here and whole, else None."""
    if subject.folder is None:
        return None
    try:
        return count_parameters(subject.folder, "", pinned=subject.ref.published)
    except (ModelError, OSError):
        return None
