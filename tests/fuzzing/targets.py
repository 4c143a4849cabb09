"""What is fuzzed: every reader of what comes from outside, each as a function of a folder and some bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from rerank_eval.analysis import cards, render, tables
from rerank_eval.analysis.loading import load_run, load_runs
from rerank_eval.config.files import read_yaml
from rerank_eval.config.loading import load_config
from rerank_eval.models.instruction_sets import find_instruction_set
from rerank_eval.models.recipes import find_recipe
from rerank_eval.models.resolve import resolve_model
from rerank_eval.pipeline import stages
from rerank_eval.reproduce.mteb_results import read_results
from rerank_eval.reproduce.published import Published, _json, _validated
from rerank_eval.results.manifest import Manifest
from rerank_eval.results.records import load_manifests, of_one_revision, of_present_candidates
from rerank_eval.results.runs import find_run, stored_rows
from rerank_eval.results.verification import verify_result
from rerank_eval.store import admin, cell_folder
from rerank_eval.store.cell import ScoreCacheCell
from rerank_eval.store.shards import write_shard
from rerank_eval.tasks.beir import BeirFolder
from rerank_eval.tasks.suites import load_suites
from tests.fuzzing import samples

PARTS = b"\n%%%\n"
"""Between the files of an input that is several files."""


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: What it is called in results.
        prepare: Writes the input under a folder.
        run: Reads it.
        seeds: Inputs to start from.
        words: What mutations put in.
    """

    name: str
    prepare: Callable[[Path, bytes], None]
    run: Callable[[Path], object]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...] = ()


