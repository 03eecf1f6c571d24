"""Group advantages: the published figures and the groups that teach nothing."""

from __future__ import annotations

import pytest
import torch

from doran.train.advantage import group_advantages, zero_variance


def successes(k: int, of: int = 16) -> torch.Tensor:
    return torch.tensor([[1.0] * k + [0.0] * (of - k)])


def test_one_success_in_sixteen_uses_the_sample_std() -> None:
    a = group_advantages(successes(1))[0]
    assert a[0].item() == pytest.approx(3.75) and a[1].item() == pytest.approx(-0.25)


def test_eight_of_sixteen() -> None:
    a = group_advantages(successes(8))[0]
    assert a[0].item() == pytest.approx(0.9682, abs=5e-5) and a[-1].item() == pytest.approx(-0.9682, abs=5e-5)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1 + 0.2])
def test_an_all_equal_group_is_exactly_zero(scale: str, value: float) -> None:
    rewards = torch.stack([torch.full((16,), value), torch.arange(16.0)])
    a = group_advantages(rewards, scale)  # type: ignore[arg-type]
    assert (a[0] == 0).all() and a.isfinite().all() and (a[1] != 0).all()
    assert zero_variance(rewards).tolist() == [True, False]


def test_rounding_noise_is_not_variance() -> None:
    rewards = torch.tensor([[0.3, 0.1 + 0.2, 0.3]], dtype=torch.float64)
    assert rewards[0, 0] != rewards[0, 1] and (group_advantages(rewards) == 0).all()


def test_dr_grpo_keeps_the_scale_of_the_reward() -> None:
    assert group_advantages(successes(1), "none")[0, 0].item() == pytest.approx(15 / 16)


def test_batch_scale_divides_every_group_by_one_std() -> None:
    rewards = torch.tensor([[0.0, 1.0], [0.0, 0.5]])
    a = group_advantages(rewards, "batch")
    assert a[0, 1].item() == pytest.approx(2 * a[1, 1].item())
    assert a[0, 1].item() == pytest.approx(0.5 / rewards.std().item())


def test_a_group_of_one_has_no_advantage() -> None:
    assert group_advantages(torch.tensor([[1.0]])).item() == 0.0


def test_a_nan_reward_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        group_advantages(torch.tensor([[1.0, float("nan")]]))
