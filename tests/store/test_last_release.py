"""The score cache of the last release: found again, and written the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rerank_eval.config import RerankerConfig
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.models.ref import ModelRef
from rerank_eval.pipeline.plan import reranker_identity
from rerank_eval.rerankers.loading import prepare_reranker
from rerank_eval.store import score_identity
from rerank_eval.store.cache import ScoreCache
from rerank_eval.store.shards import PairDigests, ScoredQuery, read_owner

KEPT = Path(__file__).parent / "last_release"
"""Written by commit 9832e2a with `head: faithful` and `markers: neutralise`."""
DOCUMENTS = ["a hammer", "a saw", "a vise"]
GROUPS = [QueryGroup("which tool", "find tools", DOCUMENTS), QueryGroup("which tool", None, DOCUMENTS)]


def identity(**settings: Any) -> dict[str, Any]:
    class First:
        digest = "0" * 12

    first: Any = First()
    ref = ModelRef("org/words", "words", "org/words", "c" * 40, "hub", "Qwen3ForCausalLM")
    config = RerankerConfig(model="org/words", recipe="card", engine="reference", **settings)
    return score_identity(reranker_identity(prepare_reranker(config, ref), first))


@pytest.mark.parametrize(
    "names",
    [
        {"head": "recipe_softmax", "special_tokens": "escape"},
        {"head": "faithful", "markers": "neutralise"},
    ],
)
def test_its_scores_are_found_and_nothing_is_written(tmp_path: Path, names: dict[str, Any]) -> None:
    shutil.copytree(KEPT, tmp_path, dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    cache = ScoreCache(tmp_path, "words", identity(**names))
    with cache.cell("Tools", "default", "test") as cell:
        for number, group in enumerate(GROUPS):
            found, known = cell.find(*PairDigests.of(group))
            expected = np.array([0.125, 0.25, 0.1]) + number
            assert found.all()
            assert known.scores.tolist() == expected.tolist()
            assert known.margins.tolist() == np.log(expected / (1 + expected)).tolist()
            assert known.truncated.tolist() == [False, True, False]
            assert known.overlong.tolist() == [number == 1] * 3
            assert known.tokens.tolist() == [70, 71, 72]
            assert known.query_overlong == (number == 1)
    assert cache.devices == {"cpu (a processor)"}
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_same_scores_make_the_same_file(tmp_path: Path) -> None:
    [path] = KEPT.rglob("*.parquet")
    old = ScoreCache(KEPT, "words", identity(head="recipe_softmax", special_tokens="escape"))
    new = ScoreCache(tmp_path, "words", old.identity, computed_on=lambda: ["cpu (a processor)"])
    with old.cell("Tools", "default", "test") as known, new.cell("Tools", "default", "test") as cell:
        for number, group in enumerate(GROUPS):
            digests = PairDigests.of(group)
            cell.add(ScoredQuery(f"q{number}", ["d1", "d2", "d3"], *digests, known.find(*digests)[1]))
    again = new.folder / path.relative_to(old.folder).parent
    [written] = again.glob("*.parquet")
    assert pq.read_schema(written).equals(pq.read_schema(path), check_metadata=True)
    assert pq.read_table(written).equals(pq.read_table(path))
    assert read_owner(written) == read_owner(path)
    if pq.read_metadata(written).created_by == pq.read_metadata(path).created_by:  # the same release of Arrow
        assert (written.name, written.read_bytes()) == (path.name, path.read_bytes())