def _file(name: str) -> Callable[[Path, bytes], None]:
    def write(folder: Path, data: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return write


def _files(*names: str) -> Callable[[Path, bytes], None]:
    def write(folder: Path, data: bytes) -> None:
        parts = data.split(PARTS)
        for number, name in enumerate(names):
            if number < len(parts):
                _file(name)(folder, parts[number])

    return write


def _frame(name: str) -> Callable[[Path, bytes], None]:
    """Write a parquet file: the bytes as they are, or the columns that they give as JSON, of whatever types."""

    def write(folder: Path, data: bytes) -> None:
        try:
            value = json.loads(data)
            out = io.BytesIO()
            pq.write_table(pa.table(value), out)
            data = out.getvalue()
        except Exception:  # noqa: S110 - no frame: then as it is
            pass
        _file(name)(folder, data)

    return write


def _overrides(folder: Path) -> object:
    (folder / "results").mkdir(exist_ok=True)
    text = (folder / "set.txt").read_bytes().decode("utf-8", "surrogateescape")
    config = folder / "results" / "plain.yaml"
    config.write_text("tasks: [Embedded]\n")
    return load_config(config, text.split("\n"))


def _beir(folder: Path) -> object:
    task = BeirFolder(folder / "data")
    task.load_data()
    return task


def _predictions(folder: Path) -> object:
    samples.write_folder(folder / "results" / "data")
    task = BeirFolder(folder / "results" / "data")
    task.load_data()
    return stages._convert(task, folder / "results" / "runs" / "predictions.json", 10)


def _leaderboard(folder: Path) -> object:
    """What `leaderboard`, `runs`, `compare` and `verify` read of manifests."""
    root = folder / "results"
    records, _ = of_one_revision(load_manifests(root), {})
    records, _ = of_present_candidates(records)
    suites = {name: [task.name for task in suite.tasks] for name, suite in load_suites().items()}
    for row in stored_rows(root):
        Manifest.find(row.folder)
        assert row.title is not None
    verify_result(root / "runs" / "m" / "0123456789ab" / "Task", root)
    if not records:
        return None
    board = tables.leaderboard(records, suites)
    console = Console(file=io.StringIO(), width=80)
    console.print(render.to_rich(board))
    return (
        render.to_markdown(board),
        render.to_csv(board),
        render.to_latex(board),
        render.to_html(board),
        cards.to_card(records, suites),
        cards.to_model_index(records),
    )


def _frames(folder: Path) -> object:
    """What `compare`, `report` and `inspect` read of a result's frames."""
    root = folder / "results"
    own = root / "runs" / "m" / "0123456789ab" / "Task"
    (own / "manifest.json").write_text(json.dumps(samples.MANIFEST))
    [row] = stored_rows(root)
    run = load_run(row, "m")
    run.tasks["Task"].candidates()
    return run


def _table(folder: Path) -> object:
    return load_runs([("m", row) for row in find_run(str(folder / "per_query.parquet"), folder)])


def _trec(folder: Path) -> object:
    rows = [("m", row) for row in find_run(str(folder / "run.trec"), folder)]
    return load_runs(rows, qrels=folder / "qrels.txt")


def _mteb(folder: Path) -> object:
    return read_results(folder, ["org/model"], {"Task": "ndcg_at_10"}).of("org/model")


def _published(folder: Path) -> object:
    return _validated(Published, read_yaml(folder / "table.yaml"), folder / "table.yaml")


def _per_task(folder: Path) -> object:
    from rerank_eval.reproduce.published import PerTask

    return _validated(PerTask, _json(folder / "table.json"), folder / "table.json")


def _model(folder: Path) -> object:
    (folder / "results" / "model").mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors.index.json"):
        if (folder / name).exists():
            (folder / "results" / "model" / name).write_bytes((folder / name).read_bytes())
    (folder / "results" / "model" / "model.safetensors").write_bytes(b"weights")
    ref = resolve_model(str(folder / "results" / "model"), None, "reranker.model")
    from rerank_eval.config.schema import RerankerConfig, RetrieverConfig
    from rerank_eval.models.architectures import effective_max_length, is_classifier
    from rerank_eval.retrievers.embedders import embedding_engine

    config = RerankerConfig(model="./model")
    is_classifier(config, ref)
    effective_max_length(config, ref)
    return embedding_engine(RetrieverConfig(model="./model"), ref)


CELL = cell_folder(samples.OWNER["subset"], samples.OWNER["split"])


def _shard(folder: Path) -> object:
    root = folder / "results"
    own = root / "scores" / "m" / samples.OWNER["identity"]
    (own / "identity.json").write_text(json.dumps(samples.IDENTITY))
    cell = ScoreCacheCell(own / "Task" / CELL, samples.OWNER)
    cell.find(samples.SCORED.query, samples.SCORED.documents)
    admin.show(root, None, Console(file=io.StringIO()))
    return admin.verify(root, None, Console(file=io.StringIO()))


def _insert(folder: Path) -> object:
    (folder / "results").mkdir(exist_ok=True)
    copy = folder / "results" / "README.md"
    copy.write_bytes((folder / "README.md").read_bytes())
    return render.insert_markdown(samples.board(), copy)


@cache
def _shard_bytes() -> tuple[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        path = write_shard(Path(temporary), 0, samples.OWNER, [samples.SCORED])
        return path.name, path.read_bytes()


def _parquet(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.to_parquet(out)
    return out.getvalue()


def _any_json(value: Any) -> bytes:
    return json.dumps(value).encode()


JSON = (
    b"null",
    b"true",
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-1",
    b'""',
    b"[[[[",
    b'{"a":',
    b"\\ud800",
    b"\\u0000",
    b"9" * 40,
)
YAML = (
    b"&a [x]",
    b"*a",
    b"<<: *a",
    b"!!python/object/apply:os.system ['touch pwned']",
    b"!!binary aGk=",
    b"!!timestamp 2001-01-01",
    b"? [a, b]\n: c\n",
    b"\xef\xbb\xbf",
    b"\x00",
    b"%YAML 9.9\n---\n",
    b"9" * 5000,
    b"1:2:3",
    b".inf",
    b".nan",
    b"0x1_F",
    b"\t",
    b"- " * 200,
    b"[" * 200,
    b"{a: " * 200,
    b"\xff",
    b"null",
    b"~",
    b"extends: config.yaml\n",
    b"grid:\n  reranker.dtype: [float32]\n",
)


def targets() -> dict[str, Target]:
    """Return every target by name."""
    name, shard = _shard_bytes()
    cell = f"results/scores/m/{samples.OWNER['identity']}/Task/{CELL}/{name}"
    own = "results/runs/m/0123456789ab/Task"
    good = samples.per_query()
    frames = (_parquet(good), _any_json(good.to_dict("list")), _any_json(good.to_dict("list")))
    found = [
        Target("config", _file("config.yaml"), lambda f: load_config(f / "config.yaml"), samples.CONFIGS, YAML),
        Target("overrides", _file("set.txt"), _overrides, samples.OVERRIDES, YAML),
        Target("recipe", _file("r.yaml"), lambda f: find_recipe(str(f / "r.yaml"), "x"), samples.RECIPES, YAML),
        Target(
            "instructions",
            _file("i.yaml"),
            lambda f: find_instruction_set(str(f / "i.yaml"), "x"),
            samples.INSTRUCTIONS,
            YAML,
        ),
        Target("published", _file("table.yaml"), _published, samples.PUBLISHED, YAML),
        Target("per_task", _file("table.json"), _per_task, samples.PER_TASK, JSON),
        Target(
            "beir",
            _files("data/corpus.jsonl", "data/queries.jsonl", "data/qrels/test.tsv"),
            _beir,
            (PARTS.join(samples.FOLDER), PARTS.join((*samples.FOLDER[:2], b"q1 0 d1 1\n#x\nq2\t0\t3\t2\n"))),
            samples.LINES,
        ),
        Target(
            "beir_gz",
            _files("data/corpus.jsonl.gz", "data/queries.jsonl", "data/qrels/test.tsv"),
            _beir,
            (PARTS.join((samples.GZIPPED, *samples.FOLDER[1:])),),
        ),
        Target("predictions", _file("results/runs/predictions.json"), _predictions, samples.PREDICTIONS, JSON),
        Target("trec", _files("run.trec", "qrels.txt"), _trec, samples.TREC, samples.LINES),
        Target("manifest", _file(f"{own}/manifest.json"), _leaderboard, (_any_json(samples.MANIFEST),), JSON),
        Target("per_query", _frame(f"{own}/per_query.parquet"), _frames, frames, JSON),
        Target("parquet", _frame("per_query.parquet"), _table, frames, JSON),
        Target(
            "mteb_result",
            _files("org__model/abc/Task.json", "org__model/abc/experiments/x/model_meta.json"),
            _mteb,
            (_any_json(samples.MTEB) + PARTS + _any_json({"experiment_kwargs": {"dtype": "float32"}}),),
            JSON,
        ),
        Target("model", _files("config.json", "model.safetensors.index.json"), _model, samples.MODELS, JSON),
        Target("shard", _file(cell), _shard, (shard,)),
        Target("readme", _file("README.md"), _insert, (b"a\n<!-- leaderboard:begin -->\n<!-- leaderboard:end -->\nb",)),
    ]
    return {target.name: target for target in found}
