"""FP8 blocks: error bounds, shapes, exact maxima."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from doran.formats.fp8 import dequantize, quantize, scale_shape


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
