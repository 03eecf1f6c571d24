"""The packed layout made by strides: byte for byte what the C++ packing makes."""

from __future__ import annotations

import pytest
import torch

from doran.formats.quant import Stored, quantize
from doran.layers.linear import interleave
from doran.native import quant
from doran.native.repack import panels_of, repack

pytestmark = pytest.mark.skipif(not quant.available(), reason="the kernels are not built")


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (48, 64), (32, 224), (64, 96)])
def test_the_bytes_are_those_of_the_native_packing(kind: str, rows: int, columns: int) -> None:
    torch.manual_seed(rows + columns)
    gate, up = (quantize(torch.randn(rows, columns), kind) for _ in range(2))
    assert gate.scale is not None and up.scale is not None

    def packed(matrix: Stored) -> torch.Tensor:
        return quant.pack(kind, [(matrix.codes, matrix.scale)], columns).data[0]

    out = torch.full_like(packed(gate), 7)
    repack(kind, gate.codes, gate.scale, panels_of(kind, rows, columns, out))
    assert torch.equal(out, packed(gate))
    both = torch.full((2 * len(out),), 7, dtype=torch.uint8)
    panels = panels_of(kind, 2 * rows, columns, both)
    repack(kind, gate.codes, gate.scale, panels[0::2])
    repack(kind, up.codes, up.scale, panels[1::2])
    assert torch.equal(both, packed(interleave(gate, up)))
