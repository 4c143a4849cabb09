"""Attention on a packed row against plain attention on each prompt alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from rerank_eval.engine import attention
from rerank_eval.engine.attention import PackLayout, runs_as_square, segment_attention
from rerank_eval.engine.packed import plan_packs


def row(layout: PackLayout, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(7)
    shapes = [(1, layout.tokens, count, head_dim) for count in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=generator).to(dtype).transpose(1, 2) for shape in shapes]


def one_by_one(query, key, value, layout, scale):
    """Each prompt's rows picked out of the pack, attended to in float32 with softmax written out."""
    out = torch.full((1, layout.tokens, query.shape[1], query.shape[3]), float("nan"))
    group = query.shape[1] // key.shape[1]
    for start, end in layout.segments():
        rows = [*range(layout.prefix), *range(start, end)]
        q, k, v = (tensor[0][:, rows].float() for tensor in (query, key, value))
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        future = torch.ones(len(rows), len(rows), dtype=torch.bool).triu(1)
        weights = (q @ k.transpose(1, 2) * scale).masked_fill(future, float("-inf")).softmax(-1)
        out[0, rows] = (weights @ v).transpose(0, 1)
    return out


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("shape", [(4, 2, 32), (4, 4, 20), (6, 1, 64)])
@pytest.mark.parametrize("lengths", [(9,), (40, 12, 12, 1), (1100, 30)])
@pytest.mark.parametrize("prefix", [0, 1, 37])
def test_each_document_sees_prefix_and_itself(prefix, lengths, shape, dtype, tolerance):
    layout = PackLayout(prefix, lengths)
    query, key, value = row(layout, *shape, dtype)
    found = segment_attention(query, key, value, layout, 0.3)
    assert found.shape == (1, layout.tokens, shape[0], shape[2])
    assert found.dtype == dtype
    expected = one_by_one(query, key, value, layout, 0.3)
    torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("lengths", [(40, 3, 1), (1100, 30)])
def test_the_gpu_kernels_call_gives_the_same(lengths):
    layout = PackLayout(25, lengths)
    query, key, value = row(layout, 4, 2, 32, torch.float32)
    for start, end in layout.segments():
        keys, values = (torch.cat([t[:, :, :25], t[:, :, start:end]], dim=2) for t in (key, value))
        calls = [
            attend(query[:, :, :25], query[:, :, start:end], keys, values, layout=layout, scale=0.2)
            for attend in (attention._attend_on_cpu, attention._attend_bottom_right)
        ]
        torch.testing.assert_close(*calls, atol=2e-6, rtol=2e-6)


def test_a_documents_attention_does_not_depend_on_its_neighbours():
    alone, together = PackLayout(20, (17,)), PackLayout(20, (60, 17, 5))
    query, key, value = row(together, 4, 2, 32, torch.float32)
    rows = [*range(20), *range(80, 97)]
    packed = segment_attention(query, key, value, together, 0.2)[:, 80:97]
    single = segment_attention(*(t[:, :, rows] for t in (query, key, value)), alone, 0.2)[:, 20:]
    assert torch.equal(packed, single)


def test_the_square_is_taken_for_long_documents_only():
    assert runs_as_square(100, 1024)
    assert not runs_as_square(100, 1023)
    assert not runs_as_square(600, 1024)


def test_layout():
    layout = PackLayout(3, (2, 1))
    assert layout.tokens == 6
    assert layout.position_ids == [0, 1, 2, 3, 4, 3]
    assert layout.last_positions == [4, 5]
    assert list(layout.segments()) == [(3, 5), (5, 6)]


def test_packs_are_filled_longest_first_and_never_beyond_the_budget():
    assert plan_packs(10, [5, 20, 7, 20], 60) == [[1, 3, 2], [0]]
    assert plan_packs(10, [5, 5, 5], 1000) == [[0, 1, 2]]
    assert plan_packs(10, [50, 5, 60], 20) == [[2], [0], [1]]
    assert plan_packs(10, [], 20) == []


def test_registered_names_reach_transformers():
    name = attention.register()
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    assert ALL_ATTENTION_FUNCTIONS[name] is attention.packed_attention_forward
    assert ALL_MASK_ATTENTION_FUNCTIONS[name] is attention.no_mask


def test_scale_defaults_to_the_inverse_root_of_the_head_dimension():
    layout = PackLayout(0, (6,))
    query, key, value = row(layout, 2, 2, 16, torch.float32)
    found, weights = attention.packed_attention_forward(
        torch.nn.Identity(), query, key, value, None, pack_layout=layout
    )
    expected = scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    assert weights is None
