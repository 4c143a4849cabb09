"""Splits: chosen by key, option or behind the name, refused where they are not there, and never mixed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import mteb
import pandas as pd
import pytest
from mteb.results import TaskResult

from rerank_eval.cli import _run
from rerank_eval.errors import ConfigError, DataError
from rerank_eval.tasks import mirror, prepare
from rerank_eval.tasks.registry import build, resolve
from tests.mirror.hub_layout import Repository
from tests.mirror.texts import sentences
from tests.pipeline.folders import write_beir_folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(mirror, "_usual_cache", lambda: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    qrels = write_beir_folder(tmp_path / "tools") / "qrels"
    lines = (qrels / "test.tsv").read_text().splitlines()
    (qrels / "dev.tsv").write_text("\n".join(lines[:4]) + "\n")
    (tmp_path / "run.yaml").write_text(
        json.dumps({"tasks": ["./tools"], "retriever": {"model": "bm25", "top_k": 5}, "reranker": None})
    )
    return tmp_path


def manifests() -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in Path("results").glob("runs/*/*/*/manifest.json")]
    return {manifest["task"]["name"]: manifest for manifest in found}


def test_two_splits_of_a_folder_stand_side_by_side(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["eval", "-c", "run.yaml"]) == 0
    assert "tasks: tools (split test; also there: dev, by --split)" in capsys.readouterr().out
    before = manifests()["tools"]
    assert _run(["eval", "-c", "run.yaml", "--split", "dev"]) == 0
    assert "tasks: tools@dev (split dev; also there: test, by --split)" in capsys.readouterr().out
    found = manifests()
    assert found["tools"] == before
    assert {name: len(one["scores"]["cells"]) for name, one in found.items()} == {"tools": 1, "tools@dev": 1}
    assert found["tools@dev"]["scores"]["cells"][0]["split"] == "dev"
    assert found["tools@dev"]["scores"]["cells"][0]["n_queries"] == 3
    assert found["tools"]["identity"] == found["tools@dev"]["identity"]
    for manifest in found.values():
        result = TaskResult.from_disk(Path("results") / manifest["mteb_result"])
        assert result.task_name == "tools"
        assert list(result.scores) == [manifest["scores"]["cells"][0]["split"]]
    board = pd.read_csv("results/leaderboard.csv")
    assert {"tools", "tools@dev"} <= set(board.columns)


def rows(printed: str) -> list[list[str]]:
    """A plan's rows of the split, without the hours, which are measured anew."""
    return [line.split()[:4] for line in printed.splitlines() if line.startswith("tools@dev")]


@pytest.mark.parametrize("name", ["tools@dev", "./tools@dev"])
def test_every_command_takes_a_split(project: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    task = name.removesuffix("@dev") if name.startswith(".") else "./tools"
    assert _run(["plan", "-c", "run.yaml", "--task", task, "--split", "dev"]) == 0
    planned = rows(capsys.readouterr().out)
    assert planned
    assert _run(["plan", "-c", "run.yaml", "--task", f"{task}@dev"]) == 0
    assert rows(capsys.readouterr().out) == planned
    assert _run(["eval", "-c", "run.yaml", "--set", "split=dev"]) == 0
    capsys.readouterr()
    assert _run(["verify", "--task", name]) == 0
    assert "tools@dev, BM25" in capsys.readouterr().out
    assert _run(["verify", "--task", "tools", "--split", "dev"]) == 0
    assert _run(["inspect", "BM25", "--task", "./tools", "--split", "dev"]) == 0
    assert "which tool can drive nails" in capsys.readouterr().out
    variants = ["--set", "grid.retriever.top_k=[4, 5]"]
    assert _run(["compare", "run.yaml", "--run", "--split", "dev", *variants]) == 0
    assert "tools@dev" in capsys.readouterr().out
    assert _run(["report", "--task", "./tools", "--split", "dev"]) == 0
    assert "tools@dev" in Path("results/report.html").read_text()
    assert _run(["doctor", "-c", "run.yaml", "--no-weights", "--split", "nix"]) == 9
    assert _run(["report", "--split", "dev"]) == 2
    assert "--split dev: name its task with --task" in capsys.readouterr().err


def test_the_usual_split_by_its_name_is_the_usual_result(project: Path) -> None:
    assert [ref.name for ref in resolve(["./tools", "./tools@test"])] == ["tools"]
    assert _run(["eval", "-c", "run.yaml"]) == 0
    before = manifests()
    assert _run(["eval", "-c", "run.yaml", "--split", "test"]) == 0
    assert manifests() == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--split", "nix"], 2, "run.yaml: tasks: tools has no split 'nix'; valid: test, dev"),
        (["--task", "PyFunctionRetrieval", "--split", "dev"], 2, "PyFunctionRetrieval has no split 'dev'; valid: test"),
        (["--task", "./tools@nix"], 2, "tools has no split 'nix'; valid: test, dev"),
        (["--task", "SciFact@nix"], 5, "not here, and the hub cannot be reached: SciFact's data"),
        (["--task", "BrightBiologyRetrieval@long"], 2, "BrightBiologyRetrieval has no 'long'; valid: standard"),
    ],
)
def test_a_split_that_is_not_there_is_refused_in_one_line(
    project: Path, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["eval", "-c", "run.yaml", *arguments]) == code
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert not list(Path("results").glob("runs/*"))


