"""FP8 blocks: error bounds, shapes, exact maxima."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from doran.formats.fp8 import dequantize, expand, quantize, scale_shape


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), block=st.sampled_from([(1, 128), (128, 128)]))
def test_a_round_trip_loses_at_most_one_sixteenth_of_each_normal_element(seed: int, block: tuple[int, int]) -> None:
    x = torch.randn(130, 200, generator=torch.Generator().manual_seed(seed))
    small, scale = quantize(x, block)
    back = dequantize(small, scale, block)
    stretched = scale.repeat_interleave(block[0], 0)[:130].repeat_interleave(block[1], 1)[:, :200]
    normal = x.abs() >= stretched * 2**-6  # below E4M3's smallest normal number the error is absolute
    assert ((back - x).abs()[normal] <= x.abs()[normal] * 2**-4).all()  # r1-facts 8.11


def test_the_largest_value_of_a_block_is_exact() -> None:
    x = torch.randn(128, 256)
    back = dequantize(*quantize(x))
    for columns in (slice(0, 128), slice(128, 256)):
        at = x[:, columns].abs().argmax()
        assert back[:, columns].flatten()[at] == pytest.approx(x[:, columns].flatten()[at].item(), rel=1e-6)


def test_the_scale_of_kv_a_has_5_by_56_blocks() -> None:
    assert scale_shape((576, 7168)) == (5, 56)  # r1-facts 8.12
    _, scale = quantize(torch.zeros(576, 256))
    assert scale.shape == (5, 2)


def test_zeros_stay_zeros_and_scales_stay_finite() -> None:
    small, scale = quantize(torch.zeros(10, 10))
    assert scale.isfinite().all() and (dequantize(small, scale) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [(128, 128), (16, 24)])
def test_the_fast_expansion_has_the_bits_of_the_slow_one(dtype: torch.dtype, block: tuple[int, int]) -> None:
    codes = torch.arange(256).repeat(150 * 200 // 256 + 1)[: 150 * 200].view(150, 200).to(torch.uint8)
    codes[(codes & 127) == 127] = 0  # NaN
    scale = torch.rand(scale_shape((150, 200), block)) * 1e-3
    weight = codes.view(torch.float8_e4m3fn)
    assert torch.equal(expand(weight, scale, dtype, block), dequantize(weight, scale, block).to(dtype))
    huge = scale * 1e6
    assert torch.equal(expand(weight, huge, dtype, block), dequantize(weight, huge, block).to(dtype))
