"""Which rows of parity.json stay."""

from __future__ import annotations

from rerank_bench.parity import merged, table
from rerank_bench.parity_families import FAMILIES


def row(family: str, peer: str, largest: float) -> dict[str, object]:
    numbers = {"pairs": 9, "ids_equal": 9, "spread": 3.0, "packed": largest, "reference": largest, "largest": largest}
    return {"family": family, "recipe": "card", "peer": peer, **numbers}


def test_rows_of_peers_that_are_not_asked_stay():
    first, second = FAMILIES[0].name, FAMILIES[2].name
    old = [
        row(first, "sentence-transformers 6.1", 1e-5),
        row(second, "mxbai-rerank 0.1", 2e-5),
        row("gone", "x 1", 0.1),
    ]
    new = [row(second, "vLLM 0.32.0", 3e-5), row(first, "sentence-transformers 6.2", 4e-5)]
    found = merged(new, old)
    assert [one["peer"] for one in found] == ["sentence-transformers 6.2", "vLLM 0.32.0", "mxbai-rerank 0.1"]
    assert [one["largest"] for one in found] == [4e-5, 3e-5, 2e-5]
    assert len(table(found).splitlines()) == 2 + 3


def test_every_vllm_family_says_what_its_config_is_to_be():
    asked = [family for family in FAMILIES if "vLLM" in family.peers]
    assert asked
    assert all(family.vllm is not None and family.peers == ("vLLM",) and not family.here for family in asked)
    assert all(family.vllm is None for family in FAMILIES if family not in asked)
