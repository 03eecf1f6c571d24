"""The experts' product: rows sorted by expert, each group times its own matrix, in one launch.

R rows, E experts, N outputs, K inputs. Only experts with rows are read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from doran.gpu.dot import INTERPRETED, dot


def reference(x_RK: Tensor, weight_ENK: Tensor, offsets: Tensor) -> Tensor:
    """The same, expert by expert, in fp32: rows offsets[e] to offsets[e + 1] meet matrix e."""
    bounds, x, w = offsets.tolist(), x_RK.float(), weight_ENK.float()
    parts = [x[a:b] @ w[e].T for e, (a, b) in enumerate(zip(bounds, bounds[1:], strict=False))]
    return torch.cat(parts).to(x_RK.dtype)


def grouped_matmul(x_RK: Tensor, weight_ENK: Tensor, offsets: Tensor) -> Tensor:
    """bf16 or fp32, contiguous; `offsets` int (E + 1,) from 0 to R -> (R, N) in x's dtype. Sums are fp32.

    The tiles are planned on the host: each is rows of one expert.
    """
    (rows, k), n = x_RK.shape, weight_ENK.shape[1]
    assert weight_ENK.shape[2] == k and x_RK.is_contiguous() and weight_ENK.is_contiguous()
    y_RN = torch.empty(rows, n, dtype=x_RK.dtype, device=x_RK.device)
    bounds, height = offsets.tolist(), 16 if rows <= 16 * len(weight_ENK) else 64
    assert bounds[0] == 0 and bounds[-1] == rows and len(bounds) == len(weight_ENK) + 1
    pairs = enumerate(zip(bounds, bounds[1:], strict=False))
    tiles = [(e, start, end) for e, (a, end) in pairs for start in range(a, end, height)]
    if tiles:
        plan = torch.tensor(tiles, dtype=torch.int32, device=x_RK.device)
        _kernel[(len(tiles), triton.cdiv(n, 64))](x_RK, weight_ENK, plan, y_RN, n, k, height, 64, 64, INTERPRETED)
    return y_RN


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    x, w, plan, y, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, UPCAST: tl.constexpr
):  # fmt: skip
    tile = plan + 3 * tl.program_id(0)
    expert, start, end = tl.load(tile).to(tl.int64), tl.load(tile + 1), tl.load(tile + 2)
    m = start + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for block in range(0, tl.cdiv(K, BK)):
        k = block * BK + tl.arange(0, BK)
        a = tl.load(x + m[:, None] * K + k[None, :], mask=(m[:, None] < end) & (k[None, :] < K), other=0.0)
        at = expert * N * K + n[None, :] * K + k[:, None]
        b = tl.load(w + at, mask=(n[None, :] < N) & (k[:, None] < K), other=0.0)
        acc += dot(a, b, UPCAST)
    tl.store(y + m[:, None] * N + n[None, :], acc.to(y.dtype.element_ty), mask=(m[:, None] < end) & (n[None, :] < N))
