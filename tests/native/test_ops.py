"""Every native kernel against its torch reference: values and gradients, fp32 and bf16, odd sizes, strided inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from doran.native import ops, reference
from doran.native.build import library

needs_native = pytest.mark.skipif(library() is None, reason="no C++ compiler on this machine")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def tie(fast, slow, inputs: list[Tensor], dtype: torch.dtype) -> None:
    """Same outputs and same gradients from both, within the dtype's rounding."""
    tolerance = 2e-5 if dtype == torch.float32 else 3e-2
    results = []
    for function in (fast, slow):
        leaves = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
        out = function(*leaves)
        outs = out if isinstance(out, tuple) else (out,)
        torch.manual_seed(1)
        sum((o.float() * torch.randn(o.shape)).sum() for o in outs).backward()
        results.append([*outs, *(x.grad for x in leaves if x.is_floating_point())])
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
        if a.numel() == 0:
            continue
        scale = max(1.0, b.float().abs().max().item())
        assert (a.float() - b.float()).abs().max().item() <= tolerance * scale


@needs_native
@DTYPES
@pytest.mark.parametrize("width", [16, 33, 128])
def test_rms_norm(dtype: torch.dtype, width: int) -> None:
    x = torch.randn(37, width).to(dtype)
    tie(
        lambda x, w: ops.rms_norm(x, w, 1e-6),
        lambda x, w: reference.rms_norm(x, w, 1e-6),
        [x, torch.randn(width)],
        dtype,
    )


@needs_native
@DTYPES
def test_rope_on_a_strided_view(dtype: torch.dtype) -> None:
    x = torch.randn(11, 3, 24).to(dtype)
    angle = torch.randn(11, 4)
    tie(
        lambda x: ops.rope(x[..., 16:], angle.cos(), angle.sin()),
        lambda x: reference.rope(x[..., 16:], angle.cos(), angle.sin()),
        [x],
        dtype,
    )


@needs_native
@DTYPES
def test_swiglu(dtype: torch.dtype) -> None:
    tie(ops.swiglu, reference.swiglu, [(torch.randn(19, 70) * 3).to(dtype)], dtype)
    tie(
        ops.swiglu_pair,
        reference.swiglu_pair,
        [(torch.randn(19, 35) * 3).to(dtype), torch.randn(19, 35).to(dtype)],
        dtype,
    )


@needs_native
@DTYPES
def test_expert_gather_and_combine(dtype: torch.dtype) -> None:
    tokens, k = 23, 2
    order = torch.randperm(tokens * k)
    inverse = order.argsort()
    x, weight = torch.randn(tokens, 20).to(dtype), torch.rand(tokens, k)
    tie(
        lambda x: ops.expert_gather(x, order, inverse, k),
        lambda x: reference.expert_gather(x, order, inverse, k),
        [x],
        dtype,
    )
    y = torch.randn(tokens * k, 20).to(dtype)
    tie(
        lambda y, w: ops.expert_combine(y, inverse, w),
        lambda y, w: reference.expert_combine(y, inverse, w),
        [y, weight],
        dtype,
    )


@needs_native
@DTYPES
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_token_logprobs(dtype: torch.dtype, temperature: float) -> None:
    logits, target = (torch.randn(29, 77) * 4).to(dtype), torch.randint(0, 77, (29,))
    target[3] = -100
    tie(
        lambda z: ops.token_logprobs(z, target, temperature),
        lambda z: reference.token_logprobs(z, target, temperature),
        [logits],
        dtype,
    )


@needs_native
@DTYPES
@pytest.mark.parametrize(("heads", "groups", "d2"), [(4, 4, 8), (4, 2, 0), (3, 1, 4)])
def test_packed_attention(dtype: torch.dtype, heads: int, groups: int, d2: int) -> None:
    lens = [1, 17, 5, 40, 3]
    cu = torch.tensor([0, *torch.tensor(lens).cumsum(0).tolist()])
    t = sum(lens)
    inputs = [
        torch.randn(t, heads, 12),
        torch.randn(t, heads, d2),
        torch.randn(t, groups, 12),
        torch.randn(t, d2),
        torch.randn(t, groups, 20),
    ]
    inputs = [x.to(dtype) for x in inputs]
    tie(lambda *x: ops.packed_attention(*x, cu, 0.2), lambda *x: reference.packed_attention(*x, cu, 0.2), inputs, dtype)


@needs_native
@DTYPES
def test_mla_decode(dtype: torch.dtype) -> None:
    q, cache = torch.randn(5, 3, 24).to(dtype), torch.randn(8, 33, 24).to(dtype)
    slots, lens = torch.tensor([7, 0, 2, 5, 1]), torch.tensor([1, 33, 12, 20, 7])
    fast, slow = ops.mla_decode(q, cache, slots, lens, 16, 0.3), reference.mla_decode(q, cache, slots, lens, 16, 0.3)
    assert (fast.float() - slow.float()).abs().max() < (1e-5 if dtype == torch.float32 else 2e-2)


@needs_native
def test_attention_does_not_depend_on_the_number_of_threads() -> None:
    inputs = [
        torch.randn(60, 2, 8),
        torch.randn(60, 2, 4),
        torch.randn(60, 2, 8),
        torch.randn(60, 4),
        torch.randn(60, 2, 8),
    ]
    cu = torch.tensor([0, 20, 45, 60])
    threads = torch.get_num_threads()
    outs = []
    for n in (1, threads):
        torch.set_num_threads(n)
        outs.append(ops.packed_attention(*inputs, cu, 0.3))
    torch.set_num_threads(threads)
    assert torch.equal(*outs)


def test_turned_off_kernels_fall_back_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "library", lambda: None)
    assert not ops.usable(torch.zeros(2, 2))
    assert torch.equal(ops.swiglu(torch.ones(2, 4)), reference.swiglu(torch.ones(2, 4)))
