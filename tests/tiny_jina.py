"""A tiny jina-reranker-v3 in the published layout, and its authors' `rerank()` written out for it.

Weights are random. The published layout: Qwen3's weights under `model.`, the projector's two matrices, no language
head, both marks in the tokenizer, and Python code that must not be run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from rerank_eval.models.demo import SHIPPED

MARKS = {"query": "<|rerank_token|>", "document": "<|embed_token|>"}
HIDDEN, SIZE = 32, 24


def write_jina_v3(folder: Path, *, model_max_length: int = 131_072, **config: Any) -> Path:
    """Write the checkpoint."""
    words = AutoTokenizer.from_pretrained(SHIPPED)
    words.add_special_tokens({"additional_special_tokens": list(MARKS.values())})
    words.model_max_length = model_max_length
    words.save_pretrained(folder)
    shape = Qwen3Config(
        vocab_size=len(words) + 8,
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=131_072,
        tie_word_embeddings=True,
    )
    torch.manual_seed(5)
    model = Qwen3ForCausalLM(shape)
    generator = torch.Generator().manual_seed(6)
    state = {
        name: torch.randn(tensor.shape, generator=generator) * 0.2 + (1.0 if "norm" in name else 0.0)
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    state["projector.0.weight"] = torch.randn(HIDDEN // 2, HIDDEN, generator=generator)
    state["projector.2.weight"] = torch.randn(SIZE, HIDDEN // 2, generator=generator)
    save_file(state, folder / "model.safetensors")
    published = {"architectures": ["JinaForRanking"], "auto_map": {"AutoModel": "modeling.JinaForRanking"}}
    content = json.loads(shape.to_json_string()) | {"model_type": "qwen3"} | published | config
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "modeling.py").write_text("raise AssertionError('foreign code was run')\n")
    return folder


class PlainJinaV3:
    """The authors' code as plainly as it goes, on transformers' causal model."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        state = load_file(folder / "model.safetensors")
        self.words = AutoTokenizer.from_pretrained(folder)
        self.model = Qwen3ForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.first, self.second = (state[f"projector.{place}.weight"].to(dtype) for place in (0, 2))

    def prompt(self, query: str, documents: list[str], instruction: str | None) -> str:
        for mark in MARKS.values():
            query = query.replace(mark, "")
            documents = [one.replace(mark, "") for one in documents]
        text = (
            "<|im_start|>system\nYou are a search relevance expert who can determine a ranking of the passages based "
            "on how relevant they are to the query. If the query is a question, how relevant a passage is depends on "
            "how well it answers the question. If not, try to analyze the intent of the query and assess how well each "
            "passage satisfies the intent. If an instruction is provided, you should follow the instruction when "
            "determining the ranking.<|im_end|>\n<|im_start|>user\n"
        )
        text += f"I will provide you with {len(documents)} passages, each indicated by a numerical identifier. "
        text += f"Rank the passages based on their relevance to query: {query}\n"
        if instruction:
            text += "<instruct>\n" + instruction + "\n</instruct>\n"
        text += "\n".join(f'<passage id="{i}">\n{one}<|embed_token|>\n</passage>' for i, one in enumerate(documents))
        text += "\n<query>\n" + query + "<|rerank_token|>\n</query>"
        return text + "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

    @torch.no_grad()
    def block(self, query: str, documents: list[str], instruction: str | None) -> tuple[Any, Any, Any]:
        ids = self.words(self.prompt(query, documents, instruction), return_tensors="pt")["input_ids"]
        hidden = self.model(ids, output_hidden_states=True, use_cache=False).hidden_states[-1][0]
        vectors = []
        for mark in ("document", "query"):
            found = hidden[ids[0] == self.words.convert_tokens_to_ids(MARKS[mark])]
            vectors.append(torch.relu(found @ self.first.T) @ self.second.T)
        cosine = torch.nn.functional.cosine_similarity(vectors[0], vectors[1].expand_as(vectors[0]), dim=-1)
        return vectors[0].float().numpy(), vectors[1].float().numpy()[0], ((1 + cosine.float()) / 2).max().item()

    def rerank(self, query: str, documents: list[str], instruction: str | None = None) -> Any:
        """Return the scores in the order of the documents."""
        lengths = []
        for place, one in enumerate(documents):
            ids = self.words(one, truncation=True, max_length=2048)["input_ids"]
            lengths.append(len(ids))
            if len(ids) >= 2048:
                documents = [*documents[:place], self.words.decode(ids), *documents[place + 1 :]]
        asked = self.words(query, truncation=True, max_length=512)["input_ids"]
        query = self.words.decode(asked) if len(asked) >= 512 else query
        blocks: list[list[str]] = [[]]
        left = self.words.model_max_length - 2 * len(asked)
        for length, one in zip(lengths, documents, strict=True):
            blocks[-1].append(one)
            left -= length
            if len(blocks[-1]) >= 125 or left <= 2048:
                blocks.append([])
                left = self.words.model_max_length - 2 * len(asked)
        parts = [self.block(query, block, instruction) for block in blocks if block]
        vectors = np.concatenate([part[0] for part in parts])
        mean = np.average(np.array([part[1] for part in parts]), axis=0, weights=[part[2] for part in parts])
        return vectors @ mean / (np.linalg.norm(mean) * np.linalg.norm(vectors, axis=1))
