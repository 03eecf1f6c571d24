"""Losses against slow, obvious references, and the numbers the papers fix."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from doran.train.losses import (
    IGNORE,
    aggregation_weights,
    k3,
    linear_cross_entropy,
    mtp_targets,
    overlong_penalty,
    policy_loss,
    token_logprobs,
)


def problem(n: int = 23, d: int = 8, v: int = 31) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    h, w = torch.randn(n, d, generator=g), torch.randn(v, d, generator=g)
    return h.requires_grad_(), w.requires_grad_(), torch.randint(0, v, (n,), generator=g)


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_chunked_cross_entropy_equals_the_plain_one_with_gradients(z_loss: float) -> None:
    h, w, targets = problem()
    targets[::4] = IGNORE
    logits = h @ w.T
    keep = targets != IGNORE
    slow = F.cross_entropy(logits, targets, ignore_index=IGNORE) + z_loss * logits.logsumexp(-1)[keep].square().mean()
    slow_grads = torch.autograd.grad(3.0 * slow, (h, w))
    fast, metrics = linear_cross_entropy(h, w, targets, z_loss=z_loss, rows=5)
    fast_grads = torch.autograd.grad(3.0 * fast, (h, w))
    torch.testing.assert_close(fast, slow)
    for a, b in zip(fast_grads, slow_grads):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert int(metrics["tokens"]) == int(keep.sum())


def test_a_shared_denominator_makes_micro_batches_add_up() -> None:
    h, w, targets = problem()
    whole, _ = linear_cross_entropy(h, w, targets)
    parts = [linear_cross_entropy(h[s], w, targets[s], denominator=23)[0] for s in (slice(0, 4), slice(4, 23))]
    torch.testing.assert_close(sum(parts), whole)


def test_no_target_at_all_is_a_loss_of_zero_with_zero_gradient() -> None:
    h, w, targets = problem()
    loss, _ = linear_cross_entropy(h, w, torch.full_like(targets, IGNORE))
    loss.backward()
    assert loss.item() == 0.0 and h.grad is not None and h.grad.abs().sum() == 0 and w.grad.abs().sum() == 0


def test_cross_entropy_under_autocast_is_close_to_fp32() -> None:
    h, w, targets = problem()
    exact, _ = linear_cross_entropy(h, w, targets)
    exact_grads = torch.autograd.grad(exact, (h, w))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = linear_cross_entropy(h, w, targets)
    grads = torch.autograd.grad(loss, (h, w))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
    for a, b in zip(grads, exact_grads):
        assert (a - b).norm() < 0.02 * b.norm()


@pytest.mark.parametrize("rows", [None, 6])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logprobs_equal_log_softmax_with_gradients(temperature: float, rows: int | None) -> None:
    h, w, targets = problem()
    logp = (h @ w.T / temperature).log_softmax(-1)
    slow = logp.gather(1, targets[:, None]).squeeze(1)
    entropy = -(logp.exp() * logp).sum(-1)
    pull = torch.randn(23)
    slow_grads = torch.autograd.grad((slow * pull).sum(), (h, w))
    fast, fast_entropy = token_logprobs(h, w, targets, temperature=temperature, rows=rows)
    fast_grads = torch.autograd.grad((fast * pull).sum(), (h, w))
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(fast_entropy, entropy.detach())
    for a, b in zip(fast_grads, slow_grads):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_mtp_targets_stay_inside_their_document() -> None:
    tokens = torch.tensor([10, 11, 12, 20, 21])  # documents 10 11 12 13 and 20 21 22
    targets = torch.tensor([11, 12, 13, 21, 22])
    next_tokens, mtp = mtp_targets(tokens, targets, torch.tensor([0, 3, 5], dtype=torch.int32))
    assert mtp.tolist() == [12, 13, IGNORE, 22, IGNORE]
    assert [next_tokens[i].item() for i in (0, 1, 3)] == [11, 12, 21]
    assert targets.tolist() == [11, 12, 13, 21, 22]


@pytest.mark.parametrize(
    ("length", "penalty"), [(100, 0.0), (16_384, 0.0), (18_432, -0.5), (20_480, -1.0), (30_000, -1.0)]
)
def test_overlong_penalty_has_dapos_values(length: int, penalty: float) -> None:
    assert overlong_penalty(length, max_length=20_480, cache=4_096) == penalty


@pytest.mark.parametrize(("d", "value"), [(0.1, 0.0051709), (-0.1, 0.0048374), (1.0, 0.7182818), (-1.0, 0.3678794)])
def test_k3_has_the_published_values(d: float, value: float) -> None:
    assert k3(torch.zeros(1), torch.tensor([d])).item() == pytest.approx(value, abs=5e-8 + 1e-7)


@settings(deadline=None, max_examples=50)
@given(st.floats(-1e4, 1e4))
def test_k3_is_never_negative_nor_infinite(d: float) -> None:
    value = k3(torch.zeros(1), torch.tensor([d])).item()
    assert value >= 0 and math.isfinite(value)


def test_k3_gradient_is_one_minus_e_to_the_d() -> None:
    logprob = torch.tensor([-0.3], requires_grad=True)
    k3(logprob, torch.tensor([0.2])).sum().backward()
    assert logprob.grad.item() == pytest.approx(1 - math.exp(0.5), rel=1e-5)


def toy(aggregation: str, advantages: tuple[float, float] = (1.0, -1.0), **more: int) -> float:
    """Two responses of lengths 1 and 3 with ratio 1: minus the loss, the s4 toy."""
    lengths, sequence = torch.tensor([1, 3]), torch.tensor([0, 1, 1, 1])
    logprobs = torch.zeros(4, requires_grad=True)
    weights = aggregation_weights(lengths, aggregation, **more)[sequence]  # type: ignore[arg-type]
    loss, _ = policy_loss(logprobs, logprobs.detach(), torch.tensor(advantages)[sequence], weights, sequence)
    return -loss.item()


def test_aggregations_give_the_papers_toy_values() -> None:
    assert toy("sequence") == pytest.approx(0.0, abs=1e-7)
    assert toy("token") == pytest.approx(-0.5)
    assert toy("constant", max_length=4) == pytest.approx(-0.25)
    assert toy("sequence", (1.0, 1.0)) == toy("token", (1.0, 1.0)) == pytest.approx(1.0)


def test_clipping_stops_the_gradient_only_on_the_side_that_pays() -> None:
    old = torch.zeros(4)
    logprobs = torch.tensor([1.5, 1.5, 0.5, 0.5]).log().requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss, metrics = policy_loss(logprobs, old, advantages, torch.ones(4), torch.arange(4), clip_low=0.2, clip_high=0.28)
    loss.backward()
    assert (logprobs.grad != 0).tolist() == [False, True, True, False]
    assert metrics["clip_high"] == 0.25 and metrics["clip_low"] == 0.25 and metrics["clip_region"] == 0.5


def test_on_policy_gradient_is_reinforce() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    advantages, weights = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.2, 0.3, 0.5])
    loss, _ = policy_loss(logprobs, logprobs.detach(), advantages, weights, torch.arange(3))
    loss.backward()
    torch.testing.assert_close(logprobs.grad, -weights * advantages)


def test_gspo_ratio_is_the_geometric_mean() -> None:
    old = torch.zeros(100)
    logprobs = torch.linspace(-0.1, 0.11, 100)
    logprobs = logprobs * (0.5 / logprobs.sum())
    _, metrics = policy_loss(
        logprobs, old, torch.ones(100), torch.ones(100), torch.zeros(100, dtype=torch.long), ratio="sequence"
    )
    assert metrics["ratio"].item() == pytest.approx(1.005013, abs=1e-6)


def test_kl_term_and_its_unbiased_form() -> None:
    logprobs, ref = torch.tensor([0.0]), torch.tensor([0.1])
    args = (torch.zeros(1), torch.ones(1), torch.zeros(1, dtype=torch.long))
    plain, metrics = policy_loss(logprobs, torch.tensor([0.3]), *args, beta=2.0, ref_logprobs_N=ref)
    unbiased, _ = policy_loss(logprobs, torch.tensor([0.3]), *args, beta=2.0, ref_logprobs_N=ref, unbiased_kl=True)
    assert plain.item() == pytest.approx(2 * 0.0051709, rel=1e-4)
    assert unbiased.item() == pytest.approx(2 * 0.0051709 * math.exp(-0.3), rel=1e-4)
    assert metrics["kl"].item() == pytest.approx(0.0051709, rel=1e-4)


def test_a_wild_ratio_stays_finite() -> None:
    logprobs = torch.tensor([0.0, -500.0], requires_grad=True)
    loss, _ = policy_loss(
        logprobs, torch.tensor([-500.0, 0.0]), torch.tensor([-1.0, 1.0]), torch.ones(2), torch.arange(2)
    )
    loss.backward()
    assert loss.isfinite() and logprobs.grad.isfinite().all()
