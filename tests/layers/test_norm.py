"""RMSNorm: its formula, its precision, its output type."""

from __future__ import annotations

import torch

from doran.layers.norm import RMSNorm


def _norm() -> RMSNorm:
    norm = RMSNorm(32, 1e-6)
    torch.nn.init.normal_(norm.weight)
    return norm


def test_it_is_the_formula() -> None:
    norm, x = _norm(), torch.randn(5, 32)
    expected = norm.weight * x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(norm(x), expected, atol=1e-6)


def test_gradients_are_those_of_the_formula() -> None:
    norm, x, weight = _norm(), torch.randn(5, 32, requires_grad=True), torch.randn(5, 32)
    inputs = (x, norm.weight)
    expected = norm.weight * x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    ours = torch.autograd.grad((norm(x) * weight).sum(), inputs)
    reference = torch.autograd.grad((expected * weight).sum(), inputs)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, reference))


def test_low_precision_is_normed_in_fp32_and_returned_as_it_came() -> None:
    norm, x = _norm(), torch.randn(5, 32).bfloat16()
    assert torch.equal(norm(x), norm(x.float()).bfloat16())


def test_autocast_gets_its_own_type() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _norm()(torch.randn(5, 32)).dtype == torch.bfloat16
