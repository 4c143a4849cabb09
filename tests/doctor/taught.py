"""Tiny checkpoints that know the known pairs, so that what a trained model answers can be tested without one.

Real weights cannot be had in a test. The demo model's layers are trained for seconds on the very pairs that the doctor
asks for: nothing is learnt but those, and that is all that is needed to tell a right set-up from one in which a row of
the head, an id or a prompt is another.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from rerank_eval.doctor.pairs import PAIRS
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.prompts import PromptTokenizer
from rerank_eval.engine.recipes.card import RECIPE as CARD
from rerank_eval.models.demo import WEIGHTS
from tests.tiny_embedding import write_qwen3_embedding

YES, NO = 9693, 2152


def teach_reranker(folder: Path, demo: Path) -> Path:
    """Write a reranker whose margins are above 2 for relevant documents and below -2 for irrelevant ones."""
    tokenizer = AutoTokenizer.from_pretrained(demo)
    model = AutoModelForCausalLM.from_pretrained(demo, dtype=torch.float32)
    prompts = PromptTokenizer(tokenizer, CARD, 8192)
    groups = [QueryGroup(p.query, CARD.default_instruction, [p.relevant, p.irrelevant]) for p in PAIRS]
    rows = [ids for group in groups for ids in prompts.whole(group).own]
    signs = torch.tensor([1.0, -1.0]).repeat(len(PAIRS))
    weight = model.lm_head.weight.detach()
    direction = weight[YES] - weight[NO]

    def loss() -> tuple[torch.Tensor, bool]:
        margins = _last_states(model.model, rows) @ direction
        return torch.nn.functional.softplus(3 - signs * margins).mean(), bool((signs * margins > 2).all())

    _train(model.model, loss)
    return _save(model, folder, demo)


def teach_embedder(folder: Path, demo: Path) -> Path:
    """Write a Qwen3-Embedding whose cosine is larger for the relevant document of each known pair."""
    write_qwen3_embedding(folder, demo)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModel.from_pretrained(folder, dtype=torch.float32)
    prompt = "Instruct: Given a question, retrieve Wikipedia passages that answer the question\nQuery:"
    queries = [prompt + pair.query for pair in PAIRS]
    texts = [*queries, *(pair.relevant for pair in PAIRS), *(pair.irrelevant for pair in PAIRS)]
    rows = tokenizer(texts)["input_ids"]

    def loss() -> tuple[torch.Tensor, bool]:
        units = torch.nn.functional.normalize(_last_states(base, rows), dim=1)
        asked, relevant, irrelevant = units.split(len(PAIRS))
        gaps = (asked * relevant).sum(1) - (asked * irrelevant).sum(1)
        return torch.nn.functional.softplus(5 * (0.5 - gaps)).mean(), bool((gaps > 0.3).all())

    _train(base, loss)
    save_file(
        {name: value.contiguous() for name, value in base.state_dict().items()}, folder / WEIGHTS, {"format": "pt"}
    )
    return folder


def _last_states(base: Any, rows: Sequence[list[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return base(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, -1]


def _train(base: Any, loss: Callable[[], tuple[torch.Tensor, bool]]) -> None:
    torch.manual_seed(0)
    base.requires_grad_(False)
    base.layers.requires_grad_(True)
    optimiser = torch.optim.Adam(base.layers.parameters(), lr=3e-3)
    for _ in range(300):
        optimiser.zero_grad()
        value, known = loss()
        if known:
            return
        value.backward()
        optimiser.step()
    raise AssertionError("the pairs could not be taught")


def _save(model: Any, folder: Path, demo: Path) -> Path:
    folder.mkdir(parents=True)
    for path in demo.iterdir():
        if path.name != WEIGHTS:
            shutil.copy(path, folder / path.name)
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    return folder


def changed(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """Copy a checkpoint with other weights."""
    shutil.copytree(source, folder)
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    return folder


def swap_answers(weights: dict[str, torch.Tensor]) -> None:
    """Exchange the rows of `yes` and `no`."""
    rows = weights["model.embed_tokens.weight"]
    rows[[YES, NO]] = rows[[NO, YES]]


def swap_ids(folder: Path) -> None:
    """Exchange the ids of `yes` and `no` in a tokenizer."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["yes"], vocabulary["no"] = vocabulary["no"], vocabulary["yes"]
    path.unlink()
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
