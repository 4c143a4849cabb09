from __future__ import annotations

import gzip
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import mteb
import pytest

from rerank_eval.errors import DataError
from rerank_eval.tasks import prepare
from rerank_eval.tasks.beir import BeirFolder
from rerank_eval.tasks.beir_files import folder_name
from tests.pipeline.folders import write_beir_folder
from tests.processes import Forked


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_beir_folder(tmp_path / "my data")


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def replace_line(number: int, text: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines[: number - 1], text, *lines[number:]]


def test_a_folder_becomes_a_task_with_its_own_metadata(folder: Path) -> None:
    task, other = BeirFolder(folder), BeirFolder(write_beir_folder(folder.parent / "other", queries=3))
    assert task.metadata.name == "my_data"
    assert other.metadata.name == "other"
    assert BeirFolder.metadata.name == "BeirFolder"
    prepare.load(task)
    [(subset, split, data)] = list(prepare.cells(task))
    assert (subset, split) == ("default", "test")
    assert (len(data["corpus"]), len(data["queries"]), len(data["relevant_docs"])) == (60, 12, 12)
    prepare.unload(task)
    assert task.metadata.name == "my_data"
    prepare.load(task)
    assert len(task.dataset["default"]["test"]["corpus"]) == 60


def test_the_revision_follows_the_bytes(folder: Path) -> None:
    before = BeirFolder(folder).metadata.dataset["revision"]
    assert BeirFolder(folder).metadata.dataset["revision"] == before
    edit(folder / "queries.jsonl", lambda lines: [lines[0].replace("which", "What"), *lines[1:]])
    assert BeirFolder(folder).metadata.dataset["revision"] != before


def test_a_line_that_moves_from_one_file_to_the_next_is_another_revision(folder: Path) -> None:
    before = BeirFolder(folder).metadata.dataset["revision"]
    *kept, last = (folder / "corpus.jsonl").read_text().splitlines(keepends=True)
    (folder / "corpus.jsonl").write_text("".join(kept))
    queries = folder / "queries.jsonl"
    queries.write_text(last + queries.read_text())
    assert BeirFolder(folder).metadata.dataset["revision"] != before


