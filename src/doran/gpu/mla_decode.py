"""Decoding with MLA in absorbed form over a paged latent cache (DeepSeek-V3 s2.1.1): an MQA of width C + R, one pass.

T sequences with one query each, H heads, C kv_lora_rank, R rotary width, pages of P tokens, B pages in all. The caller
has absorbed W_UK into the query and applies W_UV to the result.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from doran.gpu.dot import INTERPRETED, dot


def reference(q_THX: Tensor, pages_BPX: Tensor, table_Tb: Tensor, lengths_T: Tensor, rank: int, scale: float) -> Tensor:
    """The same, sequence by sequence, in fp32: softmax(scale q . [c; k_pe]) c -> (T, H, C) in q's dtype."""
    out = []
    for q_HX, table, length in zip(q_THX.float(), table_Tb, lengths_T.tolist(), strict=True):
        rows_LX = pages_BPX[table.long()].flatten(0, 1)[:length].float()
        out.append((q_HX @ rows_LX.T * scale).softmax(-1) @ rows_LX[:, :rank])
    return torch.stack(out).to(q_THX.dtype)


def mla_decode(
    q_THX: Tensor, pages_BPX: Tensor, table_Tb: Tensor, lengths_T: Tensor, rank: int, scale: float
) -> Tensor:
    """Queries [absorbed; rotated], pages [c_kv; k_pe], table int32 (T, most pages), lengths int32 >= 1 -> (T, H, C).
    P is a power of two, at least 16. Sums and softmax are fp32."""
    (t, heads, width), page = q_THX.shape, pages_BPX.shape[1]
    assert q_THX.is_contiguous() and pages_BPX.is_contiguous() and table_Tb.is_contiguous()
    assert pages_BPX.shape[2] == width and page >= 16 and page & (page - 1) == 0
    o_THC = torch.empty(t, heads, rank, dtype=q_THX.dtype, device=q_THX.device)
    sizes = [max(16, triton.next_power_of_2(x)) for x in (rank, width - rank)]
    _kernel[(t, triton.cdiv(heads, 16))](
        q_THX, pages_BPX, table_Tb, lengths_T, o_THC, scale, heads, table_Tb.shape[1], rank, width, *sizes, page, 16,
        INTERPRETED,
    )  # fmt: skip
    return o_THC


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    q, pages, table, lengths, o, scale, H, table_stride, C, X,
    BC: tl.constexpr, BR: tl.constexpr, P: tl.constexpr, BH: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0)
    h = tl.program_id(1) * BH + tl.arange(0, BH)
    c, r, p = tl.arange(0, BC), tl.arange(0, BR), tl.arange(0, P)
    query = q + (t * H + h[:, None]) * X
    q_c = tl.load(query + c[None, :], mask=(h[:, None] < H) & (c[None, :] < C), other=0.0)
    q_r = tl.load(query + C + r[None, :], mask=(h[:, None] < H) & (C + r[None, :] < X), other=0.0)
    length = tl.load(lengths + t)
    most = tl.full((BH,), float("-inf"), tl.float32)
    total = tl.zeros((BH,), tl.float32)
    acc = tl.zeros((BH, BC), tl.float32)
    for block in range(0, tl.cdiv(length, P)):
        page = tl.load(table + t * table_stride + block).to(tl.int64)
        seen = block * P + p < length
        row = pages + (page * P + p[:, None]) * X
        k_c = tl.load(row + c[None, :], mask=seen[:, None] & (c[None, :] < C), other=0.0)
        k_r = tl.load(row + C + r[None, :], mask=seen[:, None] & (C + r[None, :] < X), other=0.0)
        scores = dot(q_c, tl.trans(k_c), UPCAST) + dot(q_r, tl.trans(k_r), UPCAST)
        scores = tl.where(seen[None, :], scores * scale, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(most - higher)
        total = total * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None] + dot(weights.to(k_c.dtype), k_c, UPCAST)
        most = higher
    out = o + (t * H + h[:, None]) * C + c[None, :]
    tl.store(out, (acc / total[:, None]).to(o.dtype.element_ty), mask=(h[:, None] < H) & (c[None, :] < C))
