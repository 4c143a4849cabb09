"""The network while it trains: Qwen3's own modules, run over groups whose documents share their query's prefix.

The engine's packed attention writes slices in place, document by document, which costs a backward pass dearly. Here
documents of like length are attended to together, and the last layer runs on the documents' last tokens alone. Margins
are the engine's; a test holds it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import embedding, silu
from transformers import Qwen3Config, Qwen3ForCausalLM

from rerank_demo.probes import States

MASKED = -1e9
RMS_EPSILON = 1e-6
POSITIONS = 512
"""Tokens that a prompt may have. Nothing longer was trained on, and it keeps long documents cheap."""


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
        max_position_embeddings=POSITIONS,
        rms_norm_eps=RMS_EPSILON,
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
        told: Place in the prefix from which on the instruction is known: the marker of the query.
        clauses: Places in the prefix where the instruction's sentences end.
    """

    prefix: list[int]
    documents: list[list[int]]
    told: int = 0
    clauses: tuple[int, ...] = ()


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
        told: (groups,) rows of the tokens from which on the instructions are known.
        clauses: (clauses,) rows of the tokens that end the instructions' sentences, group by group.
        sorted_last: (documents,) rows of the documents' last tokens, in the order of the buckets.
        restore: (documents,) where each document stands in the order of the buckets.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    prefixes: tuple[int, int]
    buckets: tuple[Bucket, ...]
    told: torch.Tensor
    clauses: torch.Tensor
    sorted_last: torch.Tensor
    restore: torch.Tensor

    def to(self, device: torch.device) -> Row:
        """Move to a device."""
        if device.type == "cpu":
            return self
        names = ("ids", "positions", "told", "clauses", "sorted_last", "restore")
        moved = {name: getattr(self, name).to(device) for name in names}
        buckets = tuple(replace(one, group=one.group.to(device), mask=one.mask.to(device)) for one in self.buckets)
        return replace(self, buckets=buckets, **moved)


def lay_out(groups: Sequence[GroupTokens], buckets: int) -> Row:
    """Lay groups out in one row.

    Args:
        groups: The groups, at least one; one may have no documents, but not all.
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
        torch.tensor([number * width + group.told for number, group in enumerate(groups)]),
        torch.tensor([n * width + end for n, group in enumerate(groups) for end in group.clauses], dtype=torch.int64),
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


@dataclass(frozen=True)
class Outputs:
    """What a network says of a row, group by group.

    Attributes:
        margins: (documents,) float32 log-odds.
        states: What the probes look at, float32; instructions are groups.
    """

    margins: torch.Tensor
    states: States


@dataclass(frozen=True)
class Pieces:
    """What a layer does between its products of queries, keys and values; `compiled` fuses what acts on single numbers.

    Attributes:
        before: Norm, projections and rotation.
        weigh: Attention's weights from its scores.
        after: What follows the attention.
    """

    before: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    weigh: Callable[..., torch.Tensor]
    after: Callable[..., torch.Tensor]


@functools.cache
def pieces(*, compiled: bool) -> Pieces:
    """Return the pieces as they are, or compiled by inductor, which on a CPU takes a third of a step's time away."""
    if not compiled:
        return Pieces(_before, _weigh, _after)
    return Pieces(
        torch.compile(_before, dynamic=True), torch.compile(_weigh, dynamic=True), torch.compile(_after, dynamic=True)
    )


def forward(
    model: Qwen3ForCausalLM,
    row: Row,
    yes_id: int,
    no_id: int,
    *,
    dtype: torch.dtype = torch.float32,
    compiled: bool = False,
) -> Outputs:
    """Run the network.

    Args:
        model: The network, its weights in float32.
        row: A batch, on the network's device.
        yes_id: Token id of `yes`.
        no_id: Token id of `no`.
        dtype: Of the products.
        compiled: Use the compiled pieces.

    Returns:
        Margins, and what the probes look at.
    """
    body, use = model.model, pieces(compiled=compiled)
    weight = body.embed_tokens.weight
    states = embedding(row.ids, weight)
    turns = body.rotary_emb(states, row.positions)
    early = late = documents = clauses = states
    for layer in body.layers:
        last = layer is body.layers[-1]
        module = layer.self_attn
        query, key, value = use.before(
            states,
            turns,
            (layer.input_layernorm.weight, module.q_norm.weight, module.k_norm.weight),
            (module.q_proj.weight, module.k_proj.weight, module.v_proj.weight),
            dtype,
        )
        attended = _attention((query, key, value), row, module.scaling, use, only_last=last)
        if last:
            late, states = states.index_select(1, row.told), states.index_select(1, row.sorted_last)
            documents = states
        elif layer is body.layers[-2]:
            early, clauses = states.index_select(1, row.told), states.index_select(1, row.clauses)
        matrices = (module.o_proj.weight, layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight)
        states = use.after(
            states, attended, layer.post_attention_layernorm.weight, (*matrices, layer.mlp.down_proj.weight), dtype
        )
    hidden = _normed(states, body.norm.weight)[0]
    scores: torch.Tensor = (hidden * (weight[yes_id] - weight[no_id])).sum(dim=-1)
    back = row.restore
    seen = States(early[0], late[0], documents[0].index_select(0, back), clauses[0])
    return Outputs(scores.index_select(0, back), seen)


