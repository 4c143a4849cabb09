"""Where a run fails: its worst queries, what retrieval never delivered, one query with all that was read and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mteb._create_dataloaders import _corpus_to_dict
from rich.console import Console

from rerank_eval.config import RerankerConfig
from rerank_eval.errors import ConfigError, DataError, RerankEvalError
from rerank_eval.files import write_json
from rerank_eval.metrics.registry import percent
from rerank_eval.names import did_you_mean
from rerank_eval.rerankers.family import Prepared
from rerank_eval.rerankers.loading import prepare_reranker
from rerank_eval.results.frames import read_frame
from rerank_eval.results.manifest import Manifest
from rerank_eval.results.runs import Stored, find_run, stored_rows
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
        worst: How many of them.
        missed: Show the relevant documents that are not among the candidates.
        render: Rank of the candidate whose prompt is rendered, from 1; None renders none.
        results: Results folder.
        data_root: Mirror of data sets, where the run read one; None for the hub's cache.
        model_root: The same for models.
        cell: With a query: only this cell, as `subset/split`; None for all that have a query of that id.
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

    Args:
        request: What was asked for.
        console: Where it is printed.

    Raises:
        ConfigError: The run, the task or the query is not there.
        DataError: The data that is needed cannot be read.
    """
    row = _row(request)
    console.print(f"{row.identity}  {row.title}", markup=False)
    found: dict[str, Any] = {"identity": row.identity, "run": row.title, "tasks": {}}
    names = _tasks(request, row)
    if request.query is not None and len(names) > 1:
        names = [name for name in names if request.query in set(_per_query(row, name)["query_id"])]
        if len(names) != 1:
            raise ConfigError(f"--query {request.query!r}: in {len(names)} tasks of this run; choose one with --task")
    for name in names:
        console.print(f"\n{name}", markup=False, style="bold")
        view = _View(row, name, request)
        if request.query is not None:
            found["tasks"][name] = view.one_query(request.query, console)
        elif request.missed:
            found["tasks"][name] = view.missed(console)
        else:
            found["tasks"][name] = view.worst(console)
    if request.json is not None:
        write_json(request.json, found)
        console.print(f"written: {request.json}", markup=False)


def _row(request: InspectionRequest) -> Stored:
    rows = [row for row in find_run(request.run, request.results) if isinstance(row, Stored)]
    if not rows:
        raise ConfigError(f"{request.run}: belongs to no result; name an identity (`{command('runs')}` lists them)")
    if len(rows) > 1:
        told = "; ".join(f"{row.identity[:6]} {row.detail}" for row in rows)
        raise ConfigError(f"{request.run}: {len(rows)} runs: {told}; name one by its identity")
    return rows[0]


def _tasks(request: InspectionRequest, row: Stored) -> list[str]:
    if request.task is None:
        return list(row.tasks)
    wanted = Path(request.task).name
    if wanted not in row.tasks:
        raise ConfigError(f"--task {request.task!r}: not in this run; {did_you_mean(wanted, row.tasks)}")
    return [wanted]


def _per_query(row: Stored, task: str) -> pd.DataFrame:
    return _parquet(row.tasks[task] / "per_query.parquet")


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return read_frame(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}); run `{command('eval')}` again") from None


