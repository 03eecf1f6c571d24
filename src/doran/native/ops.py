"""The ops that models call: native kernels where they are loaded and fit, the torch reference otherwise.

Differentiable either way. Kernels take CPU tensors in fp32 or bf16 and compute in fp32. Results do not depend on the
number of threads. Shapes are in reference.py beside each op's meaning.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from doran.native import reference
from doran.native.build import library

SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


def usable(*tensors: Tensor) -> bool:
    """True where the native kernels can take these tensors: loaded, on the CPU, one supported dtype."""
    first = tensors[0]
    return (
        library() is not None
        and all(t.device.type == "cpu" and t.dtype == first.dtype for t in tensors)
        and first.dtype in SUFFIX
    )


def call(name: str, dtype: torch.dtype, *args: Tensor | int | float | None) -> None:
    """Call kernel `name` for `dtype`; tensors go as pointers, ints as int64, floats as float."""
    converted: list[Any] = []
    for arg in args:
        if isinstance(arg, Tensor):
            converted.append(ctypes.c_void_p(arg.data_ptr()))
        elif isinstance(arg, float):
            converted.append(ctypes.c_float(arg))
        else:
            converted.append(ctypes.c_void_p(None) if arg is None else ctypes.c_int64(arg))
    getattr(library(), f"{name}_{SUFFIX[dtype]}")(*converted)


def inner_contiguous(x: Tensor) -> Tensor:
    """x itself when its last axis is dense (other axes may be strided), a copy otherwise."""
    return x if x.stride(-1) == 1 else x.contiguous()


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = inner_contiguous(x)
        n, d = x.shape
        y, rstd = torch.empty((n, d), dtype=x.dtype), torch.empty(n)
        call("rmsnorm_forward", x.dtype, x, x.stride(0), weight, y, rstd, n, d, eps)
        ctx.save_for_backward(x, weight, rstd)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, rstd = ctx.saved_tensors
        gx, gw = torch.empty(x.shape, dtype=x.dtype), torch.empty_like(weight)
        call("rmsnorm_backward", x.dtype, gy.contiguous(), x, x.stride(0), weight, rstd, gx, gw, *x.shape)
        return gx, gw, None


def rms_norm(x_ND: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last axis; the weight is fp32. Any leading shape; (N, D) takes the fast path."""
    if x_ND.dim() == 2 and usable(x_ND) and weight_D.dtype == torch.float32:
        return _RmsNorm.apply(x_ND, weight_D, eps)
    return reference.rms_norm(x_ND, weight_D, eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """By the angle, or back by it with sign -1: the gradient of a rotation."""
    x = inner_contiguous(x)
    y = torch.empty(x.shape, dtype=x.dtype)
    call("rope", x.dtype, x, x.stride(0), x.stride(1), cos, sin, y, *x.shape, sign)
    return y


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(gy, cos, sin, -1.0), None, None


def rope(x_THR: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Rotate x (T, H, R) by cos, sin (T, R/2, fp32), pairs being (first half, second half)."""
    if usable(x_THR) and cos_TR.dtype == torch.float32:
        return _Rope.apply(x_THR, cos_TR.contiguous(), sin_TR.contiguous())
    return reference.rope(x_THR, cos_TR, sin_TR)


class _Swiglu(torch.autograd.Function):
    """Of [gate ; up] in one matrix."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        n, i = gate_up.shape[0], gate_up.shape[1] // 2
        y = torch.empty((n, i), dtype=gate_up.dtype)
        call("swiglu_forward", y.dtype, gate_up, 2 * i, gate_up[:, i:], 2 * i, y, n, i)
        ctx.save_for_backward(gate_up)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        grad, (n, i) = torch.empty_like(gate_up), gy.shape
        up, gup, gy = gate_up[:, i:], grad[:, i:], gy.contiguous()
        call("swiglu_backward", gy.dtype, gy, gate_up, 2 * i, up, 2 * i, grad, gup, 2 * i, n, i)
        return grad


class _SwigluPair(torch.autograd.Function):
    """Of gate and up in two matrices."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        n, i = gate.shape
        y = torch.empty((n, i), dtype=gate.dtype)
        call("swiglu_forward", y.dtype, gate, i, up, i, y, n, i)
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        ggate, gup, (n, i), gy = torch.empty_like(gate), torch.empty_like(up), gy.shape, gy.contiguous()
        call("swiglu_backward", gy.dtype, gy, gate, i, up, i, ggate, gup, i, n, i)
        return ggate, gup


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up for (N, 2I) = [gate ; up]."""
    if gate_up.dim() == 2 and usable(gate_up):
        return _Swiglu.apply(gate_up)
    return reference.swiglu(gate_up)


def swiglu_pair(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up for two matrices (N, I)."""
    if gate.dim() == 2 and usable(gate, up):
        return _SwigluPair.apply(gate, up)
    return reference.swiglu_pair(gate, up)


class _ExpertGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(inverse)
        ctx.k = k
        y = torch.empty((order.shape[0], x.shape[1]), dtype=x.dtype)
        call("gather", x.dtype, x, torch.div(order, k, rounding_mode="floor"), y, *y.shape)
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        gy = gy.contiguous()
        gx = torch.empty((inverse.shape[0] // ctx.k, gy.shape[1]), dtype=gy.dtype)
        call("combine_forward", gy.dtype, gy, inverse, None, gx, gx.shape[0], ctx.k, gx.shape[1])
        return gx, None, None, None


def expert_gather(x_TD: Tensor, rows_P: Tensor, place_R: Tensor, k: int) -> Tensor:
    """Row p is the token of pair rows[p]; place[r] is the row of pair r. Rows that no pair owns get no gradient."""
    if usable(x_TD):
        return _ExpertGather.apply(x_TD, rows_P, place_R, k)
    return reference.expert_gather(x_TD, rows_P, place_R, k)


class _ExpertCombine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
        y, weight = y.contiguous(), weight.contiguous()
        n, k = weight.shape
        out = torch.empty((n, y.shape[1]), dtype=y.dtype)
        call("combine_forward", y.dtype, y, inverse, weight, out, n, k, y.shape[1])
        ctx.save_for_backward(y, inverse, weight)
        return out

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> tuple[Tensor, None, Tensor]:
        y, inverse, weight = ctx.saved_tensors
        gy, gw = torch.zeros_like(y), torch.empty_like(weight)  # rows that no pair owns get no gradient
        call("combine_backward", y.dtype, gout.contiguous(), y, inverse, weight, gy, gw, *weight.shape, y.shape[1])
        return gy, None, gw


def expert_combine(y_PD: Tensor, place_R: Tensor, weight_TK: Tensor) -> Tensor:
    """Weighted sum of each token's k expert outputs, which stand in rows place[t * k ...]; weights fp32. (T, D)."""
    if usable(y_PD) and weight_TK.dtype == torch.float32:
        return _ExpertCombine.apply(y_PD, place_R, weight_TK)
    return reference.expert_combine(y_PD, place_R, weight_TK)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logits = logits.contiguous()
        n, v = logits.shape
        logprob, entropy, lse = torch.empty(n), torch.empty(n), torch.empty(n)
        call("cross_entropy_forward", logits.dtype, logits, target, temperature, logprob, entropy, lse, n, v)
        ctx.save_for_backward(logits, target, lse, entropy)
        ctx.temperature = temperature
        return logprob, entropy

    @staticmethod
    def backward(ctx: Any, gl: Tensor, ge: Tensor) -> tuple[Tensor, None, None]:
        logits, target, lse, entropy = ctx.saved_tensors
        grad = torch.empty_like(logits)
        rows = (logits, target, ctx.temperature, lse, entropy, gl.contiguous(), ge.contiguous(), grad)
        call("cross_entropy_backward", logits.dtype, *rows, *logits.shape)
        return grad, None, None


def token_logprobs(logits_NV: Tensor, target_N: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """(log-probability of each target, entropy of each row), fp32; rows with target < 0 give 0 and no gradient."""
    if usable(logits_NV):
        return _TokenLogprobs.apply(logits_NV, target_N, float(temperature))
    return reference.token_logprobs(logits_NV, target_N, temperature)


def _views(*tensors: Tensor) -> tuple[Tensor | int, ...]:
    """Each tensor followed by the strides of all its axes but the last, which is dense."""
    parts: list[Tensor | int] = []
    for t in tensors:
        parts += [t, *t.stride()[:-1]]
    return tuple(parts)


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q1: Tensor, q2: Tensor, k1: Tensor, k2: Tensor, v: Tensor, cu: Tensor, scale: float
    ) -> Tensor:
        q1, q2, k1, k2, v = (inner_contiguous(x) for x in (q1, q2, k1, k2, v))
        (t, h, d1), d2, g, dv = q1.shape, q2.shape[-1], k1.shape[1], v.shape[-1]
        out, lse = torch.empty((t, h, dv), dtype=q1.dtype), torch.empty((t, h))
        ctx.sizes = (cu.shape[0] - 1, h, g, d1, d2, dv, scale)
        call("attention_forward", q1.dtype, *_views(q1, q2, k1, k2, v), out, lse, cu, *ctx.sizes)
        ctx.save_for_backward(q1, q2, k1, k2, v, out, lse, cu)
        return out

    @staticmethod
    def backward(ctx: Any, gout: Tensor) -> tuple[Tensor | None, ...]:
        q1, q2, k1, k2, v, out, lse, cu = ctx.saved_tensors
        grads = [torch.empty(x.shape, dtype=x.dtype) for x in (q1, q2, k1, k2, v)]
        views, gout = _views(q1, q2, k1, k2, v), gout.contiguous()
        call("attention_backward", q1.dtype, gout, *views, out, lse, *grads, cu, *ctx.sizes)
        return (*grads, None, None)


def packed_attention(
    q1_THA: Tensor, q2_THB: Tensor, k1_TGA: Tensor, k2_TB: Tensor, v_TGV: Tensor, cu_seqlens: Tensor, scale: float
) -> Tensor:
    """Causal attention within each packed sequence; cu_seqlens is int64 (num_seqs + 1,) and covers all T tokens."""
    if usable(q1_THA, q2_THB, k1_TGA, k2_TB, v_TGV):
        return _PackedAttention.apply(q1_THA, q2_THB, k1_TGA, k2_TB, v_TGV, cu_seqlens, float(scale))
    return reference.packed_attention(q1_THA, q2_THB, k1_TGA, k2_TB, v_TGV, cu_seqlens, scale)


def mla_decode(
    q_NHW: Tensor, cache_SLW: Tensor, slots_N: Tensor, lens_N: Tensor, kv_lora_rank: int, scale: float
) -> Tensor:
    """One decode step of absorbed MLA over a slot cache (num_slots, capacity, kv_lora_rank + rope).

    Returns (N, H, kv_lora_rank). No gradient.
    """
    if usable(q_NHW, cache_SLW):
        q = q_NHW.contiguous()
        n, h, width = q.shape
        out = torch.empty((n, h, kv_lora_rank), dtype=q.dtype)
        sizes = (n, h, kv_lora_rank, width - kv_lora_rank, float(scale))
        call("mla_decode", q.dtype, q, cache_SLW, cache_SLW.stride(0), slots_N, lens_N, out, *sizes)
        return out
    return reference.mla_decode(q_NHW, cache_SLW, slots_N, lens_N, kv_lora_rank, scale)
