"""Two ways of scoring the same pairs, held against each other: `rerank-eval parity A B --task T`."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console

from rerank_eval.analysis import parity
from rerank_eval.analysis.formats import format_of
from rerank_eval.analysis.parity import Pairs, Side
from rerank_eval.analysis.parity_render import heading, show
from rerank_eval.analysis.symptoms import Finding, head_finding, symptoms
from rerank_eval.config.renamed import renamed
from rerank_eval.engine.interface import Engine, Scores
from rerank_eval.errors import ConfigError, DataError, ParityError
from rerank_eval.files import write_json
from rerank_eval.metrics import registry
from rerank_eval.names import digest, slug, task_folder
from rerank_eval.pipeline import results, stages
from rerank_eval.pipeline.manifest import Job
from rerank_eval.pipeline.plan import RunSpec
from rerank_eval.pipeline.provenance import environment
from rerank_eval.pipeline.run import cross_encoder, load_engine
from rerank_eval.rerankers.cross_encoder import Candidates
from rerank_eval.rerankers.rerank_search import candidates_of
from rerank_eval.results.recorder import CellScores, Recorder
from rerank_eval.servers.scoring import ServerEngine
from rerank_eval.session.hypotheses import PROBES, Asked, Prober, group_of
from rerank_eval.session.parity_sides import ParityRequest, Sides, find_sides
from rerank_eval.session.prompts_tried import ProbePair
from rerank_eval.session.start import Session, start
from rerank_eval.store.locks import locked
from rerank_eval.tasks import prepare
from rerank_eval.tasks.registry import resolve
from rerank_eval.workers.cluster import Cluster, open_cluster

_ALONE = 8
"""Pairs that B scores once more, each by itself."""
_NDCG = "ndcg_at_10"
Cell = tuple[str, str]


def run_parity(request: ParityRequest, console: Console) -> None:
    """Score the same pairs in both ways, print how far apart they are and why, and write it.

    Raises:
        ConfigError: A or B does not come to one reranker, or there is more than one task.
        ParityError: They differ by more than the tolerance.
        RerankEvalError: Retrieval or scoring failed.
    """
    sides = find_sides(request)
    tasks = resolve(sides.loaded.base.tasks, split=sides.loaded.base.split, where="--task")
    if len(tasks) != 1:
        raise ConfigError(f"--task {request.task}: {len(tasks)} tasks; parity works on one at a time")
    session = start(sides.loaded, console)
    rows = session.plan.rerankers()
    for name, row in zip("AB", (rows[0], rows[-1]), strict=True):
        if row.prepared is not None and row.prepared.listwise:
            raise ConfigError(
                f"{name}: {row.ref.label} is listwise, and its scores are places in a list; `compare` compares orders"
            )
    for line in (*heading("A", rows[0].ref.label, rows[0].detail), *heading("B", rows[-1].ref.label, rows[-1].detail)):
        console.print(line, markup=False)
    for note in sides.notes:
        console.print(note, markup=False, style="dim")
    session.run([sides.loaded.runs[0].model_copy(update={"reranker": None})])
    with open_cluster(sides.loaded.base.workers, sides.loaded.base.device) as cluster:
        found = _Parity(session, request, sides, cluster).run(console)
    session.tracker.finish()
    largest = found["margins"]["largest"]
    if largest > request.tolerance:
        raise ParityError(
            f"A and B differ by up to {largest:.4g}, more than the tolerance of {request.tolerance:g}: "
            f"query {found['margins']['query_id']!r}, document {found['margins']['doc_id']!r}"
        )


@dataclass
class _Scored:
    """One side's scores of every sampled query, in the order of the queries."""

    row: RunSpec
    scores: list[Scores]
    recorder: Recorder


