"""The peers: each loads a checkpoint and scores groups the way its own code does."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from rerank_bench.servers import QWEN3_OVERRIDES
from rerank_eval.engine.chat_template import chat_template
from rerank_eval.engine.interface import QueryGroup
from rerank_eval.engine.loading import load_engine
from rerank_eval.engine.recipes import RECIPES

MAX_LENGTH = 8192

Groups = Iterator[QueryGroup]
PYes = NDArray[np.float64]


class Peer(Protocol):
    """Scores groups."""

    def score(self, groups: Groups) -> Iterator[PYes]:
        """Yield P(yes) of each group's documents, (documents,) float64."""
        ...


class Ours:
    """The packed engine of this project, with the settings that `make eval` uses."""

    def __init__(self, folder: Path, dtype: str, device: str, batch_size: int) -> None:
        compiled = bool(os.environ.get("RERANK_EVAL_BENCH_COMPILE"))
        self.engine = load_engine(
            folder,
            recipe="card",
            dtype=dtype,  # type: ignore[arg-type]
            device=device,
            max_length=MAX_LENGTH,
            token_budget=batch_size,
            compile_layers=True if compiled else None,
        )

    def score(self, groups: Groups) -> Iterator[PYes]:
        """See `Peer.score`."""
        for scores in self.engine.score_groups(groups):
            yield 1 / (1 + np.exp(-scores.margins))


class ModelCard:
    """What the model card's transformers snippet does: batches in the given order, padded on the left, full logits."""

    def __init__(self, folder: Path, dtype: str, device: str, batch_size: int) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        attention = "flash_attention_2" if device == "cuda" and find_spec("flash_attn") else "sdpa"
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation=attention
        )
        self._model = self._model.to(device).eval()
        self._batch_size = batch_size
        recipe = RECIPES["card"]
        encode: Callable[..., list[int]] = self._tokenizer.encode
        self._prefix = encode(recipe.prefix, add_special_tokens=False)
        self._suffix = encode(recipe.suffix, add_special_tokens=False)
        self._no, self._yes = (self._tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes"))

    def score(self, groups: Groups) -> Iterator[PYes]:
        """See `Peer.score`."""
        for group in groups:
            found: list[float] = []
            for start in range(0, len(group.documents), self._batch_size):
                found += self._batch(group, group.documents[start : start + self._batch_size])
            yield np.array(found, dtype=np.float64)

    def _batch(self, group: QueryGroup, documents: Any) -> list[float]:
        recipe = RECIPES["card"]
        texts = [
            recipe.prompt(group.query, document, group.instruction)
            .removeprefix(recipe.prefix)
            .removesuffix(recipe.suffix)
            for document in documents
        ]
        room = MAX_LENGTH - len(self._prefix) - len(self._suffix)
        ids = self._tokenizer(texts, padding=False, truncation="longest_first", max_length=room)["input_ids"]
        framed = {"input_ids": [self._prefix + one + self._suffix for one in ids]}
        inputs = self._tokenizer.pad(framed, padding=True, return_tensors="pt").to(self._model.device)
        with torch.no_grad():
            last = self._model(**inputs).logits[:, -1, :]
            pair = torch.stack([last[:, self._no], last[:, self._yes]], dim=1)
            probabilities: list[float] = torch.log_softmax(pair, dim=1)[:, 1].exp().tolist()
        return probabilities


class MtebWrapper:
    """mteb's registered wrapper for Qwen3-Reranker, its own code."""

    def __init__(self, folder: Path, dtype: str, device: str, batch_size: int) -> None:
        module = importlib.import_module("mteb.models.model_implementations.qwen3_reranker")
        self._wrapper = module.Qwen3RerankerWrapper(
            str(folder), device=device, max_length=MAX_LENGTH, dtype=getattr(torch, dtype)
        )
        self._batch_size = batch_size

    def score(self, groups: Groups) -> Iterator[PYes]:
        """See `Peer.score`."""
        with torch.inference_mode():
            for group in groups:
                found: list[float] = []
                for start in range(0, len(group.documents), self._batch_size):
                    part = group.documents[start : start + self._batch_size]
                    texts = [self._wrapper.format_instruction(group.instruction, group.query, one) for one in part]
                    found += self._wrapper.compute_logits(self._wrapper.process_inputs(texts))
                yield np.array(found, dtype=np.float64)


class SentenceTransformers:
    """sentence-transformers' CrossEncoder with the card's prompt: sorted by length, last position's logits only."""

    def __init__(self, folder: Path, dtype: str, device: str, batch_size: int) -> None:
        module = importlib.import_module("sentence_transformers")
        self._model = module.CrossEncoder(
            str(folder),
            device=device,
            max_length=MAX_LENGTH,
            model_kwargs={"dtype": getattr(torch, dtype)},
            processor_kwargs={"chat_template": chat_template(RECIPES["card"])},
        )
        self._batch_size = batch_size

    def score(self, groups: Groups) -> Iterator[PYes]:
        """See `Peer.score`."""
        for group in groups:
            yield np.asarray(
                self._model.predict(
                    [(group.query, document) for document in group.documents],
                    prompt=group.instruction,
                    batch_size=self._batch_size,
                    activation_fn=torch.nn.Sigmoid(),
                    show_progress_bar=False,
                ),
                dtype=np.float64,
            )


class Vllm:
    """vLLM's class LLM: the checkpoint as a classifier of logit(yes) - logit(no), prefixes cached, all at once."""

    def __init__(self, folder: Path, dtype: str, device: str, batch_size: int) -> None:
        cpu = device == "cpu"
        # In one process, and on as many threads as the other peers: else its memory and threads would be elsewhere.
        wanted = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
        wanted |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind"} if cpu else {}
        for name, value in wanted.items():
            os.environ.setdefault(name, value)
        vllm: Any = importlib.import_module("vllm")
        self.version = vllm.__version__.partition("+")[0]
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = vllm.LLM(
            model=str(folder),
            runner="pooling",
            dtype=dtype,
            max_model_len=MAX_LENGTH,
            enable_prefix_caching=True,
            enforce_eager=cpu,
            hf_overrides=QWEN3_OVERRIDES,
            seed=0,
        )
        self._options = vllm.PoolingParams(use_activation=False)

    def score(self, groups: Groups) -> Iterator[PYes]:
        """See `Peer.score`."""
        recipe = RECIPES["card"]
        for group in groups:
            texts = [recipe.prompt(group.query, document, group.instruction) for document in group.documents]
            ids = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
            prompts = [{"prompt_token_ids": one} for one in ids]
            outputs = self._model.classify(prompts, pooling_params=self._options, use_tqdm=False)
            margins = np.array([output.outputs.probs[0] for output in outputs], dtype=np.float64)
            yield 1 / (1 + np.exp(-margins))


PEERS: dict[str, tuple[Callable[..., Peer], str | None, int]] = {
    "ours": (Ours, None, 0),
    "model card": (ModelCard, None, 16),
    "mteb": (MtebWrapper, "mteb", 32),
    "sentence-transformers": (SentenceTransformers, "sentence_transformers", 32),
    "vllm": (Vllm, "vllm", 0),
}
"""Name -> class, the package it needs, and the batch size it uses by default; the card names none, 16 is what is tried
there. For ours the number is the token budget, 0 to choose it."""


def installed() -> list[str]:
    """Return the peers that can run here."""
    return [name for name, (_, package, _) in PEERS.items() if package is None or find_spec(package) is not None]