def test_what_other_tools_write_is_read(folder: Path) -> None:
    """BEIR's own loader, gzip, integer ids, no titles, TREC's four columns, windows line ends, extra keys."""
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    (folder / "corpus.jsonl").unlink()
    with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8") as handle:
        for number, row in enumerate(corpus):
            handle.write(json.dumps({"id": number, "text": row["text"], "metadata": {"url": "x"}}) + "\r\n")
    ids = {row["_id"]: str(number) for number, row in enumerate(corpus)}
    rows = [line.split("\t") for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    (folder / "qrels" / "test.tsv").unlink()
    (folder / "qrels" / "dev.tsv").write_text("".join(f"{q} 0 {ids[d]} {v}\n" for q, d, v in rows))
    task = BeirFolder(folder)
    prepare.load(task)
    [(_, split, data)] = list(prepare.cells(task))
    assert split == "dev"
    assert data["relevant_docs"]["q1"] == {ids["d1-1"]: 1}
    assert data["corpus"]["title"][0] == ""


def test_a_query_s_own_instruction_is_kept(folder: Path) -> None:
    edit(
        folder / "queries.jsonl",
        lambda lines: [json.dumps({**json.loads(line), "instruction": "only hand tools"}) for line in lines],
    )
    task = BeirFolder(folder)
    prepare.load(task)
    assert set(task.dataset["default"]["test"]["queries"]["instruction"]) == {"only hand tools"}


def test_mteb_evaluates_it(folder: Path) -> None:
    model = mteb.get_model("mteb/baseline-bm25s")
    result = mteb.evaluate(model, BeirFolder(folder), cache=None, co2_tracker=False, show_progress_bar=False)
    assert result.task_results[0].get_score() > 0.9


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("corpus.jsonl", replace_line(3, '{"_id": "x"'), r"corpus\.jsonl:3: not a JSON object"),
        ("corpus.jsonl", replace_line(3, "[1]"), r"corpus\.jsonl:3: not a JSON object"),
        ("corpus.jsonl", replace_line(3, "[" * 100_000), r"corpus\.jsonl:3: not a JSON object"),
        ("corpus.jsonl", replace_line(3, '{"text": "x"}'), r"corpus\.jsonl:3: has no `_id`"),
        ("corpus.jsonl", replace_line(3, '{"_id": "x"}'), r"corpus\.jsonl:3: 'x' has no `text`"),
        ("corpus.jsonl", replace_line(3, '{"_id": "x", "text": 5}'), r"corpus\.jsonl:3: `text` of 'x' is a int"),
        (
            "corpus.jsonl",
            replace_line(3, '{"_id": "x y", "text": "a"}'),
            r"corpus\.jsonl:3: the id 'x y' holds white space",
        ),
        ("corpus.jsonl", lambda lines: [*lines, lines[1]], r"corpus\.jsonl:61: the id 'd0-1' stands in line 2 already"),
        ("corpus.jsonl", lambda _: [], r"corpus\.jsonl: is empty"),
        ("queries.jsonl", lambda _: [], r"queries\.jsonl: is empty"),
        ("queries.jsonl", lambda lines: [*lines, lines[0]], r"queries\.jsonl:13: the id 'q0' stands in line 1"),
        (
            "qrels/test.tsv",
            lambda lines: [*lines, "q0\tnowhere\t1", "q1\tnowhere\t1"],
            r"test\.tsv:14: document 'nowhere' is not in corpus\.jsonl; so it is with 2 of 14 judgements",
        ),
        (
            "qrels/test.tsv",
            lambda lines: [*lines, "nobody\td0-0\t1", "q1\tnowhere\t1"],
            r"test\.tsv:14: query 'nobody' is not in queries\.jsonl; so it is with 2 of 14 judgements",
        ),
        (
            "qrels/test.tsv",
            lambda lines: [*lines, "q0\td0-0\t0.5"],
            r"test\.tsv:14: the score '0\.5' is not a whole number",
        ),
        (
            "qrels/test.tsv",
            lambda lines: [*lines, "q0\td0-0\tnan"],
            r"test\.tsv:14: the score 'nan' is not a whole number",
        ),
        (
            "qrels/test.tsv",
            lambda lines: [*lines, "q0\td0-0\tinf"],
            r"test\.tsv:14: the score 'inf' is not a whole number",
        ),
        ("qrels/test.tsv", lambda lines: [*lines, "q0\td0-0\tyes"], r"test\.tsv:14: the score 'yes' is not a number"),
        ("qrels/test.tsv", lambda lines: [*lines, "q0"], r"test\.tsv:14: 1 columns"),
        ("qrels/test.tsv", lambda lines: [*lines, "q0\td0-0\t3"], r"test\.tsv:14: .* judged twice, and differently"),
        (
            "qrels/test.tsv",
            lambda lines: [lines[0], *(line[:-1] + "0" for line in lines[1:])],
            r"no document as relevant",
        ),
    ],
)
def test_what_is_wrong_is_told_by_file_and_line(
    folder: Path, file: str, change: Callable[[list[str]], list[str]], words: str
) -> None:
    edit(folder / file, change)
    with pytest.raises(DataError, match=words) as caught:
        BeirFolder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"_id": "x", "text": "\xff"}', r":61: not UTF-8 text"),
        (b'{"_id": "x", "text": "a\x00"}', r":61: holds a NUL byte"),
    ],
)
def test_bytes_that_are_no_text_are_told(folder: Path, data: bytes, words: str) -> None:
    with (folder / "corpus.jsonl").open("ab") as handle:
        handle.write(data + b"\n")
    with pytest.raises(DataError, match=words):
        BeirFolder(folder)


def test_further_problems_are_counted(folder: Path) -> None:
    edit(folder / "corpus.jsonl", lambda lines: [*lines, "{", "{", "{"])
    with pytest.raises(DataError, match=r"corpus\.jsonl:61: .* \(and 2 more\)"):
        BeirFolder(folder)


