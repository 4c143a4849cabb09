"""Weights to begin with: tokens that mean the same are near each other, and attention already finds them.

Embeddings come from all-MiniLM-L6-v2: its vector of each token's string, the common direction removed, turned and cut
to the network's width (as model2vec does it, https://github.com/MinishLab/model2vec). Sixteen dimensions are set aside
for features: a constant, the recipe's three markers, rarity, the part of the prompt, what was found.

The first layer's first head tells each token which part it stands in, by looking for the last marker before it; two
more look at the neighbours. The second layer's heads let a document's token find equal and similar ones in the query,
against the prompt's opening marker, which takes what finds nothing. The last layers' first heads add up what was
found. All of it is only a beginning: nothing is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from rerank_demo.mining import minilm_vectors
from rerank_demo.network import Shape, qwen3_config

FEATURES = 16


class Feature(IntEnum):
    """Dimensions of the residual stream that are set aside."""

    CONST = 0
    MARK_INSTRUCT = 1
    MARK_QUERY = 2
    MARK_DOCUMENT = 3
    MARK = 4
    NO_MARK = 5
    OPENING = 6
    RARITY = 7
    IN_INSTRUCT = 8
    IN_QUERY = 9
    IN_DOCUMENT = 10
    QUERY_RARITY = 11
    FOUND = 12
    FOUND_SHARE = 13
    SUM = 14
    ANSWER = 15


@dataclass(frozen=True)
class Scales:
    """Sizes that experiments chose."""

    match_sharpness: float = 1.6
    match_opening: float = 0.25
    sum_opening: float = 0.0
    noise: float = 0.05
    answer: float = 3.0
    final_norm: float = 0.15


def rarity(document_counts: NDArray[np.float64], documents: int) -> torch.Tensor:
    """Inverse document frequency, scaled to about 0 (everywhere) to 1 (in one document of ten thousand)."""
    idf = np.log((documents + 1) / (document_counts + 1)) / math.log(10_000)
    return torch.from_numpy(np.clip(idf, 0.0, 1.2).astype(np.float32))


def semantics(texts: Sequence[str], width: int, generator: torch.Generator) -> torch.Tensor:
    """Embed token strings by MiniLM and cut them to a width.

    Args:
        texts: The tokens' strings.
        width: Dimensions.
        generator: Turns the result, so that every slice of dimensions holds an equal share.

    Returns:
        (n, width), each row of length sqrt(width).
    """
    vectors = minilm_vectors([text.strip() or "space" for text in texts], 16)
    vectors = vectors - vectors.mean(dim=0)
    _, _, directions = torch.linalg.svd(vectors, full_matrices=False)
    # The first direction says how much of a word a token is, nothing about what it means.
    cut = vectors @ directions[1 : width + 1].T
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    scaled: torch.Tensor = torch.nn.functional.normalize(cut @ turn, dim=1) * width**0.5
    return scaled


def embeddings(
    tokenizer: PreTrainedTokenizerBase, rare: torch.Tensor, width: int, generator: torch.Generator
) -> torch.Tensor:
    """Make the embedding matrix.

    Args:
        tokenizer: The tokenizer.
        rare: (vocabulary,) rarity of each token.
        width: Hidden size.
        generator: For what is random.

    Returns:
        (vocabulary, width).
    """
    texts = [tokenizer.decode([place]) for place in range(len(tokenizer))]
    table = torch.zeros(len(texts), width)
    table[:, FEATURES:] = semantics(texts, width - FEATURES, generator)
    table[:, Feature.CONST] = 2.0
    table[:, Feature.NO_MARK] = 2.0
    table[:, Feature.RARITY] = 3.0 * rare
    for marker, feature, angle in (
        ("<Instruct>:", Feature.MARK_INSTRUCT, 0.6),
        ("<Query>:", Feature.MARK_QUERY, 0.8),
        ("<Document>:", Feature.MARK_DOCUMENT, 0.98),
    ):
        place = tokenizer.convert_tokens_to_ids(marker)
        table[place, feature] = 4.0
        table[place, Feature.MARK] = 4.0 * angle
        table[place, Feature.NO_MARK] = 4.0 * (1 - angle**2) ** 0.5
    table[tokenizer.convert_tokens_to_ids("<|im_start|>"), Feature.OPENING] = 6.0
    for answer, sign in (("yes", 1.0), ("no", -1.0)):
        table[tokenizer.encode(answer, add_special_tokens=False)[0], Feature.ANSWER] = sign * 2.0
    return table


def initialise(
    tokenizer: PreTrainedTokenizerBase,
    rare: torch.Tensor,
    shape: Shape = Shape(),  # noqa: B008 - frozen
    seed: int = 0,
    scales: Scales = Scales(),
) -> Qwen3ForCausalLM:
    """Build the network.

    Args:
        tokenizer: The tokenizer.
        rare: (vocabulary,) rarity of each token.
        shape: Size.
        seed: For what is random.
        scales: Sizes.

    Returns:
        The network in float32.
    """
    generator = torch.Generator().manual_seed(seed)
    config = qwen3_config(shape, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    model = Qwen3ForCausalLM(config).float()
    width = shape.hidden_size
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:  # noqa: PLR2004 - matrices
                size = parameter.shape[1] ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
        model.model.embed_tokens.weight.copy_(embeddings(tokenizer, rare, width, generator))
        for number, layer in enumerate(model.model.layers):
            # What is written at random begins small beside what is there.
            layer.self_attn.o_proj.weight.mul_(scales.noise * 4)
            layer.mlp.down_proj.weight.mul_(scales.noise * 4)
            layer.self_attn.o_proj.weight[:FEATURES] = 0
            layer.mlp.down_proj.weight[:FEATURES] = 0
            _wire(layer, number, shape, scales, generator)
        model.model.norm.weight.fill_(scales.final_norm)
    return model


def _wire(layer: Any, number: int, shape: Shape, scales: Scales, generator: torch.Generator) -> None:
    attention = layer.self_attn
    attention.q_norm.weight.fill_(scales.match_sharpness**0.5 * 1.0)
    attention.k_norm.weight.fill_(scales.match_sharpness**0.5 * 1.0)
    if number == 0:
        attention.q_norm.weight[[30, 31]] = 2.0
        attention.k_norm.weight[[30, 31]] = 2.0
        _part_head(attention, 0, shape)
        _neighbour_head(attention, 1, 1, shape)
        _neighbour_head(attention, 2, 2, shape)
        _match_head(attention, 3, shape, generator, aim=False, scales=scales)
        _rarity_neurons(layer.mlp)
    elif number < shape.num_hidden_layers - 1:
        matching = shape.num_attention_heads if number == 1 else shape.num_attention_heads // 2
        for head in range(matching):
            _match_head(attention, head, shape, generator, aim=True, scales=scales)
        if number > 1:
            _sum_head(attention, shape.num_attention_heads - 1, shape, scales)
    else:
        _sum_head(attention, 0, shape, scales)
        _sum_head(attention, 1, shape, scales)
        # The answer grows with what was found.
        layer.mlp.gate_proj.weight[0] = 0
        layer.mlp.gate_proj.weight[0, Feature.CONST] = 1.0
        layer.mlp.up_proj.weight[0] = 0
        layer.mlp.up_proj.weight[0, Feature.SUM] = 1.0
        layer.mlp.down_proj.weight[:, 0] = 0
        layer.mlp.down_proj.weight[Feature.ANSWER, 0] = scales.answer


def _rows(head: int, shape: Shape) -> slice:
    return slice(head * shape.head_dim, (head + 1) * shape.head_dim)


def _part_head(attention: Any, head: int, shape: Shape) -> None:
    """Look for the last marker before a token; the slowest rotary pair does not turn over a prompt."""
    rows, slow = _rows(head, shape), shape.head_dim // 2 - 1
    for matrix in (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight):
        matrix[rows] = 0
    attention.q_proj.weight[rows.start + slow, Feature.CONST] = 1.0
    attention.k_proj.weight[rows.start + slow, Feature.MARK] = 1.0
    attention.k_proj.weight[rows.start + slow - 1, Feature.NO_MARK] = 1.0
    attention.o_proj.weight[:, rows] = 0
    for place, (marker, part) in enumerate(
        (
            (Feature.MARK_INSTRUCT, Feature.IN_INSTRUCT),
            (Feature.MARK_QUERY, Feature.IN_QUERY),
            (Feature.MARK_DOCUMENT, Feature.IN_DOCUMENT),
        )
    ):
        attention.v_proj.weight[rows.start + place, marker] = 1.0
        attention.o_proj.weight[part, rows.start + place] = 1.0


def _neighbour_head(attention: Any, head: int, distance: int, shape: Shape) -> None:
    """Look at the token so many places before, by the fast rotary pairs."""
    rows, half = _rows(head, shape), shape.head_dim // 2
    attention.q_proj.weight[rows] = 0
    attention.k_proj.weight[rows] = 0
    theta = 100_000_000.0
    for pair in range(half // 3):
        turn = distance * theta ** (-pair / half)
        attention.k_proj.weight[rows.start + pair, Feature.CONST] = 1.0
        # A query turned back by the distance's angle agrees best with the key that far before it.
        attention.q_proj.weight[rows.start + pair, Feature.CONST] = math.cos(turn)
        attention.q_proj.weight[rows.start + half + pair, Feature.CONST] = -math.sin(turn)


def _match_head(
    attention: Any, head: int, shape: Shape, generator: torch.Generator, *, aim: bool, scales: Scales
) -> None:
    """Find similar tokens at any distance; with `aim`, in the query rather than elsewhere."""
    rows, half = _rows(head, shape), shape.head_dim // 2
    free = [pair + side for side in (0, half) for pair in range(12, half)]
    width = shape.hidden_size - FEATURES
    basis, _ = torch.linalg.qr(torch.randn(width, len(free), generator=generator))
    for matrix in (attention.q_proj.weight, attention.k_proj.weight):
        matrix[rows] = 0
        matrix[[rows.start + one for one in free], FEATURES:] = basis.T
    if not aim:
        return
    slow = rows.start + half - 1
    for matrix in (attention.q_proj.weight, attention.k_proj.weight):
        matrix[[slow, slow + half]] = 0
    attention.q_proj.weight[slow, Feature.IN_DOCUMENT] = 1.0
    attention.k_proj.weight[slow, Feature.IN_QUERY] = 0.8
    attention.k_proj.weight[slow, Feature.OPENING] = scales.match_opening * 4
    attention.v_proj.weight[rows.start : rows.start + 2] = 0
    attention.v_proj.weight[rows.start, Feature.QUERY_RARITY] = 1.0
    attention.v_proj.weight[rows.start + 1, Feature.IN_QUERY] = 1.0
    attention.o_proj.weight[:, rows.start : rows.start + 2] = 0
    attention.o_proj.weight[Feature.FOUND, rows.start] = 0.5
    attention.o_proj.weight[Feature.FOUND_SHARE, rows.start + 1] = 0.25


def _rarity_neurons(mlp: Any) -> None:
    """One neuron multiplies rarity by standing in the query."""
    mlp.gate_proj.weight[0] = 0
    mlp.up_proj.weight[0] = 0
    mlp.gate_proj.weight[0, Feature.IN_QUERY] = 1.5
    mlp.up_proj.weight[0, Feature.RARITY] = 1.0
    mlp.down_proj.weight[:, 0] = 0
    mlp.down_proj.weight[Feature.QUERY_RARITY, 0] = 0.5


def _sum_head(attention: Any, head: int, shape: Shape, scales: Scales) -> None:
    """Add up what the document's tokens found; the opening marker takes the rest, so it is a sum, not a mean."""
    rows, slow = _rows(head, shape), shape.head_dim // 2 - 1
    for matrix in (attention.q_proj.weight, attention.k_proj.weight):
        matrix[rows] = 0
    attention.q_proj.weight[rows.start + slow, Feature.CONST] = 1.0
    attention.k_proj.weight[rows.start + slow, Feature.FOUND] = 1.0
    attention.k_proj.weight[rows.start + slow, Feature.OPENING] = scales.sum_opening
    attention.k_proj.weight[rows.start + slow - 1, Feature.CONST] = 1.5
    attention.v_proj.weight[rows.start] = 0
    attention.v_proj.weight[rows.start, Feature.FOUND] = 1.0
    attention.o_proj.weight[:, rows.start] = 0
    attention.o_proj.weight[Feature.SUM, rows.start] = 4.0
