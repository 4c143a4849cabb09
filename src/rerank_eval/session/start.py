"""The one way to start a run: device, what it reads, hub, log, tracker, plan, runner.

Everything that can be found wrong without loading a model is found before a folder is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rerank_eval.config import LoadedConfig, RunConfig
from rerank_eval.errors import RerankEvalError
from rerank_eval.fetch.missing import complete_plan
from rerank_eval.hub import go_offline, go_offline_if_unreachable
from rerank_eval.pipeline.plan import Plan
from rerank_eval.pipeline.progress import Reporter, leave_nothing, open_log
from rerank_eval.pipeline.run import Outcome, Runner
from rerank_eval.pipeline.tracking import Guarded, make_tracker
from rerank_eval.rerankers.cross_encoder import CrossEncoder
from rerank_eval.rerankers.loading import check_device


@dataclass(frozen=True)
class Session:
    """A run that has been checked and can begin.

    Attributes:
        plan: All of it.
        reporter: Shows what happens.
        tracker: Told of config and results.
        log: The log file.
    """

    plan: Plan
    reporter: Reporter
    tracker: Guarded
    log: Path

    def run(
        self, runs: Sequence[RunConfig] | None = None, *, loaded: CrossEncoder | None = None
    ) -> tuple[Plan, Outcome]:
        """Compute what is missing.

        Args:
            runs: Only these of the config's runs, or variants of them; None for all.
            loaded: A reranker in memory, which serves the runs of its settings.

        Returns:
            The plan of these runs, and what was computed.

        Raises:
            RerankEvalError: Any problem that a user can mend; finished tasks stay on disk.
        """
        plan = self.plan if runs is None else complete_plan(_part(self.plan.loaded, runs))
        runner = Runner(plan, self.reporter, self.tracker, loaded)
        try:
            return plan, runner.run()
        except RerankEvalError:
            if not runner.outcome.computed and not runner.outcome.skipped:
                leave_nothing(plan.results_dir, self.log)
            raise


def start(loaded: LoadedConfig, console: Console, *, first: Sequence[RunConfig] | None = None) -> Session:
    """Check a config and get ready to run it.

    Args:
        loaded: The config.
        console: For what the user asked for.
        first: Check these of its runs alone, where a run that cannot be is to be passed over later on.

    Returns:
        The session; its tracker has been told of the config.

    Raises:
        ConfigError: A name is unknown, or the tracker's package is not installed.
        DeviceError: This machine has not the config's device, and no workers compute instead.
        RerankEvalError: Something has to be fetched first: all of it is named, with the command that brings it.
        StorageError: The results folder cannot be written.
    """
    base = loaded.base
    if base.workers is None:  # else the workers' devices count, and not this machine's
        check_device(base.device)
    if base.data_root is not None and base.model_root is not None:
        go_offline()  # everything is in the mirror: what is not there is an error and never a download
    plan = complete_plan(loaded if first is None else _part(loaded, first))
    if any(task.kind == "mteb" for task in plan.tasks) and base.data_root is None:
        go_offline_if_unreachable()
    named = make_tracker(base.tracking, plan.results_dir)
    log = open_log(plan.results_dir, console)
    reporter = Reporter(console)
    tracker = Guarded(named, reporter.say)
    tracker.start(base.model_dump(mode="json"))
    return Session(dataclasses.replace(plan, loaded=loaded), reporter, tracker, log)


def _part(loaded: LoadedConfig, runs: Sequence[RunConfig]) -> LoadedConfig:
    return dataclasses.replace(loaded, runs=tuple(runs), variants=tuple({} for _ in runs))
