"""Whole runs over large data: memory per pair and per document stays small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerank_bench.large import many_documents, many_pairs, many_scores
from rerank_bench.results_table import crash_table, fuzz_table, large_table

LIMIT_MB = 4096


def test_scores_are_all_found_again(tmp_path: Path) -> None:
    found = many_scores(tmp_path, 50_000)
    assert found["scores"] == 50_000
    assert "50,000 scores" in large_table({"scores": found})


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_subset_of_many_pairs_fits(tmp_path: Path) -> None:
    """What a tenth of ten million takes above an empty run, tenfold, stays under the limit."""
    small, large = (many_pairs(_made(tmp_path / str(pairs)), pairs) for pairs in (10_000, 400_000))
    for stage in ("retrieve", "rerank"):
        base, peak = small[stage]["peak_mb"], large[stage]["peak_mb"]
        assert base + (peak - base) * 10_000_000 / 390_000 < LIMIT_MB, (stage, base, peak)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_large_corpus_fits(tmp_path: Path) -> None:
    small, large = (many_documents(_made(tmp_path / str(count)), count) for count in (10_000, 400_000))
    base, peak = small["retrieve_and_rerank"]["peak_mb"], large["retrieve_and_rerank"]["peak_mb"]
    assert base + (peak - base) * 10_000_000 / 390_000 < LIMIT_MB, (base, peak)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_crash_table_says_what_was_killed() -> None:
    table = crash_table(
        {
            "kills": 50,
            "runs_finished_and_identical": 9,
            "stages": {"reranking": 30, "retrieving": 20},
            "pairs_of_a_run": 2866,
            "block_pairs": 64,
            "most_pairs_lost_by_a_kill": 80,
            "pairs_scored_twice_though_stored": 0,
        }
    )
    assert "| 50 (30 while reranking, 20 while retrieving) | 9 | 2,866 | 80 (blocks of 64) | 0 |" in table


def test_the_fuzzers_table_is_that_of_the_files() -> None:
    root = Path(__file__).parents[2]
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((root / "results/fuzz").glob("*.json"))]
    table = fuzz_table(files)
    assert f"<!-- fuzz:begin -->\n\n{table}\n<!-- fuzz:end -->" in (root / "docs/hostile-input.md").read_text("utf-8")
    assert f"| all | {sum(one['runs'] for one in files):,} |" in table
    assert all(one["finished"] and not one["violations"] for one in files)
