"""Distillation's losses against slow ones over the whole vocabulary."""

from __future__ import annotations

import math

import pytest
import torch

from doran.train.losses.distill import on_policy_advantages, on_policy_loss, reverse_kl, topk_kl


def scores(seed: int = 0, n: int = 6, v: int = 11, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(n, v, generator=g) * scale for _ in range(2))
    return student.requires_grad_(), teacher


def full_kl(p_logits: torch.Tensor, q_logits: torch.Tensor) -> list[float]:
    """KL(p || q), token by token."""
    rows = zip(p_logits.double().log_softmax(-1).tolist(), q_logits.double().log_softmax(-1).tolist(), strict=True)
    return [sum(math.exp(p) * (p - q) for p, q in zip(*row, strict=True)) for row in rows]


def test_all_tokens_stored_is_the_whole_kl() -> None:
    student, teacher = scores()
    top = teacher.log_softmax(-1).topk(11)
    got = topk_kl(student, top.indices, top.values)
    torch.testing.assert_close(got, torch.tensor(full_kl(teacher, student.detach())))


def test_the_rest_is_one_outcome_and_more_tokens_come_nearer_from_below() -> None:
    student, teacher = scores()
    whole = torch.tensor(full_kl(teacher, student.detach()))
    before = torch.zeros(6)
    for k in range(1, 12):
        top = teacher.log_softmax(-1).topk(k)
        got = topk_kl(student, top.indices, top.values).detach()
        assert (got >= before - 1e-5).all() and (got <= whole + 1e-5).all()
        before = got
    top = teacher.log_softmax(-1).topk(3)
    p, q = top.values[0].exp().tolist(), student[0].detach().softmax(-1)[top.indices[0]].tolist()
    p, q = [*p, 1 - sum(p)], [*q, 1 - sum(q)]
    slow = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    torch.testing.assert_close(topk_kl(student, top.indices, top.values)[0].item(), slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [1, 4, 11])
@pytest.mark.parametrize("scale", [1.0, 80.0, 3000.0])
def test_peaked_distributions_give_no_nan(k: int, scale: float) -> None:
    student, teacher = scores(scale=scale)
    top = teacher.log_softmax(-1).topk(k)
    loss = topk_kl(student, top.indices, top.values).sum() + reverse_kl(student, teacher).sum()
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


def test_a_student_that_is_the_teacher_has_nothing_to_learn() -> None:
    _, teacher = scores()
    student = teacher.clone().requires_grad_()
    top = teacher.log_softmax(-1).topk(4)
    (topk_kl(student, top.indices, top.values).sum() + reverse_kl(student, teacher).sum()).backward()
    assert student.grad.abs().max() < 1e-5


def test_reverse_kl_is_the_whole_sum() -> None:
    student, teacher = scores()
    torch.testing.assert_close(reverse_kl(student, teacher).detach(), torch.tensor(full_kl(student.detach(), teacher)))


def test_the_policy_gradient_of_the_advantage_is_the_gradient_of_the_reverse_kl() -> None:
    student, teacher = scores(n=1)
    (exact,) = torch.autograd.grad(reverse_kl(student, teacher).sum(), student)
    q, p = student.log_softmax(-1)[0], teacher.log_softmax(-1)[0]
    sampled = q.detach()
    losses = on_policy_loss(q, sampled, on_policy_advantages(sampled, p))
    (mean,) = torch.autograd.grad((sampled.exp() * losses).sum(), student)  # the expectation, token by token
    torch.testing.assert_close(mean, exact, rtol=1e-4, atol=1e-5)


def test_weights_of_a_strange_sampler_are_capped() -> None:
    loss = on_policy_loss(torch.tensor([0.0]), torch.tensor([-50.0]), torch.tensor([1.0]))
    assert loss.item() == pytest.approx(-5.0)
