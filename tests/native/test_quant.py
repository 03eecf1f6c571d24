"""Packed products: every layout and instruction set against dequantised weights; refusals of bad arguments."""

from __future__ import annotations

import ctypes

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from doran.formats import gguf_blocks
from doran.formats.quant import Stored, quantize, round_activations
from doran.native import quant
from doran.native.build import library

pytestmark = pytest.mark.skipif(not quant.available(), reason="no C++ compiler on this machine")
KINDS = quant.SOURCES


def stored(kind: str, rows: int, columns: int, seed: int = 0) -> Stored:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.1
    if kind in gguf_blocks.KINDS:
        return Stored(kind, gguf_blocks.quantize(kind, weight), columns)
    return quantize(weight, kind)


def packed(*matrices: Stored) -> quant.Packed:
    return quant.pack(matrices[0].kind, [(m.codes, m.scale) for m in matrices], matrices[0].columns)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 2e-5) -> None:
    assert (a.float() - b.float()).abs().max() <= tolerance * b.float().abs().max().clamp_min(1e-3)


@pytest.mark.parametrize("kind", KINDS)
@given(rows=st.integers(1, 70), groups=st.integers(1, 5), count=st.integers(1, 40), seed=st.integers(0, 9))
def test_products_equal_those_of_the_dequantised_matrix(
    kind: str, rows: int, groups: int, count: int, seed: int
) -> None:
    columns = groups * (256 if kind in ("q4_k", "q6_k") else 32)
    matrix = stored(kind, rows, columns, seed)
    x = torch.randn(count, columns, generator=torch.Generator().manual_seed(seed + 100))
    weight = packed(matrix)
    results = [quant.matmul(x, weight, isa=isa) for isa in ("best", "scalar", "avx2")]
    close(results[0], round_activations(x) @ matrix.dequantize().T)
    assert all(torch.equal(results[0], other) for other in results[1:])  # one arithmetic, whatever the processor


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_company(kind: str) -> None:
    weight, x = packed(stored(kind, 48, 512)), torch.randn(37, 512)
    together = quant.matmul(x, weight)
    for i in (0, 5, 36):
        assert torch.equal(together[i : i + 1], quant.matmul(x[i : i + 1], weight))
    assert torch.equal(together[3:20], quant.matmul(x[3:20], weight))


def test_grouped_rows_meet_their_own_matrix() -> None:
    matrices = [stored("int4", 40, 64, seed) for seed in range(4)]
    offsets, x = torch.tensor([0, 3, 3, 20, 21]), torch.randn(21, 64)
    y = quant.matmul(x, packed(*matrices), offsets=offsets)
    for g, (a, b) in enumerate(zip(offsets.tolist(), offsets.tolist()[1:], strict=False)):
        assert torch.equal(y[a:b], quant.matmul(x[a:b], packed(matrices[g])))


def test_bias_strided_rows_bf16_and_no_rows() -> None:
    matrix, bias = stored("int8", 33, 96), torch.randn(33)
    wide = torch.randn(7, 200)
    y = quant.matmul(wide[:, 50:146], packed(matrix), bias)
    close(y, round_activations(wide[:, 50:146]) @ matrix.dequantize().T + bias)
    low = wide[:, :96].bfloat16()
    z = quant.matmul(low, packed(matrix), bias)
    assert z.dtype == torch.bfloat16
    close(z, round_activations(low) @ matrix.dequantize().T + bias, 1e-2)
    assert quant.matmul(wide[:0, :96], packed(matrix)).shape == (0, 33)


def test_nan_and_infinity_stay_in_their_row() -> None:
    weight, x = packed(stored("int8", 20, 64)), torch.randn(3, 64)
    x[1, 5], good = float("nan"), x.clone()
    x[2, 40] = float("inf")
    y = quant.matmul(x, weight)
    assert y[0].isfinite().all() and not y[1].isfinite().any() and not y[2].isfinite().any()
    assert torch.equal(y[0], quant.matmul(good[:1], weight)[0])


@pytest.mark.parametrize(
    "change",
    [{"fmt": 9}, {"isa": -1}, {"k": 33}, {"k": -32}, {"k": 0}, {"n": 0}, {"m": -1}, {"ldx": 31}, {"ldy": 1},
     {"groups": 0}, {"groups": 2}, {"x": None}, {"y": None}, {"packed": None}, {"x": 1},
     {"y": 2}, {"m": 1 << 62}, {"k": 1 << 61}],
)  # fmt: skip
def test_bad_arguments_are_refused_untouched(change: dict[str, int | None]) -> None:
    x, weight = torch.randn(2, 32), packed(stored("int8", 16, 32))
    y = torch.full((2, 16), 7.0)
    args: dict[str, int | None] = {
        "fmt": 0, "isa": 0, "x": x.data_ptr(), "bf": 0, "ldx": 32, "m": 2, "k": 32,
        "packed": weight.data.data_ptr(), "n": 16, "offsets": None, "groups": 1,
        "bias": None, "y": y.data_ptr(), "ybf": 0, "ldy": 16,
    }  # fmt: skip
    moved = {name: (args[name] or 0) + by if name in "xy" and by else by for name, by in change.items()}
    pointers = ("x", "packed", "offsets", "bias", "y")
    values = [
        (ctypes.c_void_p if key in pointers else ctypes.c_int64)(value) for key, value in {**args, **moved}.items()
    ]
    function = library().qmatmul
    function.restype = ctypes.c_int64
    assert function(*values) < 0
    assert bool((y == 7).all())
