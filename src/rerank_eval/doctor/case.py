"""What is looked at, and how each check is run under guard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from rerank_eval.config import LoadedConfig
from rerank_eval.doctor.findings import Finding, failure, guarded, ok
from rerank_eval.errors import RerankEvalError
from rerank_eval.models.needs import fetch_command
from rerank_eval.typed import command


@dataclass
class Case:
    """What to look at, and what the checks have found out so far, for those behind them.

    Attributes:
        load: Loads the config, and says which it is and why.
        weights: Whether to load models.
        show: Given the name of what is being looked at, for a reader who waits.
        loaded: The config, once it could be loaded.
        fetch: The command that fetches what the config's runs need.
    """

    load: Callable[[], tuple[LoadedConfig, str]]
    weights: bool = True
    show: Callable[[str], None] = lambda _: None
    loaded: LoadedConfig | None = field(default=None, init=False)
    fetch: str = field(default="rerank-eval fetch", init=False)

    def run(self, name: str, check: Callable[[], Iterable[Finding]], again: str = "") -> Iterator[Finding]:
        """Run one check under guard; `again` says how to get a checkpoint's files anew."""
        self.show(name)
        yield from guarded(name, check, self.fetch, again)

    def load_config(self) -> Iterator[Finding]:
        """Load the config."""
        try:
            self.loaded, why = self.load()
        except RerankEvalError as error:
            yield failure(
                "config", str(error), f"correct what is named; `{command('schema')}` prints every key with its meaning"
            )
            return
        self.fetch = fetch_command(self.loaded)
        tasks, runs = len(self.loaded.base.tasks), len(self.loaded.runs)
        yield ok("config", f"{why}, {tasks} task name(s), {runs} run(s)")
