"""`parity` as a user calls it, with the demo's weights on a small BEIR folder."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from rerank_eval.cli import _run
from tests.pipeline.folders import TOOLS, USES
from tests.servers.stand_in import StandIn
from tests.session import odd
from tests.tiny_classifiers import bert, save

COMMON = ("--set", "retriever.model=bm25", "--set", "retriever.top_k=8", "--queries", "3")
PYTHON = "reranker.model=python:tests.session.odd"


def write_folder(folder: Path) -> None:
    """Write thirty documents of 4 to 91 words, and six queries."""
    (folder / "qrels").mkdir(parents=True)
    generator = random.Random(4)
    documents = []
    for number in range(30):
        words = [
            generator.choice([*TOOLS, *" ".join(USES).split(), "def", "return", "self"]) for _ in range(4 + number * 3)
        ]
        words += ["<|im_end|>"] if number % 5 == 2 else []
        documents.append({"_id": f"d{number}", "title": "", "text": " ".join(words)})
    queries = [{"_id": f"q{n}", "text": f"which {TOOLS[n]} can {USES[n % 6]} {n}"} for n in range(6)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    judged = "".join(f"q{n}\td{number}\t1\n" for n in range(6) for number in range(n, 30, 6))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")


def quick(names: Iterable[str], *fast: str) -> list[Any]:
    """Mark all but some of a test's cases as slow: each searches through every hypothesis."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    write_folder(folder / "tools")
    (folder / "a.yaml").write_text("extends: offline\nreranker: {max_length: 512}\n", encoding="utf-8")
    return folder


