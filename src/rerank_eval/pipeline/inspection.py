"""Where a run fails: its worst queries, what retrieval never delivered, one query with all that was read and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from mteb._create_dataloaders import _corpus_to_dict
from rich.console import Console

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.prompts import PromptTokenizer
from rerank_eval.errors import ConfigError, DataError, RerankEvalError
from rerank_eval.files import write_json
from rerank_eval.metrics.registry import percent
from rerank_eval.models.checkpoint import load_tokenizer
from rerank_eval.models.sections import resolve_section
from rerank_eval.names import did_you_mean
from rerank_eval.rerankers.family import Prepared
from rerank_eval.rerankers.loading import prepare_reranker
from rerank_eval.results.frames import read_frame
from rerank_eval.results.manifest import Manifest
from rerank_eval.results.runs import UNIT, Stored, find_run, stored_rows
from rerank_eval.tables import simple
from rerank_eval.tasks import prepare
from rerank_eval.tasks.registry import TaskRef, build, resolve, split_of
from rerank_eval.typed import command
from rerank_eval.visible import one_line

_SNIPPET = 70
_SHOWN = 20


@dataclass(frozen=True)
class InspectionRequest:
    """What was asked for on the command line.

    Attributes:
        run: An identity, a model's label or a row's folder.
        task: A task's name, or the folder of a BEIR task; None for all.
        query: A query's id; None for the worst queries.
        render: With a query: rank of the candidate whose prompt is rendered, from 1.
        cell: With a query: only this cell, as `subset/split`; None for all that have a query of that id.
        data_root: Mirror of data sets, where the run read one; None for the hub's cache.
        json: Further file for everything as JSON, or None.
    """

    run: str
    task: str | None = None
    query: str | None = None
    worst: int = 10
    missed: bool = False
    render: int | None = None
    cell: str | None = None
    results: Path = Path("results")
    data_root: Path | None = None
    model_root: Path | None = None
    json: Path | None = None


def inspect_run(request: InspectionRequest, console: Console) -> None:
    """Show where a run fails.

    Raises:
        ConfigError: The run, the task or the query is not there.
        DataError: The data that is needed cannot be read.
    """
    row = _row(request)
    console.print(f"{row.identity}  {row.title}", markup=False)
    found: dict[str, Any] = {}
    for name in _tasks(request, row):
        console.print(f"\n{name}", markup=False, style="bold")
        view = _View(row, name, request, console)
        if request.query is not None:
            found[name] = view.one_query(request.query)
        else:
            found[name] = view.missed() if request.missed else view.worst()
    if request.json is not None:
        write_json(request.json, {"identity": row.identity, "run": row.title, "tasks": found})
        console.print(f"written: {request.json}", markup=False)


def _row(request: InspectionRequest) -> Stored:
    rows = [row for row in find_run(request.run, request.results) if isinstance(row, Stored)]
    if not rows:
        raise ConfigError(f"{request.run}: belongs to no result; name an identity (`{command('runs')}` lists them)")
    if len(rows) > 1:
        listed = "; ".join(f"{row.identity[:6]} {row.detail}" for row in rows)
        raise ConfigError(f"{request.run}: {len(rows)} runs: {listed}; name one by its identity")
    return rows[0]


def _tasks(request: InspectionRequest, row: Stored) -> list[str]:
    names = list(row.tasks)
    if request.task is not None:
        wanted = Path(request.task).name
        if wanted not in names:
            raise ConfigError(f"--task {request.task!r}: not in this run; {did_you_mean(wanted, names)}")
        names = [wanted]
    if request.query is not None and len(names) > 1:
        names = [name for name in names if request.query in set(_parquet(row, name, "per_query")["query_id"])]
        if len(names) != 1:
            raise ConfigError(f"--query {request.query!r}: in {len(names)} tasks of this run; choose one with --task")
    return names


def _parquet(row: Stored, task: str, file: str) -> pd.DataFrame:
    path = row.tasks[task] / f"{file}.parquet"
    try:
        return read_frame(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}); run `{command('eval')}` again") from None


class _View:
    """One run on one task."""

    def __init__(self, row: Stored, task: str, request: InspectionRequest, console: Console) -> None:
        self.row, self.name, self.request, self.console = row, task, request, console
        manifest = Manifest.find(row.tasks[task])
        if manifest is None:
            raise DataError(f"{row.tasks[task]}: its manifest is missing or torn; run `{command('eval')}` again")
        self.manifest = manifest
        self.scores = _parquet(row, task, "scores")

    @cached_property
    def data(self) -> Any:
        """The task with its data."""
        task = build(self._ref(), size=self.manifest.config["embedded"]["size"])
        prepare.load(task, self.request.data_root)
        return task

    def _ref(self) -> TaskRef:
        if self.manifest.task.kind != "beir":
            return resolve([self.name], where="--task")[0]
        given = self.request.task
        if given is None or not Path(split_of(given)[0]).is_dir():
            raise ConfigError(f"{self.name} was read from a folder; name it, as --task path/to/{self.name}")
        return resolve([given], where="--task")[0]

    def _texts(self) -> dict[tuple[str, str, str], str]:
        """Return each query's text."""
        return {
            (subset, split, query): text
            for subset, split, data in prepare.cells(self.data)
            for query, text in zip(data["queries"]["id"], data["queries"]["text"], strict=True)
        }

    def _table(self, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        if rows:
            self.console.print(simple(heads, rows), markup=False)

    def worst(self) -> list[dict[str, Any]]:
        """Show the queries that lost most against the best order of their candidates."""
        frame = _parquet(self.row, self.name, "per_query")
        frame = frame.assign(lost=frame["oracle_ndcg_at_10"] - frame["ndcg_at_10"])
        frame = frame.sort_values(["lost", "query_id"], ascending=[False, True], kind="stable").head(self.request.worst)
        try:
            texts = self._texts()
        except RerankEvalError:
            texts = {}  # ids alone then
        rows: list[dict[str, Any]] = [
            {
                "query_id": str(one["query_id"]),
                "subset": str(one["subset"]),
                "split": str(one["split"]),
                "ndcg_at_10": float(one["ndcg_at_10"]),
                "oracle": float(one["oracle_ndcg_at_10"]),
                "lost": float(one["lost"]),
                "relevant": int(one["n_relevant"]),
                "text": texts.get((one["subset"], one["split"], one["query_id"]), ""),
            }
            for one in frame.to_dict("records")
        ]
        several = len(frame[["subset", "split"]].drop_duplicates()) > 1
        shown = [
            [
                _named(row, several=several)[:_SNIPPET],
                *(percent(row[key]) for key in ("ndcg_at_10", "oracle", "lost")),
                _snippet(row["text"]),
            ]
            for row in rows
        ]
        self._table(["query", "nDCG@10", "best order", "lost", "text"], shown)
        return rows

    def missed(self) -> list[dict[str, Any]]:
        """Show relevant documents that are not among the candidates, whatever the order."""
        delivered = {key: set(group["doc_id"]) for key, group in self.scores.groupby(UNIT)}
        texts = self._texts()
        rows: list[dict[str, Any]] = []
        cells = list(prepare.cells(self.data))
        for subset, split, data in cells:
            for query, judged in data["relevant_docs"].items():
                unit = (subset, split, query)
                relevant = {document for document, grade in judged.items() if grade > 0}
                lost = sorted(relevant - delivered.get(unit, set()))
                if lost and unit in texts:
                    row = {"query_id": query, "subset": subset, "split": split, "missed": lost}
                    rows.append(row | {"relevant": len(relevant), "text": texts[unit]})
        self.console.print(
            f"{sum(len(row['missed']) for row in rows)} relevant documents of {len(rows)} of "
            f"{len(_parquet(self.row, self.name, 'per_query'))} queries are not among the candidates",
            markup=False,
        )
        rows.sort(key=lambda row: (-len(row["missed"]), row["query_id"]))
        shown = [
            [
                _named(row, several=len(cells) > 1),
                f"{len(row['missed'])} of {row['relevant']}",
                _snippet(", ".join(row["missed"])),
                _snippet(row["text"]),
            ]
            for row in rows[: self.request.worst]
        ]
        self._table(["query", "missed", "documents", "text"], shown)
        return rows

    def one_query(self, query: str) -> dict[str, Any]:
        """Show a query with its instruction, and its candidates before and after; each cell that has one of that id."""
        scores = self.scores[self.scores["query_id"] == query]
        if scores.empty:
            known = self.scores["query_id"].unique().tolist()
            raise ConfigError(f"--query {query!r}: not in {self.name}; {did_you_mean(query, known)}")
        cells = {f"{subset}/{split}": group for (subset, split), group in scores.groupby(["subset", "split"])}
        wanted = self.request.cell
        if wanted is not None:
            if wanted not in cells:
                raise ConfigError(f"--cell {wanted!r}: has no query {query!r}; {did_you_mean(wanted, cells)}")
            cells = {wanted: cells[wanted]}
        if len(cells) == 1:
            return self._one_query(query, *cells.values())
        # Ids may repeat from one subset or split to the next: these are queries of their own.
        found = []
        for name, group in cells.items():
            self.console.print(name, markup=False, style="bold")
            found.append(self._one_query(query, group))
        return {"query_id": query, "cells": found}

    def _one_query(self, query: str, scores: pd.DataFrame) -> dict[str, Any]:
        """Show a query of one cell, whose candidates are given."""
        subset, split = str(scores["subset"].iloc[0]), str(scores["split"].iloc[0])
        data = self.data.dataset[subset][split]
        asked = data["queries"][list(data["queries"]["id"]).index(query)]
        text, query_instruction = str(asked["text"]), asked.get("instruction")
        instruction, note = self._instruction(query_instruction)
        before = self._before(query, subset, split)
        judged = data["relevant_docs"].get(query, {})
        candidates = set(scores["doc_id"])
        numbers = {one: number for number, one in enumerate(data["corpus"]["id"]) if one in candidates}
        documents = {one: _corpus_to_dict(data["corpus"][number])["text"] for one, number in numbers.items()}
        rows = [
            {
                "rank": int(one["rank"]),
                "before": before.get(str(one["doc_id"])),
                "doc_id": str(one["doc_id"]),
                "relevance": int(judged.get(one["doc_id"], 0)),
                "score": float(one["score"]),
                "text": documents.get(str(one["doc_id"]), ""),
            }
            for one in scores.sort_values("rank").to_dict("records")
        ]
        self.console.print(f"query {one_line(query)}: {one_line(text)}", markup=False)
        self.console.print(f"instruction: {note if instruction is None else one_line(instruction)}", markup=False)
        shown = [
            [
                row["rank"],
                "-" if row["before"] is None else row["before"],
                row["relevance"] or "",
                f"{row['score']:.4f}",
                one_line(row["doc_id"])[:_SNIPPET],
                _snippet(row["text"]),
            ]
            for number, row in enumerate(rows)
            if number < _SHOWN or row["relevance"] > 0
        ]
        self._table(["rank", "before", "relevance", "score", "document", "text"], shown)
        return {
            "query_id": query,
            "subset": subset,
            "split": split,
            "text": text,
            "instruction": instruction,
            "candidates": rows,
            "prompt": self._prompt(text, query_instruction, rows) if self.request.render is not None else None,
        }

    def _before(self, query: str, subset: str, split: str) -> dict[str, int]:
        """Return the first stage's ranks, where its files are still there."""
        if self.manifest.row.kind == "retriever":
            return {}
        first = self.manifest.identity.candidates
        row = next((one for one in stored_rows(self.row.root) if one.identity == first), None)
        if row is None or self.name not in row.tasks:
            return {}
        frame = _parquet(row, self.name, "scores")
        frame = frame[(frame[UNIT] == [subset, split, query]).all(axis=1)]
        return dict(zip(frame["doc_id"], frame["rank"].astype(int).tolist(), strict=True))

    @cached_property
    def _prepared(self) -> Prepared | None:
        """The run's reranker, checked anew; None for a retriever's run."""
        section = self.manifest.config.get("reranker")
        if section is None:
            return None
        config = RerankerConfig.model_validate(section)
        ref = resolve_section(config, "reranker", self.request.model_root)
        return prepare_reranker(config, ref)

    def _instruction(self, query_instruction: str | None) -> tuple[str | None, str]:
        """Return the instruction that the model read, and what to say where it read none."""
        prepared, settings = self._prepared, self.manifest.settings
        if prepared is None:
            prompt = self.manifest.instruction.get("query")
            return (prompt, "") if prompt else (None, "none: a retriever")
        instructions = prepared.prompting.instructions
        recipe = prepared.prompting.recipe
        same = settings.get("recipe") in {None, "" if recipe is None else recipe.name} and (
            instructions is None or instructions.identity == settings["instruction"]
        )
        if not same:
            return None, "its recipe's or instructions' file has changed since"
        return prepared.policy.choose(query_instruction, self.data.metadata)[1], "none"

    def _prompt(self, text: str, query_instruction: str | None, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Render a candidate's prompt by the tokenizer alone: no weights are loaded."""
        prepared = self._prepared
        if prepared is None or not prepared.reads_prompt or prepared.max_length is None:
            raise ConfigError(
                "--render: this run's model reads no prompt; it is for causal rerankers and others with a recipe"
            )
        rank = self.request.render or 1
        if not 1 <= rank <= len(rows):
            raise ConfigError(f"--render {rank}: the query has {len(rows)} candidates")
        recipe, mode = prepared.recipe, prepared.config.special_tokens
        prompts = PromptTokenizer(load_tokenizer(prepared.ref), recipe, prepared.max_length, mode)
        _, instruction = prepared.policy.choose(query_instruction, self.data.metadata)
        query = prepared.policy.query_text(text, query_instruction)
        prompt = prompts.render(query, rows[rank - 1]["text"], instruction)
        self.console.rule(f"prompt of rank {rank}")
        self.console.print(prompt.text, markup=False)
        self.console.rule()
        cut = ", cut to max_length" if prompt.truncated else ""
        self.console.print(f"tokens: {len(prompt.token_ids)}{cut}", markup=False)
        return {"rank": rank, "text": prompt.text, "tokens": len(prompt.token_ids), "truncated": prompt.truncated}


def _named(row: Mapping[str, Any], *, several: bool) -> str:
    """Name a query, with its cell where the task has several."""
    cell = f" ({row['subset']}/{row['split']})" if several else ""
    return one_line(f"{row['query_id']}{cell}")


def _snippet(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _SNIPPET else f"{line[: _SNIPPET - 3]}..."
