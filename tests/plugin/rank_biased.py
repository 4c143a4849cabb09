"""Rank-biased precision (Moffat and Zobel 2008): `rbp`, or `rbp_90` for a persistence of 0.90."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class RBP:
    name: str
    title: str
    persistence: float

    def compute(self, scores: pd.DataFrame, qrels: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
        found = {}
        for query, own in scores.groupby("query_id"):
            ranked = own.sort_values(["score", "doc_id"], ascending=False)["doc_id"]
            relevant = [qrels[str(query)].get(document, 0) > 0 for document in ranked]
            found[str(query)] = (1 - self.persistence) * sum(
                self.persistence**place for place, one in enumerate(relevant) if one
            )
        return found


def rbp(percent: str) -> RBP | None:
    if not percent:
        return RBP("rbp", "RBP", 0.8)
    return RBP(f"rbp_{percent}", f"RBP({percent}%)", int(percent) / 100) if percent.isdecimal() else None
