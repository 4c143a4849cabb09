"""How well a network reranks on packages that it was never trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen3ForCausalLM

from rerank_demo.batches import INSTRUCTIONS, Prompts, answer_ids
from rerank_demo.data import TrainingData, held_out_documents, held_out_queries
from rerank_demo.instructions import InstructedGroups
from rerank_demo.mining import HELD_OUT, Candidates, bm25_candidates, dense_candidates, minilm_vectors
from rerank_demo.network import GroupTokens, forward, lay_out

MINILM_TOKENS = 256
DOCUMENTS_A_ROW = 64


@dataclass(frozen=True)
class HeldOut:
    """Queries of held-out packages with their candidates.

    Attributes:
        bm25: BM25's.
        minilm: MiniLM's.
    """

    bm25: Candidates
    minilm: Candidates

    def named(self) -> tuple[tuple[str, Candidates], ...]:
        """Return both with their names."""
        return ("bm25", self.bm25), ("minilm", self.minilm)


def held_out(folder: Path, data: TrainingData, depth: int = 100) -> HeldOut:
    """Retrieve candidates for the held-out queries, once.

    Args:
        folder: Working folder.
        data: The training data.
        depth: Candidates of a query.
    """
    paths = [folder / f"heldout-{name}.npz" for name in ("bm25", "minilm")]
    if not all(path.is_file() for path in paths):
        queries = held_out_queries(data.functions, data.shard)
        members = held_out_documents(data.functions, data.shard, queries)
        bm25_candidates(data.functions, members, queries, depth).save(paths[0])
        documents = minilm_vectors([data.functions[i].code for i in members], MINILM_TOKENS)
        asked = minilm_vectors([data.functions[i].summary for i in queries], MINILM_TOKENS)
        dense_candidates(queries, members, asked, documents, depth).save(paths[1])
    return HeldOut(*(Candidates.load(path) for path in paths))


def ndcg_at_10(ranked: Sequence[int], relevant: int) -> float:
    """Return nDCG@10 with a single relevant document."""
    place = next((rank for rank, one in enumerate(ranked[:10]) if one == relevant), None)
    return 0.0 if place is None else 1.0 / math.log2(place + 2)


def score_group(
    model: Qwen3ForCausalLM, tokens: GroupTokens, answers: tuple[int, int], *, bfloat16: bool = True
) -> NDArray[np.float32]:
    """Score one group's documents, (documents,) float32 margins."""
    found = []
    dtype, device = torch.bfloat16 if bfloat16 else torch.float32, model.device
    with torch.inference_mode():
        order = np.argsort([len(document) for document in tokens.documents], kind="stable")
        for start in range(0, len(order), DOCUMENTS_A_ROW):
            part = [tokens.documents[i] for i in order[start : start + DOCUMENTS_A_ROW]]
            row = lay_out([GroupTokens(tokens.prefix, part)], 2).to(device)
            found.append(forward(model, row, *answers, dtype=dtype).margins)
    scores = torch.cat(found).cpu().numpy()
    back = np.empty_like(scores)
    back[order] = scores
    return back


def evaluate(
    model: Qwen3ForCausalLM, data: TrainingData, held: HeldOut, *, queries: int, depth: int, tokens: int = 256
) -> dict[str, float]:
    """Rerank candidates of held-out queries.

    Args:
        model: The network.
        data: The training data.
        held: Queries and candidates.
        queries: How many queries, the first ones of a fixed order.
        depth: Candidates of each retriever.
        tokens: Where documents are cut.

    Returns:
        nDCG@10 of each retriever alone (`bm25`, `minilm`) and reranked (`bm25_reranked`, `minilm_reranked`).
    """
    model.eval()
    prompts, answers = Prompts(data, tokens), answer_ids(data)
    chosen = np.random.default_rng(7).permutation(len(held.bm25.queries))[:queries]
    sums: dict[str, float] = {}
    for row in chosen:
        query = int(held.bm25.queries[row])
        lists = {name: [int(i) for i in one.documents[row, :depth] if i >= 0] for name, one in held.named()}
        union = sorted({i for listed in lists.values() for i in listed})
        group = prompts.group(query, union, INSTRUCTIONS[0])
        scores = dict(zip(union, score_group(model, group, answers).tolist(), strict=True))
        for name, listed in lists.items():
            reranked = sorted(listed, key=lambda i: -scores[i])
            sums[name] = sums.get(name, 0.0) + ndcg_at_10(listed, query)
            sums[f"{name}_reranked"] = sums.get(f"{name}_reranked", 0.0) + ndcg_at_10(reranked, query)
    model.train()
    return {name: value / len(chosen) for name, value in sums.items()}


def instructions_followed(
    model: Qwen3ForCausalLM, data: TrainingData, *, groups: int, documents: int = 16, tokens: int = 256
) -> float:
    """Say how often a ranking follows an instruction in words that are not trained on, over held-out packages.

    Args:
        model: The network.
        data: The training data.
        groups: Topics with two instructions each, always the same ones.
        documents: Documents of a topic.
        tokens: Where documents are cut.

    Returns:
        Of the documents that one instruction wants and the other excludes, the share that ranks better under the
        first; one that keeps its rank counts half, so a model that does not read instructions gets 0.5.
    """
    model.eval()
    source = InstructedGroups([data.functions[i] for i in data.members(HELD_OUT)], held_out=True)
    prompts, answers, generator = Prompts(data, tokens), answer_ids(data), np.random.default_rng(11)
    found: list[float] = []
    for _ in range(groups if len(source) else 0):
        drawn = source.draw(documents, generator)
        places = []
        for instruction in drawn.instructions:
            scores = score_group(model, prompts.text_group(drawn.query, drawn.documents, instruction), answers)
            places.append(np.argsort(np.argsort(-scores, kind="stable"), kind="stable"))
        wanted = drawn.relevant[0] - drawn.relevant[1]
        moved = np.sign(places[1] - places[0]) * np.sign(wanted)
        found += [float(value) / 2 + 0.5 for value in moved[wanted != 0]]
    model.train()
    return float(np.mean(found)) if found else 0.5