class _View:
    """One run on one task."""

    def __init__(self, row: Stored, task: str, request: InspectionRequest) -> None:
        self.row, self.name, self.request = row, task, request
        manifest = Manifest.find(row.tasks[task])
        if manifest is None:
            raise DataError(f"{row.tasks[task]}: its manifest is missing or torn; run `{command('eval')}` again")
        self.manifest = manifest
        self.scores = _parquet(row.tasks[task] / "scores.parquet")
        self._task: Any = None

    def data(self) -> Any:
        """Load the task's data, once."""
        if self._task is None:
            self._task = build(self._ref(), size=self.manifest.config["embedded"]["size"])
            prepare.load(self._task, self.request.data_root)
        return self._task

    def _ref(self) -> TaskRef:
        if self.manifest.task.kind == "beir":
            given = self.request.task
            if given is None or not Path(split_of(given)[0]).is_dir():
                raise ConfigError(f"{self.name} was read from a folder; name it, as --task path/to/{self.name}")
            return resolve([given], where="--task")[0]
        return resolve([self.name], where="--task")[0]

    def worst(self, console: Console) -> list[dict[str, Any]]:
        """Show the queries that lost most against the best order of their candidates."""
        frame = _per_query(self.row, self.name)
        frame = frame.assign(lost=frame["oracle_ndcg_at_10"] - frame["ndcg_at_10"])
        frame = frame.sort_values(["lost", "query_id"], ascending=[False, True], kind="stable").head(self.request.worst)
        texts = self._texts_of(frame)
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
                _named(row, several)[:_SNIPPET],
                percent(row["ndcg_at_10"]),
                percent(row["oracle"]),
                percent(row["lost"]),
                _snippet(row["text"]),
            ]
            for row in rows
        ]
        _table(console, ["query", "nDCG@10", "best order", "lost", "text"], shown)
        return rows

    def _texts_of(self, frame: pd.DataFrame) -> dict[tuple[str, str, str], str]:
        try:
            task = self.data()
        except RerankEvalError:
            return {}  # ids alone then
        wanted = set(frame["query_id"])
        return {
            (subset, split, query): text
            for subset, split, data in prepare.cells(task)
            for query, text in zip(data["queries"]["id"], data["queries"]["text"], strict=True)
            if query in wanted
        }

    def missed(self, console: Console) -> list[dict[str, Any]]:
        """Show relevant documents that are not among the candidates, whatever the order."""
        rows: list[dict[str, Any]] = []
        delivered = {key: set(own["doc_id"]) for key, own in self.scores.groupby(["subset", "split", "query_id"])}
        for subset, split, data in prepare.cells(self.data()):
            texts = dict(zip(data["queries"]["id"], data["queries"]["text"], strict=True))
            for query, judged in sorted(data["relevant_docs"].items()):
                relevant = [document for document, grade in judged.items() if grade > 0]
                lost = sorted(set(relevant) - delivered.get((subset, split, query), set()))
                if lost and query in texts:
                    cell = {"subset": subset, "split": split}
                    told = {"query_id": query, **cell, "missed": lost, "relevant": len(relevant), "text": texts[query]}
                    rows.append(told)
        queries = len(_per_query(self.row, self.name))
        documents = sum(len(row["missed"]) for row in rows)
        console.print(
            f"{documents} relevant documents of {len(rows)} of {queries} queries are not among the candidates",
            markup=False,
        )
        rows.sort(key=lambda row: (-len(row["missed"]), row["query_id"]))
        several = sum(1 for _ in prepare.cells(self.data())) > 1
        shown = [
            [
                _named(row, several),
                f"{len(row['missed'])} of {row['relevant']}",
                _snippet(", ".join(row["missed"])),
                _snippet(row["text"]),
            ]
            for row in rows[: self.request.worst]
        ]
        _table(console, ["query", "missed", "documents", "text"], shown)
        return rows

    def one_query(self, query: str, console: Console) -> dict[str, Any]:
        """Show a query with its instruction, and its candidates before and after; each cell that has one of that id."""
        own = self.scores[self.scores["query_id"] == query]
        if own.empty:
            known = self.scores["query_id"].unique().tolist()
            raise ConfigError(f"--query {query!r}: not in {self.name}; {did_you_mean(query, known)}")
        cells = sorted({(str(subset), str(split)) for subset, split in zip(own["subset"], own["split"], strict=True)})
        if self.request.cell is not None:
            wanted = {f"{subset}/{split}": (subset, split) for subset, split in cells}
            if self.request.cell not in wanted:
                raise ConfigError(
                    f"--cell {self.request.cell!r}: has no query {query!r}; {did_you_mean(self.request.cell, wanted)}"
                )
            cells = [wanted[self.request.cell]]
        if len(cells) == 1:
            return self._one_query(query, cells[0], console)
        # Ids may repeat from one subset or split to the next: these are queries of their own.
        found = []
        for subset, split in cells:
            console.print(f"{subset}/{split}", markup=False, style="bold")
            found.append(self._one_query(query, (subset, split), console))
        return {"query_id": query, "cells": found}

    def _one_query(self, query: str, cell: tuple[str, str], console: Console) -> dict[str, Any]:
        own = self.scores[
            (self.scores["query_id"] == query) & (self.scores["subset"] == cell[0]) & (self.scores["split"] == cell[1])
        ]
        data = self.data().dataset[cell[0]][cell[1]]
        index = list(data["queries"]["id"]).index(query)
        text = str(data["queries"]["text"][index])
        said = data["queries"]["instruction"][index] if "instruction" in data["queries"].column_names else None
        instruction, note = self._instruction(said)
        before = self._before(query, cell)
        judged = data["relevant_docs"].get(query, {})
        ids = list(data["corpus"]["id"])
        wanted = {one: number for number, one in enumerate(ids) if one in set(own["doc_id"])}
        documents = {one: _corpus_to_dict(data["corpus"][number])["text"] for one, number in wanted.items()}
        rows = [
            {
                "rank": int(one["rank"]),
                "before": before.get(str(one["doc_id"])),
                "doc_id": str(one["doc_id"]),
                "relevance": int(judged.get(one["doc_id"], 0)),
                "score": float(one["score"]),
                "text": documents.get(str(one["doc_id"]), ""),
            }
            for one in own.sort_values("rank").to_dict("records")
        ]
        console.print(f"query {one_line(query)}: {one_line(text)}", markup=False)
        console.print(f"instruction: {note if instruction is None else one_line(instruction)}", markup=False)
        _table(
            console,
            ["rank", "before", "relevance", "score", "document", "text"],
            [
                [
                    row["rank"],
                    "-" if row["before"] is None else row["before"],
                    row["relevance"] or "",
                    f"{row['score']:.4f}",
                    one_line(row["doc_id"])[:_SNIPPET],
                    _snippet(row["text"]),
                ]
                for row in _shown(rows)
            ],
        )
        prompt = self._prompt(text, said, rows, console) if self.request.render is not None else None
        return {
            "query_id": query,
            "subset": cell[0],
            "split": cell[1],
            "text": text,
            "instruction": instruction,
            "candidates": rows,
            "prompt": prompt,
        }

    def _before(self, query: str, cell: tuple[str, str]) -> dict[str, int]:
        """Return the first stage's ranks, where its files are still there."""
        if self.manifest.row.kind == "retriever":
            return {}
        first = self.manifest.identity.candidates
        row = next((one for one in stored_rows(self.row.root) if one.identity == first), None)
        if row is None or self.name not in row.tasks:
            return {}
        frame = _parquet(row.tasks[self.name] / "scores.parquet")
        frame = frame[(frame["query_id"] == query) & (frame["subset"] == cell[0]) & (frame["split"] == cell[1])]
        return dict(zip(frame["doc_id"], frame["rank"].astype(int).tolist(), strict=True))

    def _prepared(self) -> Prepared | None:
        """Prepare the run's reranker anew; None for a retriever's run."""
        section = self.manifest.config.get("reranker")
        if section is None:
            return None
        from rerank_eval.models.resolve import resolve_model

        config = RerankerConfig.model_validate(section)
        return prepare_reranker(
            config, resolve_model(config.model, config.revision, "reranker.model", self.request.model_root)
        )

    def _instruction(self, said: str | None) -> tuple[str | None, str]:
        prepared = self._prepared()
        if prepared is None:
            prompt = self.manifest.instruction.get("query")
            return (prompt, "") if prompt else (None, "none: a retriever")
        identity, instructions = self.manifest.settings, prepared.prompting.instructions
        same = identity.get("recipe") in {None, prepared.prompting.recipe.name} and (
            instructions is None or instructions.identity == identity["instruction"]
        )
        if not same:
            return None, "its recipe's or instructions' file has changed since"
        return prepared.policy.choose(said, self.data().metadata)[1], "none"

    def _prompt(
        self, text: str, said: str | None, rows: Sequence[Mapping[str, Any]], console: Console
    ) -> dict[str, Any]:
        """Render a candidate's prompt by the tokenizer alone: no weights are loaded."""
        from rerank_eval.engine.prompts import PromptTokenizer
        from rerank_eval.models.checkpoint import load_tokenizer

        prepared = self._prepared()
        if prepared is None or not prepared.causal or prepared.max_length is None:
            raise ConfigError("--render: this run's model reads no prompt; it is for causal rerankers")
        rank = self.request.render or 1
        if not 1 <= rank <= len(rows):
            raise ConfigError(f"--render {rank}: the query has {len(rows)} candidates")
        prompts = PromptTokenizer(
            load_tokenizer(prepared.ref),
            prepared.prompting.recipe,
            prepared.max_length,
            prepared.config.special_tokens,
        )
        _, chosen = prepared.policy.choose(said, self.data().metadata)
        prompt = prompts.render(prepared.policy.query_text(text, said), rows[rank - 1]["text"], chosen)
        console.rule(f"prompt of rank {rank}")
        console.print(prompt.text, markup=False)
        console.rule()
        cut = ", cut to max_length" if prompt.truncated else ""
        console.print(f"tokens: {len(prompt.token_ids)}{cut}", markup=False)
        return {"rank": rank, "text": prompt.text, "tokens": len(prompt.token_ids), "truncated": prompt.truncated}


def _shown(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the first candidates, and the relevant ones wherever they are."""
    return [row for number, row in enumerate(rows) if number < _SHOWN or row["relevance"] > 0]


def _named(row: Mapping[str, Any], several: bool) -> str:
    """Name a query, with its cell where the task has several."""
    cell = f" ({row['subset']}/{row['split']})" if several else ""
    return one_line(f"{row['query_id']}{cell}")


def _snippet(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _SNIPPET else f"{line[: _SNIPPET - 3]}..."


def _table(console: Console, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    if rows:
        console.print(simple(heads, rows), markup=False)
