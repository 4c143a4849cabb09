"""What a config reads and is not here: found out as a whole, before anything is loaded or written, with one way out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rerank_eval.config import LoadedConfig
from rerank_eval.config.schema import GIVEN
from rerank_eval.errors import OfflineError, RerankEvalError
from rerank_eval.fetch.run import DATA_ROOT, MODEL_ROOT
from rerank_eval.hub import why_unreachable
from rerank_eval.models.needs import fetch_command
from rerank_eval.models.resolve import on_hub
from rerank_eval.models.sections import resolve_section
from rerank_eval.names import some
from rerank_eval.pipeline.plan import Plan, make_plan
from rerank_eval.results.manifest import Manifest
from rerank_eval.tasks import mirror, prepare
from rerank_eval.tasks.registry import TaskRef, build, resolve
from rerank_eval.typed import again, command

_ROOTS = ("data_root", "model_root")
_SHOWN = 10


def complete_plan(loaded: LoadedConfig) -> Plan:
    """Plan a config of which all that it reads is here, or can be had while it runs.

    Returns:
        The plan.

    Raises:
        RerankEvalError: As `make_plan`. Where something has to be fetched first, all of it is named, with the command
            that brings it; the class is that of the first.
    """
    try:
        plan = make_plan(loaded)
    except RerankEvalError as error:
        if error.lacking is None:
            raise
        tasks = resolve(loaded.base.tasks, split=loaded.base.split, where=f"{loaded.path}: tasks")
        raise _all_of(loaded, [error, *_models(loaded), *_data(loaded, tasks)]) from error
    if problems := list(_data(loaded, [task for task in plan.tasks if _is_read(plan, task)])):
        raise _all_of(loaded, problems) from problems[0]
    return plan


def _is_read(plan: Plan, task: TaskRef) -> bool:
    """Tell whether a task's data is read: from a mirror always, whose state tells which results are still true."""
    if plan.loaded.base.data_root is not None:
        return True
    return not all(Manifest.find(row.folder(plan.results_dir, task.name)) for row in plan.rows)


def _models(loaded: LoadedConfig) -> Iterator[RerankEvalError]:
    seen: set[tuple[str, str | None]] = set()
    for run in loaded.runs:
        for key, section in (("retriever", run.retriever), ("reranker", run.reranker)):
            if section is None or section.model == GIVEN or (section.model, section.revision) in seen:
                continue
            seen.add((section.model, section.revision))
            try:
                resolve_section(section, f"{loaded.path}: {key}", loaded.base.model_folder)
            except RerankEvalError as error:
                if error.lacking is not None:
                    yield error


def _data(loaded: LoadedConfig, tasks: Sequence[TaskRef]) -> Iterator[RerankEvalError]:
    root = loaded.base.data_folder
    for task in tasks:
        built = build(task, size=loaded.base.embedded.size)
        try:
            prepare.check_splits(built, root)
            if root is None:
                prepare.check_present(built)
            elif prepare.from_hub(built):
                mirror.find(built, root)
        except RerankEvalError as error:
            if error.lacking is None:
                raise
            yield error


def _all_of(loaded: LoadedConfig, problems: Sequence[RerankEvalError]) -> RerankEvalError:
    names = list(dict.fromkeys(str(one.lacking) for one in problems))
    base = loaded.base
    reached = f", and {why_unreachable()}" if any(isinstance(one, OfflineError) for one in problems) else ""
    roots = _roots(loaded)
    settings = [f"{key}={roots[key]}" for key in _ROOTS if key in roots and getattr(base, key) is None]
    then = again(*(part for setting in settings for part in ("--set", setting)))
    by_hand = f", then set {' and '.join(settings)}" if settings else ""
    remedy = by_hand if then is None else f", then `{then}` here"
    fetch = fetch_command(loaded, roots)
    built_in = "" if base.data_root or base.model_root else f"; `{command('eval')}` alone needs no hub"
    return type(problems[0])(
        f"{loaded.path}: not here{reached}: {some(names, _SHOWN)}; run `{fetch}` where there is a network"
        f"{remedy}{built_in}",
        lacking=", ".join(names),
    )


def _roots(loaded: LoadedConfig) -> dict[str, str]:
    """Return the folders that a config's data sets and models go to, those alone that it needs."""
    base, found = loaded.base, {}
    if any(task.kind == "mteb" for task in resolve(base.tasks, split=base.split, where=f"{loaded.path}: tasks")):
        found["data_root"] = base.data_root or str(DATA_ROOT)
    sections = [section for run in loaded.runs for section in (run.retriever, run.reranker) if section is not None]
    if any(on_hub(section.model) for section in sections):
        found["model_root"] = base.model_root or str(MODEL_ROOT)
    return found
