"""Quantised matrices: storage round trips, the error of rounding, and GGUF blocks against the `gguf` package."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doran.base.errors import NumericsError
from doran.formats import gguf_blocks
from doran.formats.quant import concatenate, pack_nibbles, quantize, round_activations, unpack_nibbles

WEIGHT = torch.randn(24, 512, generator=torch.Generator().manual_seed(1)) * 0.05


def error(kind: str) -> float:
    """Root mean square error over the weights' own."""
    back = (
        gguf_blocks.dequantize(kind, gguf_blocks.quantize(kind, WEIGHT))
        if kind in gguf_blocks.KINDS
        else quantize(WEIGHT, kind).dequantize()
    )
    return float((back - WEIGHT).square().mean().sqrt() / WEIGHT.square().mean().sqrt())


@pytest.mark.parametrize(
    ("kind", "most"),
    [("int8", 0.007), ("q8_0", 0.007), ("int4", 0.09), ("q4_0", 0.1), ("q4_k", 0.085), ("q6_k", 0.025)],
)
def test_the_rounding_error_is_what_the_bits_allow(kind: str, most: float) -> None:
    assert error(kind) < most


def test_int4_search_beats_plain_rounding() -> None:
    assert error("int4") < error("q4_0")


@given(rows=st.integers(1, 5), groups=st.integers(1, 4), seed=st.integers(0, 20))
def test_nibbles_round_trip(rows: int, groups: int, seed: int) -> None:
    codes = torch.randint(0, 16, (rows, groups * 32), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    assert torch.equal(unpack_nibbles(pack_nibbles(codes)), codes.to(torch.int8))


def test_rows_and_concatenate_are_the_matrix_cut_and_joined() -> None:
    for kind in ("int8", "int4"):
        whole = quantize(WEIGHT, kind)
        again = concatenate([whole.rows(slice(0, 5)), whole.rows(slice(5, 24))])
        assert torch.equal(again.dequantize(), whole.dequantize())
        assert torch.equal(whole.rows(torch.tensor([7, 3])).dequantize(), whole.dequantize()[[7, 3]])


def test_zeros_and_single_values_are_exact() -> None:
    weight = torch.zeros(2, 32)
    weight[1, 3] = -0.75
    for kind in ("int8", "int4"):
        assert (quantize(weight, kind).dequantize() - weight).abs().max() < 5e-4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e9])
def test_numbers_that_no_scale_holds_are_refused(bad: float) -> None:
    weight = torch.ones(2, 32)
    weight[1, 1] = bad
    for kind in ("int8", "int4"):
        with pytest.raises(NumericsError):
            quantize(weight, kind)


def test_rounded_activations_are_near_the_real_ones() -> None:
    x = torch.randn(3, 64)
    assert (round_activations(x) - x).abs().max() <= x.abs().max() / 254 + 1e-6


@pytest.mark.parametrize("kind", list(gguf_blocks.KINDS))
def test_blocks_mean_what_the_gguf_package_says(kind: str) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    quants = pytest.importorskip("gguf.quants")
    rows = gguf_blocks.quantize(kind, WEIGHT)
    theirs = quants.dequantize(rows.numpy(), gguf.GGMLQuantizationType[kind.upper()])
    assert np.allclose(theirs, gguf_blocks.dequantize(kind, rows).numpy(), atol=1e-6)
    if kind in ("q8_0", "q4_0"):
        assert np.array_equal(rows.numpy(), quants.quantize(WEIGHT.numpy(), gguf.GGMLQuantizationType[kind.upper()]))