class _Parity:
    """Two rerankers on one task."""

    def __init__(self, session: Session, request: ParityRequest, sides: Sides, cluster: Cluster | None) -> None:
        self.plan, self.reporter, self.request, self.sides = session.plan, session.reporter, request, sides
        self.cluster = cluster
        rows = session.plan.rerankers()
        self.row_a, self.row_b = rows[0], rows[-1]
        [task] = session.plan.tasks
        size = session.plan.loaded.base.embedded.size
        self.job = Job(self.row_a, task, session.plan.results_dir, session.plan.results_dir, {}, size)
        self.task, _ = stages.reranking_task(self.job)
        self.qrels = stages.judgements(self.task)
        self.measure = self._measure()
        self.sample = self._sample()
        self._engines: dict[str, Engine] = {}

    def _measure(self) -> str:
        """Return the task's main measure, or nDCG@10 where that is none of single queries."""
        main = str(self.task.metadata.main_score)
        metric = registry.find(main)
        return main if metric is not None and registry.unit(metric) == "query" else _NDCG

    def _sample(self) -> dict[Cell, list[Candidates]]:
        """Choose queries by a digest of their ids, one of each cell in turn; judged ones first."""
        turns: list[tuple[int, bool, str, Cell, str]] = []
        data = {(subset, split): found for subset, split, found in prepare.cells(self.task)}
        for cell, found in sorted(data.items()):
            known = [str(one) for one in found["queries"]["id"] if found["top_ranked"].get(one)]
            ordered = sorted((not self.qrels[cell].get(one), digest([*cell, one]), one) for one in known)
            turns += [(place, unjudged, key, cell, one) for place, (unjudged, key, one) in enumerate(ordered)]
        turns.sort()
        chosen = turns[: self.request.queries or None]
        if not chosen:
            raise DataError(f"{self.task.metadata.name}: no query has candidates")
        sample: dict[Cell, list[Candidates]] = {}
        for cell, found in sorted(data.items()):
            wanted = {query for *_, at, query in chosen if at == cell}
            if wanted:
                top = {query: found["top_ranked"][query] for query in sorted(wanted)}
                where = f"{self.task.metadata.name} ({', '.join(cell)})"
                texts = candidates_of(found["corpus"], found["queries"], top, where)
                sample[cell] = sorted(texts, key=lambda one: one.query_id)
        return sample

    def run(self, console: Console) -> dict[str, Any]:
        """Score, compare, diagnose, print and write."""
        a = self._score(self.row_a)
        b = a if self.row_b is self.row_a else self._score(self.row_b)
        pairs = self._pairs(a, b)
        found = self._figures(pairs, a, b)
        findings = self._diagnosis(pairs)
        found["diagnosis"] = [{"kind": one.kind, "text": one.text, **one.evidence} for one in findings]
        found["within_tolerance"] = pairs.largest <= self.request.tolerance
        prepare.unload(self.task)
        show(found, console)
        name = f"{task_folder(self.job.task.name)}-{self.row_a.digest[:6]}-{self.row_b.digest[:6]}"
        key = digest([self.row_a.digest, self.row_b.digest, self.request.queries, self.request.tolerance], 6)
        path = self.plan.results_dir / "parity" / f"{slug(f'{name}-{key}')}.json"
        write_json(path, found)
        if self.request.json is not None:
            write_json(self.request.json, found)
        written = [path, *([self.request.json] if self.request.json else [])]
        console.print("written: " + ", ".join(map(str, written)), markup=False)
        return found

    def _score(self, row: RunSpec) -> _Scored:
        """Score all pairs in one way, through its score cache, as a run does."""
        side = _Scored(row, [], Recorder())
        total = sum(len(one.documents) for queries in self.sample.values() for one in queries)
        task = self.job.task.name
        with locked(row.lock(self.plan.results_dir, task), waiting=self._waiting) as held:
            model, _ = cross_encoder(replace(self.job, row=row, held=held), self._engine(row), self.cluster)
            with self.reporter.bar(f"{row.ref.label}: {self._count()} queries", total, "pairs") as bar:
                model.advance = bar.advance
                for (subset, split), queries in self.sample.items():
                    cell = CellScores()
                    for one in model.answer(queries, self.task.metadata, subset, split):
                        side.scores.append(one.scores)
                        cell.add(one.query_id, one.document_ids, one.scores.scores)
                    side.recorder.cells[subset, split] = cell
        return side

    def _count(self) -> int:
        return sum(len(queries) for queries in self.sample.values())

    def _waiting(self) -> None:
        self.reporter.say(f"  another process is at work on {self.job.task.name}; waiting for it")

    def _engine(self, row: RunSpec) -> Engine:
        """Return a row's engine; of two models of our own one is in memory at a time."""
        if row.digest not in self._engines:
            if in_process(row):
                self._engines.clear()
                gc.collect()
            self._engines[row.digest] = load_engine(row, self.cluster)
        return self._engines[row.digest]

    def _pairs(self, a: _Scored, b: _Scored) -> Pairs:
        queries = [one for cell in self.sample.values() for one in cell]
        counts = [len(one.documents) for one in queries]
        return Pairs(
            _side(a.scores),
            _side(b.scores),
            np.repeat(np.arange(len(queries)), counts),
            [one.query_id for one, count in zip(queries, counts, strict=True) for _ in range(count)],
            [document for one in queries for document in one.document_ids],
        )

    def _figures(self, pairs: Pairs, a: _Scored, b: _Scored) -> dict[str, Any]:
        """Return everything that is printed and written, but for the diagnosis."""
        found: dict[str, Any] = {
            "task": self.job.task.name,
            "a": _identity(self.row_a),
            "b": _identity(self.row_b),
            "differs": differing(self.row_a.identity, self.row_b.identity),
            "notes": list(self.sides.notes),
            "queries": self._count(),
            "pairs": len(pairs),
            "tolerance": self.request.tolerance,
            "margins": parity.spread(pairs, pairs.difference),
            "orders": parity.orders(pairs),
            "distinct": {"a": parity.distinct(pairs.a), "b": parity.distinct(pairs.b)},
            "tokens": {"a": int(pairs.a.tokens.sum()), "b": int(pairs.b.tokens.sum())},
            "truncated": {"a": int(pairs.a.truncated.sum()), "b": int(pairs.b.truncated.sum())},
            "measure": self.measure,
            "metric": self._metric(a, b),
            "environment": environment(),
        }
        if not (pairs.a.ranks_by_margin and pairs.b.ranks_by_margin):
            found["scores"] = parity.spread(pairs, pairs.b.scores - pairs.a.scores)
        return found

    def _metric(self, a: _Scored, b: _Scored) -> dict[str, float] | None:
        values: list[dict[str, Any]] = []
        for side in (a, b):
            judged = {
                cell: {query: self.qrels[cell][query] for query in scored.query_ids if self.qrels[cell].get(query)}
                for cell, scored in side.recorder.cells.items()
            }
            if not all(judged.values()):
                judged = {cell: queries for cell, queries in judged.items() if queries}
                side.recorder = Recorder({cell: side.recorder.cells[cell] for cell in judged})
            if not judged:
                return None
            frame = results.judge(side.recorder, judged, self.measure).per_query.sort_values("query_id")
            cells = frame.groupby(["subset", "split"], sort=True)[self.measure]
            values.append({str(cell): one.to_numpy(dtype=np.float64) for cell, one in cells})
        return parity.metric_difference([(values[0][cell], values[1][cell]) for cell in values[0]])

    def _diagnosis(self, pairs: Pairs) -> list[Finding]:
        """Find out why the two differ, from their numbers and then with the weights that are here."""
        if self.row_a is self.row_b:
            return [Finding("identity", "A and B have one identity, so that they share their scores: nothing differs")]
        tolerance = self.request.tolerance
        y = pairs.b.margins if pairs.largest > tolerance else pairs.b.scores
        if pairs.largest <= tolerance and np.abs(pairs.b.scores - pairs.a.scores).max() <= tolerance:
            return []
        alone = self._alone(pairs) if pairs.largest > tolerance else None
        if alone is not None:
            tolerance = max(tolerance, 2 * alone.evidence["largest"])
        found = symptoms(pairs, y, tolerance)
        if pairs.largest > self.request.tolerance and not any(one.explains for one in found):
            tried = self._tried(pairs, y, tolerance, found)
            if any(one.explains for one in tried):
                found = [one for one in found if one.kind not in {"unrelated", "monotone"}]
            found = [*tried, *found]
        heads = [
            head_finding(side, name) for name, side in (("A", pairs.a), ("B", pairs.b)) if not side.ranks_by_margin
        ]
        if pairs.largest <= tolerance or len(heads) != 1:  # else the link of the scores says it
            heads = []
        return [*found, *(one for one in (*heads, alone) if one is not None)]

    def _alone(self, pairs: Pairs) -> Finding | None:
        """Have B score some pairs once more, each by itself: what it changes then is no other prompt's."""
        engine, rows = self._engine(self.row_b), parity.probes(pairs, _ALONE)
        prepared = self.row_b.prepared
        assert prepared is not None  # noqa: S101 - a reranker's row has it
        again = [
            float(engine.score(group_of(prepared, pair, self.task.metadata)).margins[0]) for pair in self._texts(rows)
        ]
        off = np.abs(np.array(again) - pairs.b.margins[rows])
        largest = float(off.max())
        if largest <= self.request.tolerance:
            return None
        evidence = {"largest": largest, "pairs": len(rows)}
        list_off = self._list_again(pairs, engine, int(rows[off.argmax()]))
        if list_off > self.request.tolerance:
            text = (
                f"B's stored scores are not what B says now: the list of the pair that is off most, sent once more, "
                f"differs by up to {list_off:.2g}; it was started anew with something else since (results of another "
                "folder are not read: --results), or answers at random"
            )
            return Finding("changed", text, evidence | {"list": list_off})
        text = (
            f"B does not score a pair alike in other company: {len(rows)} pairs, each sent by itself, differ by up "
            f"to {largest:.2g} from what the same pair got among others"
        )
        return Finding("unsteady", text, evidence)

    def _list_again(self, pairs: Pairs, engine: Engine, row: int) -> float:
        """Have B score the query of a pair once more; return the largest difference from what is stored."""
        prepared, rows = self.row_b.prepared, pairs.groups[int(pairs.query[row])]
        assert prepared is not None  # noqa: S101 - a reranker's row has it
        every = [one for cell in self.sample.values() for one in cell]
        asked = every[int(pairs.query[row])]
        group = group_of(prepared, ProbePair(asked.query, asked.own_instruction, ""), self.task.metadata)
        again = engine.score(replace(group, documents=asked.documents)).margins
        return float(np.abs(again - pairs.b.margins[rows]).max())

    def _texts(self, rows: Any) -> list[ProbePair]:
        """Return some pairs, their documents as B's server gets them."""
        every = [
            ProbePair(one.query, one.own_instruction, document)
            for cell in self.sample.values()
            for one in cell
            for document in one.documents
        ]
        engine, prepared = self._engines.get(self.row_b.digest), self.row_b.prepared
        chosen = [every[row] for row in rows]
        if not isinstance(engine, ServerEngine) or prepared is None:
            return chosen
        sent = [engine.sent(group_of(prepared, pair, self.task.metadata)).documents[0] for pair in chosen]
        return [replace(pair, document=document) for pair, document in zip(chosen, sent, strict=True)]

    def _tried(self, pairs: Pairs, y: Any, tolerance: float, known: Sequence[Finding]) -> list[Finding]:
        """Try hypotheses with the weights of the side that runs in this process."""
        swapped = not in_process(self.row_a)
        row = self.row_b if swapped else self.row_a
        if not in_process(row):
            return []
        rows = parity.probes(pairs, PROBES)
        values, own = (pairs.a.margins, pairs.b.margins) if swapped else (y, pairs.a.margins)
        length = next((one.evidence for one in known if one.kind == "length"), None)
        asked = Asked(
            self._texts(rows),
            values[rows],
            own[rows],
            format_of(values).rounding[rows],
            tolerance,
            [*_limits(pairs), *(_between(length["agree_up_to"], length["differ_from"]) if length is not None else ())],
            swapped,
        )
        engine = self._engines.get(row.digest) if self.cluster is None else None
        self._engines.clear()
        gc.collect()
        prober = Prober(row, self.task.metadata, engine)
        found = prober.explain(asked)
        if found or any(one.kind in {"cut", "length", "constant"} for one in known):
            return found
        nearest = "" if prober.nearest is None else f"; nearest comes: {prober.nearest[1]}"
        text = f"none of {prober.tried} hypotheses about prompt, cut and number format explains the rest{nearest}"
        return [Finding("unexplained", text, {"tried": prober.tried})]


