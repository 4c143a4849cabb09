"""All checks in order, each guarded: what one meets never ends the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rerank_eval.config import LoadedConfig
from rerank_eval.doctor import disk, versions
from rerank_eval.doctor.findings import Finding, failure, guarded, ok
from rerank_eval.doctor.needs import fetch_needs, hub_models
from rerank_eval.errors import RerankEvalError

NEEDED = ("torch", "transformers", "mteb", "datasets")
"""Modules without which the checks behind them have nothing to look at."""


@dataclass
class Case:
    """What the checks have found out so far, for those behind them.

    Attributes:
        read: Reads the config, and says which it is and why.
        weights: Whether to load models.
        loaded: The config, once it could be loaded.
        tell: Told what is being looked at, for a reader who waits.
    """

    read: Callable[[], tuple[LoadedConfig, str]]
    weights: bool = True
    loaded: LoadedConfig | None = None
    tell: Callable[[str], None] = lambda _: None
    _fetch: str = field(default="rerank-eval fetch", init=False)

    def run(self, name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
        """Run one check under guard."""
        self.tell(name)
        yield from guarded(name, check, self._fetch)

    def load(self) -> Iterator[Finding]:
        """Load the config."""
        try:
            self.loaded, why = self.read()
        except RerankEvalError as error:
            yield failure("config", str(error), "correct what is named; configs/schema.json has every key's meaning")
            return
        base = self.loaded.base
        self._fetch = fetch_needs(self.loaded)
        yield ok("config", f"{why}, {len(base.tasks)} task name(s), {len(self.loaded.runs)} run(s)")

    @property
    def fetch(self) -> str:
        """The command that fetches what the config's runs need."""
        return self._fetch


def examine(case: Case) -> Iterator[Finding]:
    """Run all checks.

    Args:
        case: What to look at; filled while the checks run.

    Yields:
        Findings, each as soon as it is known.
    """
    yield from case.run("python", versions.check_python)
    yield from case.run("packages", versions.check_packages)
    yield from case.run("imports", versions.check_imports)
    missing = [module for module in NEEDED if not versions.importable(module)]
    yield from case.run("config", case.load)
    yield from _check_disks(case, ask_caches="datasets" not in missing)
    if missing:
        return  # told above; the checks behind would only say it again
    # Imported here: these need what was just found to be importable.
    from rerank_eval.doctor.with_torch import examine_machine, examine_models, examine_sources

    yield from examine_machine(case)
    if case.loaded is not None:
        subjects = yield from examine_sources(case, case.loaded)
        yield from examine_models(case, case.loaded, subjects)


def _check_disks(case: Case, *, ask_caches: bool) -> Iterator[Finding]:
    results = Path(case.loaded.base.results_dir if case.loaded is not None else "results")
    remedy = "choose another with --set results_dir=DIR"
    yield from case.run("results_dir", lambda: disk.check_folder("results_dir", results, remedy))
    if not ask_caches:
        return
    from rerank_eval.models.resolve import cache_dir

    remedy = "set RERANK_EVAL_CACHE to a folder that can be written"
    yield from case.run("cache", lambda: disk.check_folder("RERANK_EVAL_CACHE", cache_dir(), remedy))
    yield from case.run("HF_HOME", lambda: _check_hub_caches(case))


def _check_hub_caches(case: Case) -> Iterator[Finding]:
    """Check the hub libraries' caches; data sets are prepared in theirs even when they come from a mirror."""
    import datasets.config
    import huggingface_hub.constants

    from rerank_eval.hub import offline

    models, data = Path(huggingface_hub.constants.HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE)
    downloads = case.loaded is not None and any(hub_models(run) for run in case.loaded.runs) and not offline()
    remedy = "set HF_HOME to a folder that can be written"
    yield from disk.check_folder("hub cache", models, remedy, needed=downloads)
    yield from disk.check_folder("datasets cache", data, remedy)
