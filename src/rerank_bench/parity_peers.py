"""Scores pairs with a family's own code, and catches the token ids that its model is given.

    python parity_peers.py < question.json > answer.json

Runs in an environment of the peers' own (FlagEmbedding and mxbai-rerank need transformers 4), so it imports nothing of
this project. The question holds `peer`, `folder`, `pairs`, `instruction` and, for vLLM, what `vllm` names; the answer
`scores`, `ids`, `version`.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

LENGTH = 1_900
"""Limit of the peers that want one: no pair reaches it, nor a quarter of it in mxbai-rerank-v2's tokens."""


class Caught:
    """The rows of ids that went through a model, without padding."""

    def __init__(self, network: Any) -> None:
        self.rows: list[list[int]] = []
        forward = network.forward

        @functools.wraps(forward)  # transformers looks at the signature
        def caught(*arguments: Any, **named: Any) -> Any:
            self._catch(arguments, named)
            return forward(*arguments, **named)

        network.forward = caught  # a hook would miss whoever calls forward itself

    def _catch(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = named["input_ids"] if "input_ids" in named else arguments[0]
        mask = named.get("attention_mask")
        for row, kept in zip(ids.tolist(), (ids if mask is None else mask).tolist(), strict=True):
            self.rows.append(row if mask is None else [one for one, keep in zip(row, kept, strict=True) if keep])


def flag_llm(folder: str, pairs: list[list[str]], _: str | None) -> tuple[list[float], list[list[int]], str]:
    """FlagEmbedding's reranker of decoders; it sorts by length, so each pair is asked alone."""
    from FlagEmbedding import FlagLLMReranker

    model = FlagLLMReranker(folder, use_fp16=False, devices=["cpu"], max_length=LENGTH)
    caught, scores, ids = Caught(model.model), [], []
    for pair in pairs:
        scores += model.compute_score([pair])
        ids.append(caught.rows[-1])  # a trial run of the same pair goes before
    return [float(one) for one in scores], ids, f"FlagEmbedding {version('FlagEmbedding')}"


def flag(folder: str, pairs: list[list[str]], _: str | None) -> tuple[list[float], list[list[int]], str]:
    """FlagEmbedding's reranker of encoders."""
    from FlagEmbedding import FlagReranker

    model = FlagReranker(folder, use_fp16=False, devices=["cpu"], max_length=LENGTH)
    caught, scores, ids = Caught(model.model), [], []
    for pair in pairs:
        scores += model.compute_score([pair])
        ids.append(caught.rows[-1])
    return [float(one) for one in scores], ids, f"FlagEmbedding {version('FlagEmbedding')}"


def mxbai(folder: str, pairs: list[list[str]], instruction: str | None) -> tuple[list[float], list[list[int]], str]:
    """mxbai-rerank's own class."""
    import torch
    from mxbai_rerank import MxbaiRerankV2

    model = MxbaiRerankV2(folder, device="cpu", torch_dtype=torch.float32, max_length=LENGTH)
    caught = Caught(model.model)
    scores = [float(model.predict([query], [text], instruction=instruction)[0]) for query, text in pairs]
    return scores, caught.rows, f"mxbai-rerank {version('mxbai-rerank')}"


def rerankers(folder: str, pairs: list[list[str]], instruction: str | None) -> tuple[list[float], list[list[int]], str]:
    """The package rerankers' class for mxbai-rerank-v2."""
    import torch
    from rerankers.models.mxbai_v2 import MxBaiV2Ranker

    model = MxBaiV2Ranker(folder, device="cpu", dtype=torch.float32, verbose=0, max_length=LENGTH)
    caught = Caught(model.model)
    scores = [model.score(query, text, instruction=instruction) for query, text in pairs]
    return scores, caught.rows, f"rerankers {version('rerankers')}"


def cross_encoder(folder: str, pairs: list[list[str]], prompt: str | None) -> tuple[list[float], list[list[int]], str]:
    """sentence-transformers, by the checkpoint's own files."""
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(folder, device="cpu", activation_fn=torch.nn.Identity(), model_kwargs={"dtype": torch.float32})
    caught = Caught(model[0].auto_model if hasattr(model[0], "auto_model") else model[0].model)
    scores = [float(model.predict([tuple(pair)], prompt=prompt)[0]) for pair in pairs]
    return scores, caught.rows, f"sentence-transformers {version('sentence-transformers')}"


def ctxl(folder: str, pairs: list[list[str]], instruction: str | None) -> tuple[list[float], list[list[int]], str]:
    """The code of ctxl-rerank-v2's card, on transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    caught, scores, behind = Caught(model), [], f" {instruction}" if instruction else ""
    opening = "Check whether a given document contains information helpful to answer the query."
    for query, text in pairs:
        prompt = f"{opening}\n<Document> {text}\n<Query> {query}{behind} ??"
        with torch.no_grad():
            logits = model(**tokenizer([prompt], return_tensors="pt")).logits
        scores.append(float(logits[0, -1, 0]))
    return scores, caught.rows, f"transformers {version('transformers')}, the card's code"


def head(folder: str, texts: list[list[str]], _: str | None) -> tuple[list[float], list[list[int]], str]:
    """Transformers' sequence classifier on prompts that the caller has written, as its users do."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    caught, scores = Caught(model), []
    for [text] in texts:
        with torch.no_grad():
            scores.append(float(model(**tokenizer([text], return_tensors="pt")).logits[0, 0]))
    return scores, caught.rows, f"transformers {version('transformers')}"


def vllm(
    folder: str, pairs: list[list[str]], instruction: str | None, *, overrides: dict[str, Any], template: str = ""
) -> tuple[list[float], list[list[int]], str]:
    """VLLM's class LLM: query and document by a chat template or as they stand, or prompts as parts tokenised apart."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, PoolingParams, TokensPrompt

    model = LLM(
        folder,
        runner="pooling",
        dtype="float32",
        max_model_len=LENGTH,
        enforce_eager=True,
        hf_overrides=overrides,
    )
    # An empty instruction leaves its part out; none at all would be the template's default.
    filled = {"chat_template_kwargs": {"instruction": instruction or ""}} if template else None
    told = PoolingParams(use_activation=False, extra_kwargs=filled)
    if template or all(len(pair) == 2 for pair in pairs):  # noqa: PLR2004 - query and document
        queries, texts = ([pair[side] for pair in pairs] for side in (0, 1))
        found = model.score(queries, texts, chat_template=template or None, pooling_params=told, use_tqdm=False)
        scores = [float(one.outputs.score) for one in found]
    else:
        encode = model.get_tokenizer().encode
        ids = [[one for part in parts for one in encode(part, add_special_tokens=False)] for parts in pairs]
        prompts = [TokensPrompt(prompt_token_ids=one) for one in ids]
        found = model.classify(prompts, pooling_params=told, use_tqdm=False)
        scores = [float(one.outputs.probs[0]) for one in found]
    return scores, [list(one.prompt_token_ids) for one in found], f"vLLM {version('vllm-cpu')}"


PEERS: dict[str, Callable[..., tuple[list[float], list[list[int]], str]]] = {
    "FlagLLMReranker": flag_llm,
    "FlagReranker": flag,
    "MxbaiRerankV2": mxbai,
    "MxBaiV2Ranker": rerankers,
    "CrossEncoder": cross_encoder,
    "the card's code": ctxl,
    "AutoModelForSequenceClassification": head,
    "vLLM": vllm,
}


def main() -> None:
    """Answer the question on the standard input."""
    asked = json.load(sys.stdin)
    peer, folder, pairs, instruction = (asked.pop(key) for key in ("peer", "folder", "pairs", "instruction"))
    scores, ids, told = PEERS[peer](folder, pairs, instruction, **asked)
    json.dump({"scores": scores, "ids": ids, "version": told}, sys.stdout)


if __name__ == "__main__":
    main()