def _between(below: int, above: int) -> tuple[int, ...]:
    """Return the limits that lie between two lengths, where they are few."""
    return tuple(range(below, above)) if above - below <= PROBES else (below, above - 1)


def _limits(pairs: Pairs) -> list[int]:
    """Return the length of what one side cuts, as far as it counts its tokens."""
    longest = [int(side.tokens.max()) for side in (pairs.a, pairs.b)]
    return [min(longest)] if 0 < min(longest) < max(longest) else []


def in_process(row: RunSpec) -> bool:
    """Tell whether a row's model is loaded from files into this process, so that it can be asked otherwise."""
    return row.ref.origin not in {"python", "server"}


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the keys of two identities whose values differ, with both values; None for a key that one lacks."""
    one, other = (renamed(identity)[0] for identity in (one, other))
    keys = dict.fromkeys([*one, *other])
    return {key: [one.get(key), other.get(key)] for key in keys if one.get(key) != other.get(key)}


def _identity(row: RunSpec) -> dict[str, Any]:
    return {"label": row.ref.label, "detail": row.detail, "digest": row.digest, "identity": row.identity}


def _side(scores: Sequence[Scores]) -> Side:
    every = Scores.concat(scores)
    return Side(every.scores, every.margins, every.tokens, every.truncated)
