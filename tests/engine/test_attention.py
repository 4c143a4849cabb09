"""Attention on a packed row against plain attention on each prompt alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from rerank_eval.engine import attention, varlen
from rerank_eval.engine.attention import segment_attention
from rerank_eval.engine.errors import EngineError
from rerank_eval.engine.kernels import cpu_flash
from rerank_eval.engine.layout import GroupLayout, PackLayout, Segment, runs_as_square
from rerank_eval.engine.packing import plan_packs
from rerank_eval.engine.varlen import packed_attention, prepare_row


def row(layout: PackLayout, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(7)
    shapes = [(1, layout.tokens, count, head_dim) for count in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=generator).to(dtype).transpose(1, 2) for shape in shapes]


def one_by_one(query, key, value, layout, scale):
    """Each prompt's rows picked out of the pack, attended to in float32 with softmax written out."""
    out = torch.full((1, layout.useful, query.shape[1], query.shape[3]), float("nan"))
    group = query.shape[1] // key.shape[1]
    for segment in layout.documents():
        rows = [row for start, end in segment.ancestors for row in range(start, end)]
        rows += range(segment.start, segment.end)
        q, k, v = (tensor[0][:, rows].float() for tensor in (query, key, value))
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        future = torch.ones(len(rows), len(rows), dtype=torch.bool).triu(1)
        weights = (q @ k.transpose(1, 2) * scale).masked_fill(future, float("-inf")).softmax(-1)
        out[0, rows] = (weights @ v).transpose(0, 1)
    return out


def attend(way, tensors, layout, scale, only_last=False):
    query, key, value = tensors
    if way == "segments":
        return segment_attention(query, key, value, layout, scale, only_last=only_last)
    prepared = prepare_row(layout, torch.device("cpu"), way)
    return packed_attention(query, key, value, prepared.offsets, prepared.numbers, scale, way, only_last)


LAYOUTS = {
    "one document, no prefix": PackLayout.single(0, [9]),
    "texts without prefix": PackLayout.single(0, [40, 12, 12, 1]),
    "prefix of one": PackLayout.single(1, [40, 12, 1]),
    "prefix": PackLayout.single(37, [40, 12, 12, 1]),
    "long": PackLayout.single(37, [1100, 30]),
    "groups": PackLayout((GroupLayout(5, (7, 3)), GroupLayout(40, (1,)), GroupLayout(2, (60, 60, 9))), filler=11),
    "shared root": PackLayout((GroupLayout(5, (7, 3), 0), GroupLayout(40, (1, 30), 0)), roots=(33,), filler=2),
    "long query": PackLayout((GroupLayout(1200, (7, 30), 0),), roots=(33,)),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("shape", [(4, 2, 32), (4, 4, 20), (6, 1, 64), (4, 2, 128)])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("way", ["segments", "cpu_flash"])
def test_each_document_sees_prefix_and_itself(way, layout, shape, dtype, tolerance):
    query, key, value = row(layout, *shape, dtype)
    found = attend(way, (query, key, value), layout, 0.3)
    assert found.shape == (1, layout.tokens, shape[0], shape[2])
    assert found.dtype == dtype
    expected = one_by_one(query, key, value, layout, 0.3)
    torch.testing.assert_close(found[:, : layout.useful].float(), expected, atol=tolerance, rtol=tolerance)
    last = attend(way, (query, key, value), layout, 0.3, only_last=True)[:, layout.last_positions]
    torch.testing.assert_close(last.float(), expected[:, layout.last_positions], atol=tolerance, rtol=tolerance)


def test_two_roots_go_by_segment():
    groups = (GroupLayout(5, (7, 3), 0), GroupLayout(3, (2,), 0), GroupLayout(4, (1, 30), 1))
    layout = PackLayout(groups, roots=(33, 8))
    query, key, value = row(layout, 4, 2, 32, torch.float32)
    found = attend("segments", (query, key, value), layout, 0.3)
    torch.testing.assert_close(found, one_by_one(query, key, value, layout, 0.3), atol=1e-5, rtol=1e-5)
    with pytest.raises(EngineError, match="one root that all groups share"):
        prepare_row(layout, torch.device("cpu"), "cpu_flash")


@pytest.mark.parametrize("lengths", [(40, 9, 4), (1100, 30)])
def test_the_alignment_that_gpus_offer_gives_the_same(lengths):
    layout = PackLayout.single(25, lengths)
    query, key, value = row(layout, 4, 2, 32, torch.float32)
    for segment in layout.documents():
        keys, values = (attention._seen(tensor, segment) for tensor in (key, value))
        own = query[:, :, segment.start : segment.end]
        bias = causal_lower_right(segment.own, keys.shape[2])
        expected = attention._sdpa(own, keys, values, 0.2, attn_mask=bias)
        found = attention._attend(query, keys, values, segment=segment, layout=layout, scale=0.2)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)