def _attention(
    projected: tuple[torch.Tensor, torch.Tensor, torch.Tensor], row: Row, scale: float, use: Pieces, *, only_last: bool
) -> torch.Tensor:
    """Attend within a row; with `only_last`, from the documents' last tokens alone.

    Returns:
        (1, tokens or documents, heads * head_dim).
    """
    query, key, value = projected
    groups, width = row.prefixes
    counts = [groups, *(len(bucket.group) for bucket in row.buckets)]
    sizes = [groups * width, *(bucket.end - bucket.start for bucket in row.buckets)]

    def cut(tensor: torch.Tensor, sizes: list[int], counts: list[int]) -> list[torch.Tensor]:
        """(count, heads, tokens, head_dim) each; split, as slices cost a tensor of zeros each on the way back."""
        parts = zip(torch.split(tensor[0], sizes), counts, strict=True)
        return [part.view(count, -1, *tensor.shape[2:]).transpose(1, 2) for part, count in parts]

    keys, values = cut(key, sizes, counts), cut(value, sizes, counts)
    if only_last:
        queries = [None, *cut(query.index_select(1, row.sorted_last), counts[1:], counts[1:])]
    else:
        queries = [*cut(query, sizes, counts)]

    def weigh(mask: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda scores: use.weigh(scores, mask, scale)

    out, begin = [], 0
    if queries[0] is not None:
        causal = torch.full((width, width), MASKED, device=query.device).triu(1)
        out.append(_attend(queries[0], keys[0], values[0], weigh(causal)))
    for number, bucket in enumerate(row.buckets, 1):
        asked = queries[number]
        assert asked is not None  # noqa: S101 - only the prefixes have none
        out.append(
            _attend(
                asked,
                torch.cat([keys[0].index_select(0, bucket.group), keys[number]], dim=2),
                torch.cat([values[0].index_select(0, bucket.group), values[number]], dim=2),
                weigh(_last_mask(bucket, row, begin) if only_last else bucket.mask),
            )
        )
        begin += len(bucket.group)
    return torch.cat(out, dim=1)


def _last_mask(bucket: Bucket, row: Row, begin: int) -> torch.Tensor:
    """Each document's last row of its mask, (n, 1, 1, prefix + length)."""
    count = len(bucket.group)
    places = (row.sorted_last[begin : begin + count] - bucket.start) % bucket.length
    return bucket.mask[torch.arange(count, device=places.device), :, places][:, :, None]


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, weigh: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Attend by products and a softmax, which on a CPU takes less time backward than the fused kernel.

    Returns:
        (1, rows, heads * head_dim).
    """
    weights = weigh(torch.matmul(query, key.transpose(2, 3)))
    return torch.matmul(weights, value).transpose(1, 2).reshape(1, query.shape[0] * query.shape[2], -1)


def _weigh(scores: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    return (scores.float() * scale + mask).softmax(dim=-1).to(scores.dtype)


def _normed(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Root mean square norm as Qwen3's, in float32."""
    return states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + RMS_EPSILON) * weight


def _rotated(tensor: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = tensor.shape[-1] // 2
    turned = torch.cat([-tensor[..., half:], tensor[..., :half]], dim=-1)
    return tensor * cos[:, :, None] + turned * sin[:, :, None]


def _product(states: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return states @ matrix.to(states.dtype).T


def _before(
    states: torch.Tensor,
    turns: tuple[torch.Tensor, torch.Tensor],
    norms: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    matrices: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Norm the states and make queries, keys and values, each (1, tokens, heads, head_dim)."""
    normed = _normed(states, norms[0]).to(dtype)
    head_dim = norms[1].shape[0]
    query, key, value = (_product(normed, one).view(1, states.shape[1], -1, head_dim) for one in matrices)
    query = _rotated(_normed(query.float(), norms[1]), *turns).to(dtype)
    key = _rotated(_normed(key.float(), norms[2]), *turns).to(dtype)
    return query, key, value


def _after(
    states: torch.Tensor,
    attended: torch.Tensor,
    norm: torch.Tensor,
    matrices: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    dtype: torch.dtype,
) -> torch.Tensor:
    """Add the attention's output and the feed-forward's."""
    out, gate, up, down = matrices
    states = states + _product(attended, out).float()
    normed = _normed(states, norm).to(dtype)
    opened = (silu(_product(normed, gate).float()) * _product(normed, up).float()).to(dtype)
    return states + _product(opened, down).float()