def test_without_a_usual_split_the_error_tells_of_the_option(project: Path) -> None:
    (project / "tools" / "qrels" / "test.tsv").rename(project / "tools" / "qrels" / "train.tsv")
    [ref] = resolve(["./tools"])
    with pytest.raises(DataError, match=r"holds dev, train and no test; choose one by --split"):
        build(ref)
    [ref] = resolve(["./tools"], split="train")
    assert (ref.name, list(build(ref).eval_splits)) == ("tools@train", ["train"])


def test_a_folder_may_have_the_mark_in_its_name(project: Path) -> None:
    write_beir_folder(project / "tools@home")
    [ref] = resolve(["./tools@home"])
    assert (ref.name, ref.split) == ("tools_home", None)
    (project / "tools@home" / "qrels" / "test.tsv").rename(project / "tools@home" / "qrels" / "dev.tsv.gz")
    [ref] = resolve(["./tools@home@dev"])
    assert (ref.name, ref.splits) == ("tools_home", ("dev",))


def test_two_splits_that_come_to_one_name_are_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("dev 1.tsv", "dev_1.tsv"):
        shutil.copy("tools/qrels/dev.tsv", Path("tools/qrels") / name)
    assert _run(["eval", "-c", "run.yaml"]) == 3
    assert "the splits 'dev 1' and 'dev_1' come to one name, dev_1; rename one" in capsys.readouterr().err


def test_two_files_of_one_name_are_refused(project: Path) -> None:
    for name in ("qrels/test.tsv", "corpus.jsonl", "queries.jsonl"):
        packed = project / "tools" / f"{name}.gz"
        packed.write_bytes(b"")
        with pytest.raises(DataError, match=r"stands beside it, and may say something else; remove one of the two"):
            build(resolve(["./tools"])[0])
        packed.unlink()


def write_hub(root: Path, name: str, splits: list[str]) -> None:
    task = mteb.get_task(name)
    repository = Repository(root / task.metadata.dataset["path"], task.metadata.dataset["revision"])
    texts = sentences()[:20]
    repository.add("corpus", "corpus", [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(texts)])
    queries = [{"_id": f"{split}{n}", "text": texts[n]} for split in splits for n in range(3)]
    repository.add("queries", "queries", queries)
    for split in splits:
        judged = [{"query-id": f"{split}{n}", "corpus-id": f"d{n}", "score": 1} for n in range(3)]
        repository.add("default", split, judged)
    repository.finish()


def test_a_hub_task_s_other_split_is_read_from_its_data(project: Path) -> None:
    write_hub(project / "mirror", "SciFact", ["test", "train"])
    [ref] = resolve(["SciFact"], split="train")
    assert (ref.name, ref.base, ref.splits, ref.suite) == ("SciFact@train", "SciFact", ("train",), None)
    task = build(ref)
    prepare.check_splits(task, project / "mirror")
    prepare.load(task, project / "mirror")
    [(subset, split, data)] = list(prepare.cells(task))
    assert (subset, split, sorted(data["queries"]["id"])) == ("default", "train", ["train0", "train1", "train2"])
    assert prepare.fingerprint(task) != prepare.fingerprint(build(resolve(["SciFact"])[0]))


def test_mteb_s_only_split_is_not_taken_for_another(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mteb's loader reads the only split of the judgements whatever it was asked for."""
    write_hub(project / "mirror", "SciFact", ["test"])
    task = build(resolve(["SciFact@dev"])[0])
    with pytest.raises(ConfigError, match=r"split: SciFact has no 'dev'; valid: test"):
        prepare.check_splits(task, project / "mirror")
    arguments = ["eval", "-c", "run.yaml", "--task", "SciFact", "--split", "dev", "--set", "data_root=mirror"]
    assert _run(arguments) == 2
    assert "split: SciFact has no 'dev'; valid: test" in capsys.readouterr().err
    assert not list(Path("results").glob("runs/*"))


def test_a_suite_s_mean_is_over_its_tasks_own_splits(project: Path) -> None:
    refs = resolve(["MTEB-R"], split="dev")
    assert all(ref.suite is None for ref in refs if ref.split)
    usual = {ref.name: ref for ref in resolve(["MTEB-R"])}
    own = [ref for ref in refs if ref.split is None]
    assert all(usual[ref.name].splits == ("dev",) for ref in own)
    assert {ref.name for ref in refs if ref.split} == {f"{ref.base}@dev" for ref in refs if ref.split}


def test_a_task_of_images_is_refused(project: Path) -> None:
    [ref] = resolve(["Vidore3HrBM25sReranking.v2"])
    with pytest.raises(ConfigError, match=r"is of image, text; rerankers here read text alone"):
        build(ref)
