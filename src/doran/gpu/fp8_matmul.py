"""y = x W^T with W in FP8 blocks (DeepSeek-V3 s3.3): expanded in registers, never in memory. No FP8 arithmetic.

M rows, N outputs, K inputs; blocks of 128 x 128 weights share one fp32 scale, (ceil(N/128), ceil(K/128)).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from doran.gpu.dot import INTERPRETED, dot

BLOCK = 128


def reference(x_MK: Tensor, weight_NK: Tensor, scale: Tensor) -> Tensor:
    """The same by torch in fp32: (M, N) in x's dtype."""
    (n, k), stretched = weight_NK.shape, scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return (x_MK.float() @ (weight_NK.float() * stretched[:n, :k]).T).to(x_MK.dtype)


def fp8_matmul(x_MK: Tensor, weight_NK: Tensor, scale: Tensor) -> Tensor:
    """`x_MK` bf16 or fp32, `weight_NK` float8_e4m3fn, all contiguous -> (M, N) in x's dtype. Sums are fp32."""
    (m, k), n = x_MK.shape, len(weight_NK)
    assert weight_NK.shape == (n, k) and scale.shape == (-(-n // BLOCK), -(-k // BLOCK))
    assert x_MK.is_contiguous() and weight_NK.is_contiguous() and scale.is_contiguous()
    y_MN = torch.empty(m, n, dtype=x_MK.dtype, device=x_MK.device)
    rows = 16 if m <= 16 else 64
    grid = (triton.cdiv(m, rows), triton.cdiv(n, 64))
    _kernel[grid](x_MK, weight_NK, scale, y_MN, m, n, k, scale.shape[1], rows, 64, BLOCK, INTERPRETED)
    return y_MN


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    x, w, s, y, M, N, K, scale_stride, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for block in range(0, tl.cdiv(K, BK)):
        k = block * BK + tl.arange(0, BK)
        a = tl.load(x + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        b = tl.load(w + n[None, :] * K + k[:, None], mask=(n[None, :] < N) & (k[:, None] < K), other=0.0)
        scale = tl.load(s + (n // BK) * scale_stride + block, mask=n < N, other=0.0)
        acc += dot(a, b.to(tl.float32).to(a.dtype), UPCAST) * scale[None, :]  # E4M3 fits in bf16
    tl.store(y + m[:, None] * N + n[None, :], acc.to(y.dtype.element_ty), mask=(m[:, None] < M) & (n[None, :] < N))
