"""Weights moved into one block: the same values, nothing held twice, packed matrices follow."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from doran.engine.settle import settle
from doran.formats.quant import quantize
from doran.layers.linear import QuantLinear, pack
from doran.native import quant

pytestmark = pytest.mark.skipif(not quant.available(), reason="no C++ compiler on this machine")


def test_copies_are_equal_and_lie_in_one_block_in_order() -> None:
    given = [torch.randn(3, 5), None, torch.arange(7), torch.randn(100).bfloat16()]
    settled = settle(given, nn.Module())
    assert settled[1] is None
    found = [t for t in settled if t is not None]
    for a, b in zip([t for t in given if t is not None], found, strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype
    places = [t.data_ptr() for t in found]
    assert places[0] % (1 << 21) == 0 and places == [places[0], places[0] + 64, places[0] + 128]


def test_packed_matrices_of_the_holders_become_parts_of_the_copy() -> None:
    matrices = [quantize(torch.randn(32, 64, generator=torch.Generator().manual_seed(i)), "int4") for i in range(2)]
    fused = torch.cat([pack(m).data for m in matrices], 1)
    half = fused.shape[1] // 2
    layer = nn.ModuleList(
        QuantLinear(quant.Packed(pack(m).layout, 32, 64, fused[:, i * half : (i + 1) * half]))
        for i, m in enumerate(matrices)
    )
    x, old = torch.randn(5, 64), weakref.ref(fused)
    before = [linear(x) for linear in layer]
    [copy] = settle([fused], layer)
    assert copy is not None
    del fused
    gc.collect()
    assert old() is None
    for i, (linear, y) in enumerate(zip(layer, before, strict=True)):
        assert torch.equal(linear(x), y)
        assert linear.packed.data.data_ptr() == copy.data_ptr() + i * half
