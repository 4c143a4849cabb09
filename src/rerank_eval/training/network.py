"""The network while it trains: Qwen3's own modules, run over groups whose documents share their query's prefix.

The engine's packed attention writes slices in place, document by document, which costs a backward pass dearly. Here
documents of like length are attended to together, and the last layer runs on the documents' last tokens alone. Margins
are the engine's; a test holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import embedding
from transformers import Qwen3Config, Qwen3ForCausalLM

MASKED = -1e9


@dataclass(frozen=True)
class Shape:
    """Size of the network, in the terms of Qwen3's config."""

    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    head_dim: int = 64


ROPE_THETA = 100_000_000.0
"""So large that three fifths of a head's dimensions hardly turn over a prompt: tokens match at any distance."""


def qwen3_config(shape: Shape, vocabulary: int, eos: int, pad: int) -> Qwen3Config:
    """Describe the network to transformers."""
    return Qwen3Config(
        **asdict(shape),
        vocab_size=vocabulary,
        max_position_embeddings=40_960,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_theta": ROPE_THETA, "rope_type": "default"},
        tie_word_embeddings=True,
        bos_token_id=pad,
        eos_token_id=eos,
        pad_token_id=pad,
        dtype="float32",
    )


@dataclass(frozen=True)
class GroupTokens:
    """One query with its documents as ids.

    Attributes:
        prefix: What all prompts of the group begin with.
        documents: What each adds, the recipe's suffix included.
    """

    prefix: list[int]
    documents: list[list[int]]


@dataclass(frozen=True)
class Bucket:
    """Documents of like length, attended to together.

    Attributes:
        start: Row of its first token.
        group: (n,) number of each document's group.
        length: Tokens of the longest; the others are filled up in front of nothing, behind their last token.
        mask: (n, 1, length, prefix + length) added to the attention's scores.
    """

    start: int
    group: torch.Tensor
    length: int
    mask: torch.Tensor

    @property
    def end(self) -> int:
        """One past the row of its last token."""
        return self.start + len(self.group) * self.length


