"""The instruction lab: scores variants of an instruction on a few queries first, and goes on with what is not decided.

A unit is one query of each cell (split and subset) of the task, averaged: what the task's score is a mean of. Units are
drawn in a random order, without any query twice. See `analysis.sequential` for the rule and its guarantee.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from rerank_eval.analysis.sequential import ALPHA, Race
from rerank_eval.config import LoadedConfig, RunConfig
from rerank_eval.engine.interface import Engine
from rerank_eval.errors import ConfigError, DataError
from rerank_eval.files import write_json
from rerank_eval.metrics import registry
from rerank_eval.names import digest, task_folder
from rerank_eval.pipeline import results, stages
from rerank_eval.pipeline.manifest import Job
from rerank_eval.pipeline.plan import RunSpec
from rerank_eval.pipeline.run import cross_encoder, load_engine
from rerank_eval.rerankers.rerank_search import RerankSearch
from rerank_eval.results.recorder import Recorder
from rerank_eval.session.choice import read_config
from rerank_eval.session.start import Session, start
from rerank_eval.store.locks import locked
from rerank_eval.tables import simple
from rerank_eval.tasks import prepare
from rerank_eval.tasks.registry import resolve
from rerank_eval.workers.cluster import Cluster, open_cluster

SEED = 20_250_605
FIRST = 30
"""Queries of the first sample."""
_GROWTH = 1.5  # of what is scored, from look to look
_RERANKER = "reranker.instruction"

Unit = tuple[tuple[str, str, str], ...]
"""(subset, split, query id), one of each cell."""


@dataclass(frozen=True)
class LabRequest:
    """What was asked for on the command line.

    Attributes:
        config: The config whose reranker is used.
        task: The one task.
        instructions: Settings to try, as `reranker.instruction` takes them.
        overrides: `--set` arguments.
        first: Units of the first sample.
        most: Units at most; None for all.
        alpha: Chance of any false verdict.
        seed: Of the order of queries.
    """

    config: Path
    task: str
    instructions: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    first: int = FIRST
    most: int | None = None
    alpha: float = ALPHA
    seed: int = SEED


def run_lab(request: LabRequest, console: Console) -> None:
    """Try instructions on more and more queries until they are told apart, and write what was found.

    Raises:
        ConfigError: There are fewer than two instructions, or the task is none that this can be done on.
        RerankEvalError: Retrieval or scoring failed.
    """
    loaded = _load(request)
    console.print(f"config: {loaded.path}", markup=False)
    tasks = resolve(loaded.base.tasks, split=loaded.base.split, where="--task")
    if len(tasks) != 1:
        raise ConfigError(f"--task {request.task}: {len(tasks)} tasks; the lab works on one at a time")
    session = start(loaded, console)
    session.run([run.model_copy(update={"reranker": None}) for run in loaded.runs[:1]])
    with open_cluster(loaded.base.workers, loaded.base.device) as cluster:
        _Lab(session, request, console, cluster).run()
    session.tracker.finish()


def _load(request: LabRequest) -> LoadedConfig:
    variants = list(dict.fromkeys(request.instructions))
    if len(variants) < 2:  # noqa: PLR2004 - there is nothing to tell apart
        raise ConfigError("--instruction: give at least two, such as --instruction none --instruction task")
    loaded = read_config(request.config, [request.task], request.overrides)
    if loaded.base.reranker is None:
        raise ConfigError(f"{loaded.path}: reranker: is null; there is nothing to instruct")
    if len(loaded.runs) > 1:
        loaded = read_config(request.config, [request.task], [*request.overrides, "grid="])
    runs: list[RunConfig] = []
    for variant in variants:
        checked = read_config(
            request.config, [request.task], [*request.overrides, "grid=", f"{_RERANKER}={_quoted(variant)}"]
        )
        runs += checked.runs
    return dataclasses.replace(loaded, runs=tuple(runs), variants=tuple({_RERANKER: one} for one in variants))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Lab:
    """One task, one reranker, several instructions."""

    def __init__(self, session: Session, request: LabRequest, console: Console, cluster: Cluster | None) -> None:
        plan, [task] = session.plan, session.plan.tasks
        self.plan, self.request, self.console, self.reporter = plan, request, console, session.reporter
        self.cluster = cluster
        self.rows = {_name(row): row for row in plan.rerankers()}
        if len(self.rows) < 2:  # noqa: PLR2004 - two names of one instruction are one variant
            raise ConfigError("--instruction: these come to one and the same prompt; give others")
        self.race = Race(list(self.rows), request.alpha)
        first = next(iter(self.rows.values()))
        self.job = Job(first, task, plan.results_dir, plan.results_dir, {}, plan.loaded.base.embedded.size)
        self.task, _ = stages.reranking_task(self.job)
        metric = registry.find(self.task.metadata.main_score)
        if metric is None or registry.unit(metric) != "query":
            raise ConfigError(f"{task.name}: its main score is {self.task.metadata.main_score}; use `compare` for it")
        self.qrels = stages.judgements(self.task)
        self.data = {(subset, split): dict(data) for subset, split, data in prepare.cells(self.task)}
        self.units = self._order()
        self.engine: Engine | None = None

    def _order(self) -> list[Unit]:
        """Draw the units: a random order of each cell's queries, side by side; the smallest cell sets the number."""
        orders = []
        for number, (cell, data) in enumerate(sorted(self.data.items())):
            known = [query for query in data["top_ranked"] if self.qrels[cell].get(query)]
            shuffled = np.random.default_rng([self.request.seed, number]).permutation(sorted(known))
            orders.append([(*cell, str(query)) for query in shuffled])
        units = list(zip(*orders, strict=False))
        if not units:
            raise DataError(f"{self.task.metadata.name}: a split has no query with candidates and judgements")
        return units[: self.request.most]

    def run(self) -> None:
        """Score, look, go on."""
        done, size = 0, min(self.request.first, len(self.units))
        while True:
            for values in self._score(self.units[done:size]):
                active = self.race.active
                if len(active) > 1:
                    self.race.see({name: values[name] for name in active})
            done = size
            self._tell(done)
            if len(self.race.active) == 1 or done == len(self.units):
                break
            size = min(math.ceil(done * _GROWTH), len(self.units))
        prepare.unload(self.task)
        self._write(done)

    def _score(self, units: Sequence[Unit]) -> list[dict[str, float]]:
        found = {name: self._values(self.rows[name], units) for name in self.race.active}
        return [
            {name: float(np.mean([values[one] for one in unit])) for name, values in found.items()} for unit in units
        ]

    def _values(self, row: RunSpec, units: Sequence[Unit]) -> dict[tuple[str, str, str], float]:
        """Score some queries with one instruction, through mteb's own path, as a run would."""
        wanted: dict[tuple[str, str], set[str]] = {}
        for unit in units:
            for subset, split, query in unit:
                wanted.setdefault((subset, split), set()).add(query)
        pairs = 0
        for cell, queries in wanted.items():
            data, whole = self.task.dataset[cell[0]][cell[1]], self.data[cell]
            rows = [number for number, query in enumerate(whole["queries"]["id"]) if query in queries]
            data["queries"] = whole["queries"].select(rows)
            for key in ("top_ranked", "relevant_docs"):
                data[key] = {query: entry for query, entry in whole[key].items() if query in queries}
            pairs += sum(map(len, data["top_ranked"].values()))
        lock = row.lock(self.plan.results_dir, self.job.task.name)
        with locked(lock, waiting=self._waiting) as held:  # as a run does: it may be at the very same pairs
            if self.engine is None:
                self.engine = load_engine(row, self.cluster)
            model, _ = cross_encoder(dataclasses.replace(self.job, row=row, held=held), self.engine, self.cluster)
            with self.reporter.bar(f"{_name(row)}: {len(units)} more queries", pairs, "pairs") as bar:
                model.advance = bar.advance
                stages.evaluate(RerankSearch(model), self.task)
        return self._judged(model.recorder)

    def _waiting(self) -> None:
        self.reporter.say(f"  another process is at work on {self.job.task.name}; waiting for it")

    def _judged(self, recorder: Recorder) -> dict[tuple[str, str, str], float]:
        scored = {
            cell: {query: self.qrels[cell][query] for query in scores.query_ids if query in self.qrels[cell]}
            for cell, scores in recorder.cells.items()
        }
        measure = self.task.metadata.main_score
        frame = results.judge(recorder, scored, measure).per_query
        keys = zip(frame["subset"], frame["split"], frame["query_id"], strict=True)
        return dict(zip(keys, frame[measure].tolist(), strict=True))

    def _tell(self, done: int) -> None:
        rows = []
        for one in sorted(self.race.verdicts(), key=lambda verdict: -verdict.mean):
            state = f"out: worse than {one.by}" if one.out else "in"
            rows.append([one.name, one.units, registry.percent(one.mean), state])
        self.console.print()
        self.console.print(simple(["instruction", "queries", "mean", ""], rows), markup=False)
        if len(self.race.active) == 1:
            self.console.print(f"decided: {self.race.active[0]}", markup=False)
            return
        needed, left = self.race.more(), len(self.units) - done
        if needed is None:
            outlook = "what was seen gives no direction"
        else:
            outlook = f"some {needed:,} queries more would tell the rest apart, were they as those seen"
        self.console.print(f"{outlook}; {left:,} are left", markup=False)

    def _write(self, done: int) -> None:
        settings = [[row.digest for row in self.rows.values()], self.request.seed, self.request.alpha]
        path = self.plan.results_dir / "labs" / f"{task_folder(self.job.task.name)}-{digest(settings, 8)}.json"
        verdicts: list[Mapping[str, Any]] = [dataclasses.asdict(one) for one in self.race.verdicts()]
        write_json(
            path,
            {
                "task": self.job.task.name,
                "measure": self.task.metadata.main_score,
                "alpha": self.request.alpha,
                "seed": self.request.seed,
                "queries": done,
                "of": len(self.units),
                "more": self.race.more(),
                "verdicts": verdicts,
                "identities": {name: row.digest for name, row in self.rows.items()},
            },
        )
        share = f"{self.request.alpha:.0%}"
        self.console.print(
            f"guarantee: at most {share} is the chance that any instruction is called worse than one that is not "
            "better, over all looks",
            markup=False,
        )
        self.console.print(f"written: {path}", markup=False)


def _name(row: RunSpec) -> str:
    config = row.config.reranker
    assert config is not None  # noqa: S101 - a reranker row has one by construction
    return row.instructions.identity if row.instructions is not None else config.instruction