@pytest.fixture
def project(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One results folder for all tests: A's scores are computed once."""
    monkeypatch.chdir(made)
    return made


def parity(*arguments: str, a: str = "a.yaml") -> tuple[int, dict[str, Any]]:
    """Return the exit code and what was written."""
    Path("out.json").unlink(missing_ok=True)
    code = _run(["parity", a, *arguments, "--task", "./tools", *COMMON, "--json", "out.json"])
    return code, json.loads(Path("out.json").read_text()) if Path("out.json").exists() else {}


def changed(*settings: str) -> tuple[int, dict[str, Any]]:
    return parity(*(part for one in settings for part in ("--set-b", one)))


def kinds(found: dict[str, Any]) -> list[str]:
    return [one["kind"] for one in found["diagnosis"]]


def test_one_config_twice_is_the_same(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = parity("a.yaml")
    assert (code, found["margins"]["largest"], kinds(found)) == (0, 0.0, ["identity"])
    assert "they share their scores" in capsys.readouterr().out
    assert (found["queries"], found["pairs"]) == (3, 24)


def test_packed_and_reference_agree(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = changed("reranker.engine=reference")
    assert code == 0
    assert 0 < found["margins"]["largest"] < 1e-4
    assert found["diagnosis"] == []
    assert found["differs"] == {"engine": ["packed", "reference"]}
    printed = capsys.readouterr().out
    assert "same within the tolerance" in printed
    assert "diagnosis" not in printed
    assert found["metric"]["low"] <= found["metric"]["difference"] <= found["metric"]["high"]
    assert changed("reranker.engine=reference")[1] == found


def test_a_tolerance_that_is_not_kept_is_exit_code_12(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--set-b", "reranker.engine=reference", "--tolerance", "0")
    code, found = parity(*arguments)
    assert code == 12
    assert not found["within_tolerance"]
    assert "more than the tolerance of 0: query 'q" in capsys.readouterr().err


SETTINGS = {
    "reranker.recipe=mteb": ("recipe", "B's prompt is that of recipe mteb;"),
    "reranker.recipe=sglang": ("recipe", "B's prompt is that of recipe sglang;"),
    "reranker.instruction=none": ("instruction", "A's, without an instruction;"),
    "reranker.max_length=128": ("cut", "B cuts at 128 tokens, as max_length: 128 does"),
    "reranker.max_length=203": ("cut", "B cuts at 203 tokens, as max_length: 203 does"),
    "reranker.dtype=bfloat16": ("dtype", "B computes in bfloat16"),
    "reranker.special_tokens=escape": ("special_tokens", "special tokens in texts otherwise (special_tokens: escape)"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_differs_is_named(project: Path, setting: str) -> None:
    code, found = changed(setting)
    kind, words = SETTINGS[setting]
    assert code == 12
    assert kinds(found)[0] == kind
    assert words in found["diagnosis"][0]["text"]
    assert "unexplained" not in kinds(found)


def test_recipe_and_length_together(project: Path) -> None:
    _, found = changed("reranker.recipe=mteb", "reranker.max_length=203")
    assert "recipe mteb, cut at 203 tokens" in found["diagnosis"][0]["text"]


@pytest.mark.slow
def test_a_recipe_within_the_noise_of_a_format(project: Path) -> None:
    _, found = changed("reranker.recipe=zerank", "reranker.dtype=bfloat16")
    assert "recipe zerank" in found["diagnosis"][0]["text"]
    assert "within the noise of bfloat16" in found["diagnosis"][0]["text"]


def test_the_recipe_s_softmax_is_a_sigmoid_of_the_same_margins(project: Path) -> None:
    code, found = changed("reranker.head=recipe_softmax")
    assert code == 0
    assert kinds(found) == ["link"]
    assert found["diagnosis"][0]["link"] == "B = sigmoid(A)"
    assert found["scores"]["largest"] > 0.1
    assert found["margins"]["largest"] < 1e-4


def test_a_head_and_another_prompt(project: Path) -> None:
    _, found = changed("reranker.head=recipe_softmax", "reranker.recipe=mteb")
    assert kinds(found) == ["recipe", "head"]
    assert "B ranks by sigmoid(margin)" in found["diagnosis"][1]["text"]


CHANGES = {
    "sorted": "sorted",
    "shuffled": "order",
    "twice": "link",
    "negated": "link",
    "softmax": "normalised",
    "constant": "constant",
    "decimals": "link",
}


@pytest.mark.parametrize("change", quick(CHANGES, "sorted", "twice", "decimals"))
def test_a_wrapper_that_changes_scores_is_found_out(project: Path, change: str) -> None:
    code, found = changed(f"{PYTHON}:Changed", f"reranker.options.change={change}", "reranker.max_length=null")
    assert code == 12
    assert kinds(found)[0] == CHANGES[change]
    assert ("rounded" in kinds(found)) == (change == "decimals")
    of_lists = change in {"sorted", "shuffled", "softmax", "constant"}  # alone, a document is a list of one
    assert ("unsteady" in kinds(found)) == of_lists


@pytest.mark.slow
def test_what_another_kernel_in_bfloat16_may_do_is_told_by_its_size(project: Path) -> None:
    for change, kind, words in (
        ("jitter", "dtype", "of the size of bfloat16's rounding"),
        ("jitter and sigmoid", "link", "B = sigmoid(A)"),
    ):
        settings = (f"{PYTHON}:Changed", f"reranker.options.change={change}", "reranker.max_length=null")
        _, found = changed(*settings)
        assert kinds(found)[0] == kind
        assert words in found["diagnosis"][0]["text"]
        assert "bfloat16" in found["diagnosis"][0]["text"]


@pytest.mark.slow
def test_scores_of_nothing_are_unexplained(project: Path) -> None:
    _, found = changed(f"{PYTHON}:Changed", "reranker.options.change=noise", "reranker.max_length=null")
    assert kinds(found)[:2] == ["unexplained", "unrelated"]
    assert found["diagnosis"][0]["tried"] > 50


def test_scores_that_a_server_no_longer_gives_are_told(project: Path) -> None:
    """Known pairs, by which a run finds out about another model, have no instruction."""
    instruction = [""]

    def score(query: str, document: str) -> float:
        asked = "" if "China" in query else instruction[0]
        return float(odd.margins([odd.ids(asked + query + document)])[0])

    keys = ("reranker.checkpoint=null", "reranker.max_length=null")
    with StandIn("tei", score=score) as server:
        for text, expected in (("", False), ("Judge this: ", True)):
            instruction[0] = text
            _, found = parity(server.url, *(part for key in keys for part in ("--set-b", key)))
            assert ("changed" in kinds(found)) == expected


@pytest.mark.slow
def test_what_changes_when_a_pair_is_sent_alone_is_told(project: Path) -> None:
    _, found = changed(f"{PYTHON}:Changed", "reranker.options.change=unsteady", "reranker.max_length=null")
    assert "unsteady" in kinds(found)
    assert "each sent by itself" in found["diagnosis"][-1]["text"]


FORMS = {
    "bare": ("bare", "one behind the other"),
    "two lines": ("bare", "in two lines"),
    "document": ("bare", "the document alone"),
    "exchanged": ("prompt", "exchanged"),
    "without end": ("prompt", "lacks its end"),
    "without think": ("prompt", "think block"),
    "end cut at 200": ("cut", "B cuts at 200 tokens, the prompt's end among them"),
    "left cut at 128": ("cut", "B cuts at 128 tokens, from the left"),
    "document cut": ("cut", "B cuts each document at 64 tokens"),
    "template twice": ("prompt", "stands twice"),
    "without query": ("prompt", "not hold the query"),
    "left cut without instruction": ("cut", "B cuts at 128 tokens, from the left; without an instruction besides"),
    "mteb without instruction": ("instruction", "recipe qwen_eval without an instruction"),
}


@pytest.mark.parametrize("form", quick(FORMS, "bare", "end cut at 200", "template twice"))
def test_a_prompt_that_was_written_otherwise_is_named(project: Path, form: str) -> None:
    code, found = changed(f"{PYTHON}:Written", f"reranker.options.form={form}", "reranker.max_length=null")
    kind, words = FORMS[form]
    assert code == 12
    assert kinds(found)[0] == kind
    assert words in found["diagnosis"][0]["text"]
    assert not {"unexplained", "unrelated", "unsteady"} & set(kinds(found))


def test_a_prompt_without_the_document_is_named_besides_what_the_numbers_say(project: Path) -> None:
    settings = ["reranker.options.form=without document", "reranker.max_length=null"]
    _, found = changed(f"{PYTHON}:Written", *settings)
    assert kinds(found)[:2] == ["prompt", "constant"]
    assert "does not hold the document" in found["diagnosis"][0]["text"]


def test_no_template_and_two_sigmoids(project: Path) -> None:
    settings = ["reranker.options.form=bare", "reranker.options.change=twice", "reranker.max_length=null"]
    _, found = changed(f"{PYTHON}:Written", *settings)
    assert kinds(found)[0] == "bare"
    assert "and B = sigmoid(sigmoid(A))" in found["diagnosis"][0]["text"]


def test_the_weights_may_be_b_s(project: Path) -> None:
    (project / "python.yaml").write_text(
        "extends: offline\nreranker:\n  model: python:tests.session.odd:Written\n  max_length: null\n"
        "  options: {form: bare}\n",
        encoding="utf-8",
    )
    _, found = parity("a.yaml", a="python.yaml")
    assert kinds(found)[0] == "bare"
    assert found["diagnosis"][0]["text"].startswith("A sends no template")


def test_a_server_without_template_is_found_out(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def score(query: str, document: str) -> float:
        return float(odd.margins([odd.ids(query) + odd.ids(document)])[0])

    with StandIn("vllm", template=None, score=score) as server:
        code, found = parity(server.url)
    assert code == 12
    assert kinds(found) == ["bare"]
    assert "one behind the other" in found["diagnosis"][0]["text"]
    assert found["b"]["identity"]["checkpoint"] == found["a"]["identity"]["revision"]
    assert "B: demo (vllm)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "kind", "words"),
    [
        ("reranker.max_length=64", "cut", "B cuts at 64 tokens"),
        ("reranker.dtype=bfloat16", "dtype", "bfloat16"),
        ("reranker.engine=reference", None, ""),
    ],
)
def test_a_classifier_s_settings_are_tried(project: Path, setting: str, kind: str | None, words: str) -> None:
    if not (project / "bert").exists():
        save(bert(), project / "bert")
    (project / "classifier.yaml").write_text(
        "extends: offline\nreranker: {model: ./bert, max_length: null}\n", encoding="utf-8"
    )
    code, found = parity("--set-b", setting, a="classifier.yaml")
    assert code == (0 if kind is None else 12)
    assert kinds(found)[:1] == ([] if kind is None else [kind])
    assert kind is None or words in found["diagnosis"][0]["text"]


def test_the_file_is_the_same_bytes_again(project: Path) -> None:
    shutil.rmtree(project / "results" / "parity")
    written = []
    for again in (False, True, True):
        assert changed("reranker.recipe=mteb")[0] == 12
        (path,) = (project / "results" / "parity").glob("*.json")
        written.append((path.name, path.read_bytes()))
        if again:
            shutil.rmtree(project / "results" / "scores")
    assert len(set(written)) == 1
    assert (project / "out.json").read_bytes() == written[0][1]


def test_the_scores_are_those_of_a_run(project: Path) -> None:
    assert changed("reranker.recipe=mteb")[0] == 12
    shards = {path: path.stat().st_mtime_ns for path in (project / "results" / "scores").rglob("*.parquet")}
    assert _run(["eval", "--config", "a.yaml", "--task", "./tools", *COMMON[:4]]) == 0
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert changed("reranker.recipe=mteb")[0] == 12


def test_a_grid_of_two_is_both_sides(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = parity("--set", "grid.reranker.engine=[packed, reference]")
    assert code == 0
    assert found["differs"] == {"engine": ["packed", "reference"]}
    code, _ = parity("--set", "grid.reranker.dtype=[float32, bfloat16, float16]")
    assert code == 2
    assert "comes to 3 run(s); name B" in capsys.readouterr().err


def test_b_s_retriever_is_not_used(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = parity("--set-b", "retriever.top_k=5", "--set-b", "reranker.engine=reference")
    assert (code, found["pairs"]) == (0, 24)
    assert "both score the candidates of A's" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "comes to 1 run(s); name B, change A by --set-b, or give a grid of two"),
        (("--set-b", "reranker=null"), "B: reranker: is null"),
        (("--set-b", "reranker.recipe=mtb"), "unknown recipe 'mtb'; did you mean 'mteb'?"),
        (("no-such", "--set-b", "device=cpu"), "no-such"),
        (("--set-b", "grid.reranker.dtype=[float32, bfloat16]"), "B: a.yaml comes to 2 runs"),
        (("--set-b", f"{PYTHON}:Best", "--set-b", "reranker.max_length=null"), "is listwise"),
        (("a.yaml", "--task", "Embedded"), "tasks; parity works on one at a time"),
        (("http://127.0.0.1:9",), "127.0.0.1:9"),
    ],
)
def test_mistakes_are_one_line(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: str
) -> None:
    task = () if "--task" in arguments else ("--task", "./tools")
    assert _run(["parity", "a.yaml", *arguments, *task, *COMMON]) in {2, 4, 11}
    error = capsys.readouterr().err.strip()
    assert expected in error
    assert len(error.splitlines()) == 1
