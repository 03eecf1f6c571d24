"""Estimators, objectives, corrections and bonuses: each against its equation and the published values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from doran.base.config import build
from doran.base.errors import ConfigError
from doran.train.advantage import advantages, group_advantages, leave_one_out
from doran.train.grpo_settings import GrpoSettings
from doran.train.losses import adapted_coefficient, entropies, importance_weights, k1, k2, k3, policy_loss
from doran.train.losses.policy import off_policy_mask

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])


def test_rloo_is_the_reward_minus_the_mean_of_the_others() -> None:
    slow = [[r[i] - sum(r[:i] + r[i + 1 :]) / 3 for i in range(4)] for r in REWARDS.tolist()]
    torch.testing.assert_close(leave_one_out(REWARDS), torch.tensor(slow))
    torch.testing.assert_close(leave_one_out(REWARDS), 4 / 3 * group_advantages(REWARDS, "none"))
    assert leave_one_out(torch.tensor([[0.3, 0.1 + 0.2]])).tolist() == [[0.0, 0.0]]


def test_reinforce_plus_plus_normalises_over_the_batch() -> None:
    a = advantages(REWARDS, "reinforce++")
    torch.testing.assert_close(a, (REWARDS - REWARDS.mean()) / REWARDS.std())
    assert (a[2] > 0).all()  # a group of equals still teaches, unlike in GRPO
    based = advantages(REWARDS, "reinforce++baseline")
    centred = REWARDS - REWARDS.mean(1, keepdim=True)
    torch.testing.assert_close(based, (centred - centred.mean()) / centred.std())
    assert advantages(torch.ones(2, 3), "reinforce++").abs().sum() == 0


def test_gdpo_gives_a_part_of_small_spread_its_say() -> None:
    accuracy, form = torch.tensor([[1.0, 0.0, 1.0, 0.0]]), torch.tensor([[0.01, 0.0, 0.0, 0.01]])
    parts = {"accuracy": (1.0, accuracy), "format": (1.0, form)}
    a = advantages(accuracy + form, "gdpo", parts=parts)[0]
    assert a[0] > 0 and a[2].item() == pytest.approx(a[3].item(), abs=1e-6)  # one right each: the parts weigh the same
    plain = advantages(accuracy + form, "group")[0]
    assert plain[2] > 0 > plain[3]


@pytest.mark.parametrize("estimator", ["group", "rloo", "reinforce++", "reinforce++baseline", "gdpo"])
def test_no_estimator_takes_a_nan(estimator) -> None:
    with pytest.raises(ValueError, match="NaN"):
        advantages(torch.tensor([[1.0, math.nan]]), estimator)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.floats(-1e30, 1e30))
def test_kl_estimators_stay_finite(d: float) -> None:
    for estimate in (k1, k2, k3):
        logprob = torch.tensor([0.0], requires_grad=True)
        value = estimate(logprob, torch.tensor([d]))
        value.sum().backward()
        assert value.isfinite().all() and logprob.grad is not None and logprob.grad.isfinite().all()


def test_kl_estimators_average_to_the_true_kl() -> None:
    logits, ref_logits = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    logp, ref = logits.log_softmax(0), ref_logits.log_softmax(0)
    true = (logp.exp() * (logp - ref)).sum()
    torch.testing.assert_close((logp.exp() * k1(logp, ref)).sum(), true)
    torch.testing.assert_close((logp.exp() * k3(logp, ref)).sum(), true)
    assert (logp.exp() * k2(logp, ref)).sum() != true
    assert k2(torch.tensor([0.0]), torch.tensor([0.1])).item() == pytest.approx(0.005)
    assert k1(torch.tensor([0.0]), torch.tensor([0.1])).item() == pytest.approx(-0.1)


def test_k1_in_the_reward_has_the_gradient_of_the_true_kl() -> None:
    logits = torch.randn(6, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    ref = torch.randn(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64).log_softmax(0)
    logp = logits.log_softmax(0)
    (true,) = torch.autograd.grad((logp.exp() * (logp - ref)).sum(), logits, retain_graph=True)
    loss, _ = policy_loss(
        logp, logp.detach(), torch.zeros(6), logp.detach().exp(), torch.arange(6),
        beta=1.0, ref_logprobs_N=ref, kl_estimator="k1",
    )  # fmt: skip
    (ours,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(ours, true, rtol=1e-6, atol=1e-9)


def one_token(ratio: float, advantage: float, **more: object) -> tuple[float, float]:
    """(objective, its gradient) of a single token with this ratio."""
    logprob = torch.tensor([math.log(ratio)], requires_grad=True)
    loss, _ = policy_loss(logprob, torch.zeros(1), torch.tensor([advantage]), torch.ones(1), torch.arange(1), **more)
    loss.backward()
    assert logprob.grad is not None
    return -loss.item(), -logprob.grad.item()


def test_cispo_clips_the_weight_and_keeps_the_gradient() -> None:
    assert one_token(3.0, 1.0, objective="cispo", clip_high=0.28)[1] == pytest.approx(1.28)
    assert one_token(3.0, 1.0, objective="clip", clip_high=0.28)[1] == 0.0
    assert one_token(0.5, -1.0, objective="cispo", clip_low=0.2)[1] == pytest.approx(-0.5)


def test_sapo_is_a_gate_that_is_soft_at_one_and_closes_far_away() -> None:
    value, slope = one_token(1.0, 1.0, objective="sapo")
    assert value == pytest.approx(2.0) and slope == pytest.approx(1.0)  # 4 / tau sigmoid(0); its slope is tau/4 of that
    assert one_token(1.0, -1.0, objective="sapo")[1] == pytest.approx(-1.0)
    assert 0 < one_token(8.0, 1.0, objective="sapo")[1] < 0.05


def test_the_two_sided_clip_bounds_a_bad_completion_that_became_likely() -> None:
    assert one_token(50.0, -1.0)[1] == pytest.approx(-50.0)
    assert one_token(50.0, -1.0, ratio_cap=4.0) == (pytest.approx(-4.0), 0.0)


def test_the_off_policy_mask_drops_bad_sequences_the_policy_has_left() -> None:
    old, new = torch.zeros(6), torch.tensor([-1.0, -1.0, -1.0, -1.0, -0.1, -0.1])
    bad = torch.tensor([-1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    mask = off_policy_mask(new, old, bad, torch.tensor([0, 0, 1, 1, 2, 2]), delta=0.5)
    assert mask.tolist() == [0, 0, 1, 1, 1, 1]


def test_importance_weights_by_level_and_cut() -> None:
    rollout = torch.zeros(4)
    trainer = torch.tensor([1.0, -1.0, 0.5, 0.5])
    sequence = torch.tensor([0, 0, 1, 1])

    def weights(**more):
        return importance_weights(trainer, rollout, sequence, cap=2.0, **more).tolist()

    e = math.exp
    assert weights() == pytest.approx([2.0, e(-1), e(0.5), e(0.5)])
    assert weights(cut="mask") == pytest.approx([0.0, e(-1), e(0.5), e(0.5)])
    assert weights(cut="mask", floor=0.5) == pytest.approx([0.0, 0.0, e(0.5), e(0.5)])
    assert weights(level="sequence") == pytest.approx([1.0, 1.0, 2.0, 2.0])
    assert weights(level="sequence", cut="mask") == pytest.approx([1.0, 1.0, 0.0, 0.0])
    assert weights(level="geometric") == pytest.approx([1.0, 1.0, e(0.5), e(0.5)])
    far = importance_weights(torch.full((1,), 500.0), torch.zeros(1), torch.zeros(1).long(), cap=2.0, cut="mask")
    assert far.item() == 0.0  # not inf * 0


def test_entropies_equal_the_definition_with_gradients() -> None:
    h = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    w = torch.randn(11, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    slow = torch.distributions.Categorical(logits=h @ w.T / 0.7).entropy()
    pull = torch.arange(7.0)
    slow_grads = torch.autograd.grad((slow * pull).sum(), (h, w))
    fast = entropies(h, w, temperature=0.7, rows=3)
    torch.testing.assert_close(fast, slow)
    for a, b in zip(torch.autograd.grad((fast * pull).sum(), (h, w)), slow_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_entropy_coefficient_follows_its_target() -> None:
    assert adapted_coefficient(0.01, entropy=0.1, target=0.2, step=0.005) == pytest.approx(0.015)
    assert adapted_coefficient(0.01, entropy=0.3, target=0.2, step=0.005) == pytest.approx(0.005)
    assert adapted_coefficient(0.001, entropy=0.3, target=0.2, step=0.005) == 0.0


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"async_rollouts": True, "probe": 4}, "probe=0"),
        ({"replay_groups": 8, "tis_cap": None}, "tis_cap"),
        ({"advantage": "reinforce++"}, "drop_zero_variance=false"),
        ({"importance_floor": 0.5}, "importance_cut=mask"),
        ({"probe": 16}, "below group_size"),
        ({"probe": 1}, "one completion"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        build(GrpoSettings, values)
