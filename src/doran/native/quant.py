"""Products with packed weights: the layout (quant.h) made once from what a file stores, then used by address.

Not a format: what codes mean is formats/quant.py's business. Only CPU, only where the kernels are built (`available`);
elsewhere models hold dequantised weights and nothing here is called. No gradients.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from doran.native.build import library

SOURCES = ("int8", "int4", "q8_0", "q4_0", "q4_k", "q6_k")  # the order is quant_pack.cpp's
LAYOUTS = {"int8": 0, "q8_0": 0, "int4": 1, "q4_0": 1, "q4_k": 2, "q6_k": 3}
PANEL = 16  # rows a panel, as in quant.h
ISAS = {"best": 0, "scalar": 1, "avx2": 2, "avx512": 3}


@dataclass(frozen=True)
class Packed:
    """One matrix (N, K), or G of the same shape and kind: `data` is uint8 (G, bytes)."""

    layout: int
    rows: int
    columns: int
    data: Tensor

    @property
    def num_bytes(self) -> int:
        """What a product with one row of each matrix reads."""
        return self.data.numel()


def available() -> bool:
    """Are the kernels built and loaded?"""
    return library() is not None


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _call(name: str, *args: Tensor | int | None) -> int:
    function = getattr(library(), name)
    function.restype = ctypes.c_int64
    made = [ctypes.c_int64(arg) if isinstance(arg, int) else _pointer(arg) for arg in args]
    return int(function(*made))


def pack(kind: str, matrices: list[tuple[Tensor, Tensor | None]], columns: int) -> Packed:
    """`matrices`: (codes (N, bytes of a row), scales fp16 (N, K / 32) or None) of each, all of one shape."""
    rows = len(matrices[0][0])
    total = _call("qpacked_bytes", LAYOUTS[kind], rows, columns)
    if total < 0:
        raise ValueError(f"a matrix ({rows}, {columns}) cannot be packed as {kind}")
    data = torch.empty(len(matrices), total, dtype=torch.uint8)
    for place, (codes, scale) in zip(data, matrices, strict=True):
        codes = codes.contiguous()
        scale = None if scale is None else scale.contiguous()
        status = _call("qpack", SOURCES.index(kind), codes, scale, rows, columns, place)
        assert status == 0 and len(codes) == rows, status
    return Packed(LAYOUTS[kind], rows, columns, data)


def matmul(
    x_MK: Tensor, weight: Packed, bias_N: Tensor | None = None, offsets: Tensor | None = None, isa: str = "best"
) -> Tensor:
    """x W^T + bias -> (M, N) in x's dtype, fp32 or bf16. `offsets` int64 (G + 1,): rows offsets[g] to offsets[g + 1]
    meet matrix g. Each row's result depends on that row alone, whatever the threads and the instruction set."""
    if x_MK.dtype not in (torch.float32, torch.bfloat16):
        x_MK = x_MK.float()
    x = x_MK if x_MK.stride(-1) == 1 and x_MK.stride(0) >= weight.columns else x_MK.contiguous()
    y = torch.empty(len(x), weight.rows, dtype=x.dtype)
    low, groups = int(x.dtype == torch.bfloat16), len(weight.data)
    assert x.shape[1] == weight.columns and (groups == 1 or offsets is not None)
    status = _call(
        "qmatmul", weight.layout, ISAS[isa], x, low, max(x.stride(0), weight.columns), len(x), weight.columns,
        weight.data, weight.rows, offsets, groups, bias_N, y, low, weight.rows,
    )  # fmt: skip
    if status != 0:
        raise ValueError(f"qmatmul refused its arguments ({status})")
    return y
