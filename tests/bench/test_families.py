"""The families' benchmark: its table is made from its file, its figures by hand, its processes for real."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rerank_bench.families import TOLERANCE, Worker, _xlm_roberta, figures, texts, to_markdown
from rerank_bench.table import put

ROOT = Path(__file__).parents[2]


def test_the_table_of_the_documentation_is_made_from_the_file(tmp_path: Path) -> None:
    document = json.loads((ROOT / "results" / "bench" / "families.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
    copy = tmp_path / "engine.md"
    copy.write_text(text, encoding="utf-8")
    put(copy, to_markdown(document), "families")
    assert copy.read_text(encoding="utf-8") == text
    assert [row["kind"] for row in document["rows"]] == ["Qwen2 decoder", "XLM-R encoder"]
    assert all(row["largest_difference"] <= TOLERANCE < row["scores_range"] for row in document["rows"])
    assert document["machine"]["load"][0] > 0
    document["rows"][0]["ours_pairs_per_second"] += 1
    put(copy, to_markdown(document), "families")
    assert copy.read_text(encoding="utf-8") != text


def test_turns_are_paired_and_the_ratio_is_that_of_the_medians() -> None:
    scores = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    ours = [{"seconds": s, "scores": one} for s, one in zip((1.0, 2.0, 4.0), scores, strict=True)]
    theirs = [{"seconds": s, "scores": one} for s, one in zip((3.0, 10.0, 8.0), scores, strict=True)]
    theirs[1] = {"seconds": 10.0, "scores": [3.0, 4.5]}
    assert figures(ours, theirs) == {
        "pairs": 2,
        "ours_pairs_per_second": 1.0,
        "theirs_pairs_per_second": 0.25,
        "times_as_long_as_ours": 4.0,
        "times_as_long_range": [2.0, 5.0],
        "largest_difference": 0.5,
        "scores_range": 5.0,
    }


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families") / "encoder"
    folder.mkdir()
    _xlm_roberta(folder)
    return folder


def test_texts_have_the_lengths_that_are_told_and_are_the_same_at_each_call(encoder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder)
    groups = texts(encoder, 3, 20)
    assert groups == texts(encoder, 3, 20)
    assert len({query for query, _ in groups}) == 3
    lengths = [len(tokenizer.tokenize(document)) for _, documents in groups for document in documents]
    assert len(lengths) == 60
    assert 90 <= min(lengths) < 130  # a blank at either end is taken off
    assert 170 < max(lengths) <= 200


def test_a_scorer_answers_from_a_process_of_its_own_and_says_why_it_ended(encoder: Path, tmp_path: Path) -> None:
    question = {
        "peer": "ours",
        "folder": str(encoder),
        "recipe": "",
        "threads": 1,
        "max_length": 512,
        "groups": texts(encoder, 2, 3),
    }
    with Worker(sys.executable, question, tmp_path) as worker:
        assert worker.facts == {"version": "rerank-eval", "threads": 1}
        both = worker.turn(0, 2)
        assert both["seconds"] > 0
        assert both["scores"] == worker.turn(0, 1)["scores"] + worker.turn(1, 1)["scores"]
        assert len(set(both["scores"])) == 6
    with pytest.raises(SystemExit, match=r"a scorer ended:[\s\S]*KeyError: 'nobody'"):
        Worker(sys.executable, question | {"peer": "nobody"}, tmp_path)
