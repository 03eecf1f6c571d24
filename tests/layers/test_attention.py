"""Packed and cached attention against one dense mask, and MLA's two forms against each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from doran.arch import presets
from doran.arch.config import FAMILIES
from doran.layers.attention import CacheAttend, PackedAttend, absorbed, expand
from doran.layers.cache import make_cache
from doran.models.families import build


def _bounds(lengths: list[int]) -> list[int]:
    return [0, *torch.tensor(lengths).cumsum(0).tolist()]


def _positions(lengths: list[int]) -> Tensor:
    return torch.cat([torch.arange(n) for n in lengths])


def _dense(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scale: float) -> Tensor:
    """The reference: every score of all tokens, a block-diagonal causal mask, one softmax."""
    sequence = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    seen = (sequence[:, None] == sequence) & torch.ones(len(q), len(q)).tril().bool()
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = torch.einsum("thn,shn->hts", q, k) * scale
    return torch.einsum("hts,shv->thv", scores.masked_fill(~seen, float("-inf")).softmax(-1), v)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=7),
    kv_heads=st.sampled_from([1, 2, 4]),
    widths=st.sampled_from([(8, 8), (12, 8), (8, 12)]),
)
def test_packed_equals_a_dense_mask(lengths: list[int], kv_heads: int, widths: tuple[int, int]) -> None:
    torch.manual_seed(sum(lengths))
    total = sum(lengths)
    q, k = torch.randn(total, 4, widths[0]), torch.randn(total, kv_heads, widths[0])
    v = torch.randn(total, kv_heads, widths[1])
    out = PackedAttend(_bounds(lengths)).gqa(0, q, k, v, 0.3)
    assert torch.allclose(out, _dense(q, k, v, lengths, 0.3), atol=1e-5)


@pytest.mark.parametrize("lengths", [[20, 20, 20], [3, 40, 17, 1, 33]])
def test_packed_gradients_equal_a_dense_masks_and_repeat_bit_for_bit(lengths: list[int]) -> None:
    inputs = [torch.randn(sum(lengths), h, 8, requires_grad=True) for h in (4, 2, 2)]
    weight = torch.randn(sum(lengths), 4, 8)
    attend = PackedAttend(_bounds(lengths))
    ours = torch.autograd.grad((attend.gqa(0, *inputs, 0.3) * weight).sum(), inputs)
    again = torch.autograd.grad((attend.gqa(0, *inputs, 0.3) * weight).sum(), inputs)
    reference = torch.autograd.grad((_dense(*inputs, lengths, 0.3) * weight).sum(), inputs)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, reference))
    assert all(torch.equal(a, b) for a, b in zip(ours, again))


def test_padding_stays_below_a_quarter_and_buckets_are_few() -> None:
    lengths = list(range(1, 400))
    attend = PackedAttend(_bounds(lengths))
    padded = sum(n * longest for n, longest in attend.shapes)
    assert padded <= 1.25 * sum(lengths) and len(attend.shapes) <= 20


def test_wrong_bounds_are_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="cu_seqlens"):
        PackedAttend([0, 5, 5])


@pytest.mark.parametrize("heads", [2, 5])
def test_absorbed_equals_expanded(heads: int) -> None:  # r1-facts 8.6
    rows, length, nope, rope, rank, value = 3, 11, 8, 4, 16, 12
    q_nope, q_pe = torch.randn(rows, heads, nope), torch.randn(rows, heads, rope)
    latent, weight = torch.randn(rows, length, rank + rope), torch.randn(heads * (nope + value), rank)
    out = absorbed(q_nope, q_pe, latent, weight, 0.2, torch.zeros(rows, length))
    for row in range(rows):
        c, pe = latent[row].split((rank, rope), -1)
        many = torch.zeros(length, heads, nope), torch.zeros(length, heads, rope)
        _, k, v = expand(*many, c, pe, weight)
        q = torch.cat((q_nope[row], q_pe[row]), -1)
        p = (torch.einsum("hn,lhn->hl", q, k) * 0.2).softmax(-1)
        assert (out[row] - torch.einsum("hl,lhv->hv", p, v)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("family", "changes"), [*((family, {}) for family in FAMILIES), ("deepseek_v3", {"q_lora_rank": None})]
)
@torch.no_grad()
def test_prefill_continuing_and_decoding_equal_one_forward(family: str, changes: dict) -> None:
    config = presets.tiny(family, **changes)
    model = build(config)
    lengths, slots = [9, 14, 5], [2, 0, 1]
    tokens = [torch.randint(0, 96, (n,)) for n in lengths]
    whole = model(torch.cat(tokens), _positions(lengths), PackedAttend(_bounds(lengths))).split(lengths)
    cache = make_cache(config, 4, 20)
    first, more = [3, 4, 2], [4, 7, 2]  # then the rest, one token each

    def run(starts: list[int], sizes: list[int], attend: CacheAttend) -> tuple[Tensor, ...]:
        part = torch.cat([t[a : a + n] for t, a, n in zip(tokens, starts, sizes)])
        at = torch.cat([torch.arange(a, a + n) for a, n in zip(starts, sizes)])
        return model(part, at, attend).split(sizes)

    outs = [run([0, 0, 0], first, CacheAttend.prefill(cache, slots, _bounds(first)))]
    outs.append(run(first, more, CacheAttend.prefill(cache, slots, _bounds(more), past=first)))
    past = [a + b for a, b in zip(first, more)]
    outs.append(run(past, [1, 1, 1], CacheAttend.decode(cache, slots, past)))
    for index, (a, b, c) in enumerate(zip(*outs)):
        joined = torch.cat((a, b, c))
        assert (joined - whole[index][: len(joined)]).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen2"])
@torch.no_grad()
def test_slots_at_the_front_and_anywhere_agree(family: str) -> None:
    config = presets.tiny(family)
    model, cache = build(config), make_cache(config, 6, 12)
    tokens = torch.randint(0, 96, (8,))
    model(tokens, _positions([5, 3]), CacheAttend.prefill(cache, [0, 1], [0, 5, 8]))
    cache.move(0, 5)
    cache.move(1, 3)
    step = torch.tensor([7, 8]), torch.tensor([5, 3])
    front = model(*step, CacheAttend.decode(cache, [0, 1], [5, 3]))
    anywhere = model(*step, CacheAttend.decode(cache, [5, 3], [5, 3]))
    assert torch.allclose(front, anywhere, atol=1e-6)


def test_a_step_beyond_the_capacity_is_refused() -> None:
    cache = make_cache(presets.tiny(), 2, 8)
    with pytest.raises(ValueError, match="holds 8 tokens"):
        CacheAttend.decode(cache, [0], [8])
    with pytest.raises(ValueError, match="holds 8 tokens"):
        CacheAttend.prefill(cache, [0], [0, 9])


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3"])
@torch.no_grad()
def test_low_precision_decoding_stays_close_to_its_own_forward(family: str, autocast: bool) -> None:
    """fp32 weights under autocast with an fp32 cache, and bf16 weights with a bf16 cache."""
    config = presets.tiny(family, **({"first_k_dense_replace": 4} if family == "deepseek_v3" else {}))
    model = build(config, dtype=torch.float32 if autocast else torch.bfloat16)
    cache = make_cache(config, 2, 8, torch.float32 if autocast else torch.bfloat16)
    tokens, positions = torch.randint(0, 96, (10,)), _positions([6, 4])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        whole = model(tokens, positions, PackedAttend([0, 6, 10]))
        model(tokens, positions, CacheAttend.prefill(cache, [0, 1], [0, 6, 10]))
        last = model(tokens[[5, 9]], positions[[5, 9]], CacheAttend.decode(cache, [0, 1], [5, 3]))
    assert (last - whole[[5, 9]]).abs().max() < 0.05 * whole.abs().max()