def test_missing_files_and_open_questions(folder: Path) -> None:
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    (folder / "qrels" / "train.tsv").write_text("")
    with pytest.raises(DataError, match=r"holds dev, train and no test; choose one by --split"):
        BeirFolder(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(DataError, match=r"queries\.jsonl: no such file"):
        BeirFolder(folder)


def test_a_torn_gzip_file_is_told(folder: Path) -> None:
    data = gzip.compress((folder / "corpus.jsonl").read_bytes())
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="not a whole gzip file"):
        BeirFolder(folder)


def test_a_byte_order_mark_is_skipped(folder: Path) -> None:
    for name in ("corpus.jsonl", "qrels/test.tsv"):
        path = folder / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    task = BeirFolder(folder)
    prepare.load(task)
    assert len(task.dataset["default"]["test"]["relevant_docs"]) == 12


@pytest.mark.parametrize("grade", ["1e300", "99999999999", "-4000"])
def test_a_grade_beyond_all_bounds_is_refused(folder: Path, grade: str) -> None:
    edit(folder / "qrels" / "test.tsv", replace_line(3, f"q1\td1-1\t{grade}"))
    with pytest.raises(DataError, match=r"test\.tsv:3: .*no grade of relevance"):
        BeirFolder(folder)


def test_an_id_of_another_type_is_told_as_it_is(folder: Path) -> None:
    edit(folder / "corpus.jsonl", replace_line(2, json.dumps({"_id": 1.5, "text": "x"})))
    with pytest.raises(DataError, match=r"corpus\.jsonl:2: the `_id` 1.5 is a float, not text"):
        BeirFolder(folder)


def test_a_damaged_gzip_file_is_one_line(folder: Path) -> None:
    packed = bytearray(gzip.compress((folder / "corpus.jsonl").read_bytes()))
    packed[40:80] = bytes(40)
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"corpus\.jsonl\.gz"):
        BeirFolder(folder)


def test_folders_of_other_scripts_keep_apart(tmp_path: Path) -> None:
    names = {folder_name(tmp_path / name) for name in ("数据", "问题", "naïve", "my_data")}
    assert len(names) == 4
    assert folder_name(tmp_path / "my_data") == "my_data"
    assert all(name.isascii() and not name.startswith((".", "_")) for name in names)


def test_judgements_that_are_no_file_are_not_there(folder: Path) -> None:
    path = folder / "qrels" / "test.tsv"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"test\.tsv is not there"):
        BeirFolder(folder)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"test\.tsv is not there"):
        BeirFolder(folder)


def test_a_folder_that_is_altered_while_it_is_read_is_one_line(folder: Path) -> None:
    for name in ("corpus.jsonl", "queries.jsonl"):
        task = BeirFolder(folder)
        whole = (folder / name).read_text()
        (folder / name).write_text(whole[:-5])
        with pytest.raises(DataError, match=rf"{name}:\d+: not a JSON object.*; it was altered while it was read"):
            task.load_data()
        (folder / name).write_text(whole)


def load_and_wait(folder: Path, loaded: Path, told: Path) -> None:
    task = BeirFolder(folder)
    task.load_data()
    loaded.touch()
    while not told.exists():
        time.sleep(0.02)


def test_what_a_killed_process_left_of_a_corpus_is_removed_and_what_is_in_use_is_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RERANK_EVAL_CACHE", str(tmp_path / "cache"))
    loaded, told = [tmp_path / "first", tmp_path / "second"], tmp_path / "told"
    killed, alive = (Forked(load_and_wait, folder, one, told) for one in loaded)
    deadline = time.monotonic() + 60
    while not all(one.exists() for one in loaded) and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    before = set((tmp_path / "cache" / "corpora").glob("beir-*"))
    assert len(before) == 2
    task = BeirFolder(folder)
    task.load_data()
    now = set((tmp_path / "cache" / "corpora").glob("beir-*"))
    assert len(now) == 2
    assert len(now & before) == 1
    told.touch()
    alive.communicate()
    assert alive.returncode == 0
    task.unload_data()
    assert not list((tmp_path / "cache" / "corpora").glob("beir-*"))