def test_a_documents_attention_does_not_depend_on_its_neighbours():
    alone, together = PackLayout.single(20, (17,)), PackLayout.single(20, (60, 17, 5))
    query, key, value = row(together, 4, 2, 32, torch.float32)
    rows = [*range(20), *range(80, 97)]
    packed = segment_attention(query, key, value, together, 0.2)[:, 80:97]
    single = segment_attention(*(t[:, :, rows] for t in (query, key, value)), alone, 0.2)[:, 20:]
    assert torch.equal(packed, single)


def test_the_square_is_taken_for_long_documents_only():
    assert runs_as_square(100, 1024)
    assert not runs_as_square(100, 1023)
    assert not runs_as_square(600, 1024)
    assert runs_as_square(100, 3)  # a call with so few queries of its own would depend on the number of threads


def test_layout():
    layout = PackLayout((GroupLayout(3, (2, 1), 0), GroupLayout(1, (2,), 0)), roots=(2,), filler=2)
    assert (layout.root_rows, layout.prefix_rows, layout.useful, layout.tokens) == (2, 6, 11, 13)
    assert layout.position_ids.tolist() == [0, 1, 2, 3, 4, 2, 5, 6, 5, 3, 4, 0, 1]
    assert layout.last_positions == [7, 8, 10]
    assert layout.kept_rows == [7, 8] + [10] * 30
    assert list(layout.documents()) == [
        Segment(((0, 2), (2, 5)), 6, 8),
        Segment(((0, 2), (2, 5)), 8, 9),
        Segment(((0, 2), (5, 6)), 9, 11),
    ]
    assert list(layout.shared_segments()) == [Segment((), 0, 2), Segment(((0, 2),), 2, 5), Segment(((0, 2),), 5, 6)]


def test_a_row_of_groups_with_and_without_prefix_is_refused():
    layout = PackLayout((GroupLayout(3, (2,)), GroupLayout(0, (2,))))
    with pytest.raises(EngineError, match="must not mix"):
        prepare_row(layout, torch.device("cpu"), "cpu_flash")


@pytest.mark.parametrize("heads", [(4, 2, 32), (16, 8, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_probe_passes_a_right_kernel(heads, dtype):
    assert varlen.probe("cpu_flash", torch.device("cpu"), dtype, heads) <= varlen.PROBE_TOLERANCE


def test_the_probe_catches_wrong_kernels(monkeypatch):
    """What a new release may get wrong: the log-sum-exp's base, its orientation, or the mask's alignment."""

    def base_two(*args, **kwargs):
        out, lse = cpu_flash.attend(*args, **kwargs)
        return out, lse / math.log(2)

    def never_causal(*args, causal, **kwargs):
        return cpu_flash.attend(*args, causal=False, **kwargs)

    def unscaled(*args, scale, **kwargs):
        return cpu_flash.attend(*args, scale=1.0, **kwargs)

    for wrong in (base_two, never_causal, unscaled):
        monkeypatch.setattr(varlen, "get_kernel", lambda _, wrong=wrong: wrong)
        assert varlen.probe("any", torch.device("cpu"), torch.bfloat16, (4, 2, 32)) > 2 * varlen.PROBE_TOLERANCE


def test_no_variable_length_kernel_is_chosen_where_none_runs():
    name, reason = varlen.choose_kernel(torch.device("cpu"), torch.bfloat16, (4, 2, 32))
    assert name is None
    assert "CUDA" in reason


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
    layout = PackLayout.single(0, (6,))
    query, key, value = row(layout, 2, 2, 16, torch.float32)
    found, weights = attention.packed_attention_forward(
        torch.nn.Identity(), query, key, value, None, pack_layout=layout
    )
    expected = scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    assert weights is None