@dataclass(frozen=True)
class Row:
    """A batch of groups laid out in one row: prefixes, filled up to the longest, then the buckets.

    Attributes:
        ids: (1, tokens).
        positions: (1, tokens), each token's position in its own prompt.
        prefixes: Groups and tokens of the longest prefix.
        buckets: The documents.
        sorted_last: (documents,) rows of the documents' last tokens, in the order of the buckets.
        restore: (documents,) where each document stands in the order of the buckets.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    prefixes: tuple[int, int]
    buckets: tuple[Bucket, ...]
    sorted_last: torch.Tensor
    restore: torch.Tensor


def lay_out(groups: Sequence[GroupTokens], buckets: int) -> Row:
    """Lay groups out in one row.

    Args:
        groups: The groups, at least one.
        buckets: Into how many runs of like length the documents are divided.
    """
    width = max(len(group.prefix) for group in groups)
    ids = np.zeros((len(groups), width), dtype=np.int64)
    for number, group in enumerate(groups):
        ids[number, : len(group.prefix)] = group.prefix
    lengths = np.array([len(group.prefix) for group in groups])
    pieces, positions = [ids.reshape(-1)], [np.tile(np.arange(width), len(groups))]
    owner = np.array([number for number, group in enumerate(groups) for _ in group.documents])
    texts = [document for group in groups for document in group.documents]
    order = np.argsort([len(text) for text in texts], kind="stable")
    start, laid, last = len(groups) * width, [], []
    for part in np.array_split(order, min(buckets, len(order))):
        longest = max(len(texts[i]) for i in part)
        block = np.zeros((len(part), longest), dtype=np.int64)
        for row, i in enumerate(part):
            block[row, : len(texts[i])] = texts[i]
            last.append(start + row * longest + len(texts[i]) - 1)
        pieces.append(block.reshape(-1))
        positions.append((lengths[owner[part]][:, None] + np.arange(longest)).reshape(-1))
        laid.append(Bucket(start, torch.from_numpy(owner[part]), longest, _mask(lengths[owner[part]], width, longest)))
        start += block.size
    restore = np.empty(len(order), dtype=np.int64)
    restore[order] = np.arange(len(order))
    return Row(
        torch.from_numpy(np.concatenate(pieces))[None],
        torch.from_numpy(np.concatenate(positions))[None],
        (len(groups), width),
        tuple(laid),
        torch.tensor(last),
        torch.from_numpy(restore),
    )


def _mask(prefixes: NDArray[np.int64], width: int, length: int) -> torch.Tensor:
    """Documents see their own prefix without its filling, and themselves causally."""
    mask = torch.zeros(len(prefixes), 1, length, width + length)
    mask[:, 0, :, width:] = torch.full((length, length), MASKED).triu(1)
    filling = torch.arange(width)[None] >= torch.from_numpy(prefixes)[:, None]
    mask[:, 0, :, :width].masked_fill_(filling[:, None, :], MASKED)
    return mask


def margins(model: Qwen3ForCausalLM, row: Row, yes_id: int, no_id: int) -> torch.Tensor:
    """Run the network.

    Args:
        model: The network; under autocast the products are taken in bfloat16.
        row: A batch.
        yes_id: Token id of `yes`.
        no_id: Token id of `no`.

    Returns:
        (documents,) float32 log-odds, group by group.
    """
    body = model.model
    weight = body.embed_tokens.weight
    states = embedding(row.ids, weight)
    cos, sin = body.rotary_emb(states, row.positions)
    for layer in body.layers[:-1]:
        attended = _attention(layer, states, cos, sin, row, only_last=False)
        states = states + layer.self_attn.o_proj(attended)
        states = states + layer.mlp(layer.post_attention_layernorm(states))
    final = body.layers[-1]
    attended = _attention(final, states, cos, sin, row, only_last=True)
    last = states.index_select(1, row.sorted_last) + final.self_attn.o_proj(attended)
    last = last + final.mlp(final.post_attention_layernorm(last))
    with torch.autocast("cpu", enabled=False):
        hidden = body.norm(last.float())[0]
        scores: torch.Tensor = (hidden * (weight[yes_id] - weight[no_id])).sum(dim=-1)
    return scores.index_select(0, row.restore)


def _attention(
    layer: Any, states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, row: Row, *, only_last: bool
) -> torch.Tensor:
    """Attend within a row; with `only_last`, from the documents' last tokens alone."""
    module = layer.self_attn
    normed = layer.input_layernorm(states)
    heads = (1, normed.shape[1], -1, module.head_dim)
    key = module.k_norm(module.k_proj(normed).view(heads))
    value = module.v_proj(normed).view(heads)
    groups, width = row.prefixes
    shared = slice(0, groups * width)
    if only_last:
        asked = normed.index_select(1, row.sorted_last)
        query = module.q_norm(module.q_proj(asked).view(1, asked.shape[1], -1, module.head_dim))
        query = _rotated(query, cos[:, row.sorted_last], sin[:, row.sorted_last])
    else:
        query = _rotated(module.q_norm(module.q_proj(normed).view(heads)), cos, sin)
    key = _rotated(key, cos, sin)
    query, key = query.to(value.dtype), key.to(value.dtype)

    def cut(tensor: torch.Tensor, where: slice, count: int) -> torch.Tensor:
        """(count, heads, tokens, head_dim)."""
        return tensor[0, where].view(count, -1, tensor.shape[2], module.head_dim).transpose(1, 2)

    out = []
    prefix_key, prefix_value = cut(key, shared, groups), cut(value, shared, groups)
    if not only_last:
        causal = torch.full((width, width), MASKED).triu(1)
        out.append(_attend(cut(query, shared, groups), prefix_key, prefix_value, causal, module.scaling))
    begin = 0
    for bucket in row.buckets:
        where, count = slice(bucket.start, bucket.end), len(bucket.group)
        keys = torch.cat([prefix_key.index_select(0, bucket.group), cut(key, where, count)], dim=2)
        values = torch.cat([prefix_value.index_select(0, bucket.group), cut(value, where, count)], dim=2)
        if only_last:
            queries, mask = cut(query, slice(begin, begin + count), count), _last_mask(bucket, row, begin)
            begin += count
        else:
            queries, mask = cut(query, where, count), bucket.mask
        out.append(_attend(queries, keys, values, mask, module.scaling))
    return torch.cat(out, dim=1)


def _last_mask(bucket: Bucket, row: Row, begin: int) -> torch.Tensor:
    """Each document's last row of its mask, (n, 1, 1, prefix + length)."""
    count = len(bucket.group)
    places = (row.sorted_last[begin : begin + count] - bucket.start) % bucket.length
    return bucket.mask[torch.arange(count), :, places][:, :, None]


def _rotated(tensor: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = tensor.shape[-1] // 2
    turned = torch.cat([-tensor[..., half:], tensor[..., :half]], dim=-1)
    return tensor * cos[:, :, None] + turned * sin[:, :, None]


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attend by products and a softmax, which on a CPU takes less time backward than the fused kernel.

    Returns:
        (1, rows, heads * head_dim).
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scale
    weights = (scores + mask.to(scores.dtype)).softmax(dim=-1, dtype=scores.dtype)
    return torch.matmul(weights, value).transpose(1, 2).reshape(1, query.shape[0] * query.shape[2], -1)
