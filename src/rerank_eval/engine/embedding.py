"""Embeddings through the packed forward: every text a segment of its own, pooled at its last token.

What comes out is what sentence-transformers computes for a checkpoint with last-token pooling and normalisation (the
published Qwen3-Embedding models): the checkpoint's own tokenizer adds the end-of-text token and keeps it when it cuts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from rerank_eval.engine import attention
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.interface import Stats
from rerank_eval.engine.loading import (
    DtypeName,
    check_choice,
    check_decoder,
    check_positions,
    load_checkpoint,
    resolve_device,
    why_not_packed,
)
from rerank_eval.engine.packing import Pack, Part, plan_packs
from rerank_eval.engine.prompts import TokenizedGroup, check_fast, encodable
from rerank_eval.engine.runner import PackRunner, choose_attention
from rerank_eval.engine.waiting import wait_asleep

ARCHITECTURES = ("Qwen3Model", "Qwen3ForCausalLM")
"""What config.json may name; Qwen3-Embedding names the causal model, but its weights are the base model's."""

_TOKENIZE_AT_A_TIME = 256
"""Texts tokenised in one call: enough for the tokenizer's threads, few enough that long documents' ids stay small."""


@dataclass(frozen=True)
class EmbeddingStats(Stats):
    """What an embedder has done.

    Attributes:
        texts: Texts asked for.
        embedded: Distinct texts that went through the model.
        truncated: Distinct texts that lost tokens to `max_length`.
        seconds: Wall time of embedding, tokenising among it.
    """

    texts: int = 0
    embedded: int = 0
    truncated: int = 0
    tokens: int = 0
    forwards: int = 0
    tokenize_seconds: float = 0.0
    seconds: float = 0.0


class PackedEmbedder:
    """Turns texts into normalised vectors by a Qwen3 base model with the packed attention, on its device.

    `max_length` counts the added end-of-text token; for `token_budget` see `PackRunner`, a longer text gets a row of
    its own.

    Raises:
        EngineError: The tokenizer is a slow one, or a limit is too small.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        token_budget: int = 0,
    ) -> None:
        check_fast(tokenizer)
        added = len(tokenizer("")["input_ids"])
        if max_length <= added:
            raise EngineError(f"max_length {max_length} leaves no room for a text beside {added} added tokens")
        self._network = model
        self._tokenizer = tokenizer
        self._runner = PackRunner(model, token_budget, choose_attention("auto", model))
        self._stats = EmbeddingStats()
        self.max_length = max_length

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self._network.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self._network.device)

    @property
    def stats(self) -> EmbeddingStats:
        """What has been done since the embedder was made."""
        return self._stats

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, each distinct one once.

        Returns:
            (n, dim) float32, each row of length 1, in the texts' order. A text for which the tokenizer gives no token
            at all is a row of zeros, as in sentence-transformers.

        Raises:
            EngineError: The model returned NaN or an infinity.
        """
        started = time.perf_counter()
        place = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        ids, truncated = self._tokenize(list(place))
        tokenized = time.perf_counter()
        vectors, forwards = self._run(ids)
        self._stats += EmbeddingStats(
            texts=len(texts),
            embedded=len(ids),
            truncated=truncated,
            tokens=sum(len(one) for one in ids),
            forwards=forwards,
            tokenize_seconds=tokenized - started,
            seconds=time.perf_counter() - started,
        )
        return vectors[[place[text] for text in texts]]

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of a text exactly as they go through the model."""
        ids: list[int] = self._tokenize([text])[0][0].tolist()
        return ids

    def _tokenize(self, texts: Sequence[str]) -> tuple[list[NDArray[np.int32]], int]:
        """Tokenise and cut texts; say how many lost tokens."""
        found: list[NDArray[np.int32]] = []
        truncated = 0
        for start in range(0, len(texts), _TOKENIZE_AT_A_TIME):
            encoded = self._tokenizer(
                [encodable(text) for text in texts[start : start + _TOKENIZE_AT_A_TIME]],
                return_attention_mask=False,
                padding=False,
                truncation=True,
                max_length=self.max_length,
                verbose=False,
            )
            found.extend(np.array(ids, dtype=np.int32) for ids in encoded["input_ids"])
            truncated += sum(bool(one.overflowing) for one in encoded.encodings or [])
        return found, truncated

    def _run(self, ids: Sequence[NDArray[np.int32]]) -> tuple[NDArray[np.float32], int]:
        """Run tokenised texts through the model; the longest first, so that the first pack shows whether all fit."""
        some = [index for index, one in enumerate(ids) if len(one)]
        vectors = np.zeros((len(ids), self.dim), dtype=np.float32)
        packs = plan_packs(0, [len(ids[index]) for index in some], self._runner.packer.token_budget)
        if not packs:
            return vectors, 0
        none = np.zeros(len(ids), dtype=np.bool_)
        group = TokenizedGroup([], [ids[index].tolist() for index in some], none)
        # Copied back at the end: a copy after each pack would make the host wait for the device.
        done = [ran for pack in packs for ran in self._runner.run(Pack((Part(0, group, tuple(pack)),)))]
        with torch.inference_mode():
            units = torch.cat([torch.nn.functional.normalize(ran.hidden.float(), dim=1) for ran in done])
        order = [some[index] for ran in done for index in ran.pack.parts[0].documents]
        vectors[order] = units.cpu().numpy()
        if not np.isfinite(vectors).all():
            raise EngineError("the model returned an embedding that is not finite; try dtype float32 or bfloat16")
        return vectors, len(done)


def load_embedder(
    model: str | Path,
    *,
    revision: str | None = None,
    dtype: DtypeName = "float32",
    device: str = "auto",
    max_length: int | None = None,
    token_budget: int = 0,
    trust_remote_code: bool = False,
) -> PackedEmbedder:
    """Load a checkpoint of the Qwen3 family as an embedder.

    Whether the checkpoint was trained for last-token pooling is the caller's to know: its weights do not say. Arguments
    are those of `load_engine`; `max_length` None takes the smaller of the tokenizer's and the model's own limit.

    Raises:
        EngineError: A setting does not fit, or the checkpoint is unreadable, incomplete or of another type.
    """
    wait_asleep()
    name = str(model)
    check_choice("dtype", dtype, get_args(DtypeName))
    target, hub = resolve_device(device), {"revision": revision, "trust_remote_code": trust_remote_code}
    function, weights = attention.register(), getattr(torch, dtype)
    tokenizer, network = load_checkpoint(
        name, lambda _: AutoModel, attention=function, dtype=weights, check=_check_config, hub=hub
    )
    if max_length is None:
        max_length = min(tokenizer.model_max_length, network.config.max_position_embeddings)
    check_positions(name, network, max_length)
    return PackedEmbedder(network.to(target), tokenizer, max_length=max_length, token_budget=token_budget)


def _check_config(model: str, config: Any) -> None:
    """Refuse what does not embed."""
    check_decoder(model, config)
    obstacle = why_not_packed(config, getattr(config, "max_position_embeddings", 0))
    if config.model_type != "qwen3":
        obstacle = f"is of type {config.model_type!r}; the embedder runs qwen3"
    if obstacle is not None:
        raise EngineError(f"{model} {obstacle}")
    architectures = getattr(config, "architectures", None) or list(ARCHITECTURES)
    if architectures[0] not in ARCHITECTURES:
        raise EngineError(f"{model} is a {architectures[0]}; the embedder runs {', '.join(ARCHITECTURES)}")
