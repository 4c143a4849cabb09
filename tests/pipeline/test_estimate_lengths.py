"""Spreads of lengths against collections whose lengths are known one by one, and `plan` against a run that cuts."""

from __future__ import annotations

import inspect
import json
import shutil
import sysconfig
import tarfile
import typing
from pathlib import Path

import pytest

from rerank_eval.cli import _run
from rerank_eval.engine.shapes import Shape
from rerank_eval.pipeline.estimate_texts import BINS, EQUAL, spread_from, spread_of
from rerank_eval.tasks import prepare
from rerank_eval.tasks.registry import build, resolve

ROOT = Path(__file__).parents[2]
LIBRARY = Path(sysconfig.get_paths()["stdlib"])


def cut(lengths: typing.Sequence[float], limit: float) -> float:
    return sum(min(one, limit) for one in lengths) / len(lengths)


def collections() -> dict[str, list[int]]:
    found = {"sources": [path.stat().st_size for path in LIBRARY.glob("*.py") if path.stat().st_size]}
    for task in resolve(["Embedded"]):
        built = build(task)
        prepare.load(built)
        for _, _, data in prepare.cells(built):
            found[task.name] = [len(text) for text in data["corpus"]["text"]]
        prepare.unload(built)
    return found


def test_known_lengths_keep_their_mean_and_what_a_limit_leaves() -> None:
    for lengths in ([100] * 10 + [50_000], list(range(1000)), [7], [0, 0, 5]):
        mean = sum(lengths) / len(lengths)
        spread = [mean * part for part in spread_of(lengths)]
        assert len(spread) <= BINS
        assert cut(spread, float("inf")) == pytest.approx(mean)
        for limit in (50, 500, 8192):
            assert cut(spread, limit) == pytest.approx(cut(lengths, limit), rel=0.01)
    assert spread_of([0, 0]) == EQUAL


def test_what_statistics_tell_comes_nearer_than_taking_all_for_equal() -> None:
    for name, lengths in collections().items():
        mean = sum(lengths) / len(lengths)
        spread = [mean * part for part in spread_from(len(lengths), mean, max(lengths))]
        for limit in (mean, 2 * mean):
            exact = cut(lengths, limit)
            assert abs(cut(spread, limit) - exact) <= abs(min(mean, limit) - exact) + 1e-6, name
            assert cut(spread, limit) == pytest.approx(exact, rel=0.2), name


def test_degenerate_statistics_are_one_length() -> None:
    assert spread_from(1, 10.0, 10.0) == spread_from(5, 10.0, 10.0) == spread_from(5, 0.0, 0.0) == EQUAL
    assert spread_from(2, 1.0, 1e6)[-1] < BINS  # more than a log-normal of two texts can hold


def test_flops_of_a_group_by_hand() -> None:
    shape = Shape(layers=2, hidden=8, intermediate=16, heads=2, key_value_heads=1, head_dim=4)
    # q and o are 8 x 8, k and v 8 x 4, the three of the MLP 8 x 16: 128 + 64 + 384 weights a layer.
    assert shape.layer_parameters == 2 * (128 + 64 + 384)
    # A prefix of 3 and documents of 2 and 1: 6 tokens; keys 1+2+3, then 4+5, then 4; each 4 x 2 heads x 4 FLOP a layer.
    assert shape.useful_flops(3, [2, 1]) == 2 * 1152 * 6 + 2 * 32 * (6 + 9 + 4)


def test_a_folder_of_notes_and_manuals_is_planned_as_it_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    texts = [inspect.getsource(module) for module in (typing, tarfile, inspect)]
    texts += [f"Note {number}: the {path.stem} module." for number, path in enumerate(sorted(LIBRARY.glob("s*.py")))]
    (tmp_path / "notes" / "qrels").mkdir(parents=True)
    documents = [json.dumps({"_id": f"d{number}", "title": "", "text": text}) for number, text in enumerate(texts)]
    (tmp_path / "notes" / "corpus.jsonl").write_text("\n".join(documents), encoding="utf-8")
    (tmp_path / "notes" / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "which module reads archives"}))
    (tmp_path / "notes" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
    told = ["--config", "configs/base.yaml", "--task", "./notes", "--set", "retriever.model=bm25"]
    told += ["--set", "reranker.max_length=512"]
    assert _run(["plan", *told, "--json", "plan.json"]) == 0
    assert _run(["eval", *told]) == 0
    (work,) = (one for one in json.loads(Path("plan.json").read_text())["work"] if one["kind"] == "reranker")
    (path,) = Path("results").glob("runs/Qwen3*/*/notes/manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest["truncation"]["pairs"] == 3
    assert work["pairs"] == manifest["counts"]["pairs"] == len(texts)
    assert work["prompt_tokens"] == pytest.approx(manifest["timings"]["work"]["prompt_tokens"], rel=0.1)
    assert work["computed_tokens"] == pytest.approx(manifest["timings"]["work"]["computed_tokens"], rel=0.1)
