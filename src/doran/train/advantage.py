"""Advantages: how much better a completion was than its group. Pure functions on rewards, in float64.

P prompts, G completions of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]
Estimator = Literal["group", "rloo", "reinforce++", "reinforce++baseline", "gdpo"]
_SAME = 1e-8  # rewards closer than this are equal: what is left is the rounding of their weighted sum


def zero_variance(rewards_PG: Tensor) -> Tensor:
    """True for each prompt whose completions all got the same reward, (P,): it has nothing to teach."""
    return rewards_PG.amax(1) - rewards_PG.amin(1) <= _SAME


def group_advantages(rewards_PG: Tensor, scale: Scale = "group") -> Tensor:
    """A = (R - mean of the group) / std, (P, G); R1 eq 3.

    `group`: std of the group, with N-1 (as torch, TRL and verl; one success in 16 gives +3.75 and -0.25). `batch`: one
    std over all rewards (2508.08221). `none`: no division (Dr.GRPO, 2503.20783). No variance in a group: exactly 0.
    """
    rewards_PG = rewards_PG.double()
    if not bool(rewards_PG.isfinite().all()):
        raise ValueError("a reward is NaN or inf")
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    if scale == "group" and rewards_PG.shape[1] > 1:
        centred_PG = centred_PG / rewards_PG.std(1, keepdim=True).clamp(min=1e-12)
    elif scale == "batch" and rewards_PG.numel() > 1:
        centred_PG = centred_PG / rewards_PG.std().clamp(min=1e-12)
    return centred_PG.masked_fill(zero_variance(rewards_PG)[:, None], 0.0).float()


def leave_one_out(rewards_PG: Tensor) -> Tensor:
    """A_i = R_i - mean of the others, (P, G): RLOO (2402.14740). It is G / (G - 1) times R_i - mean(R), unbiased."""
    rewards_PG = rewards_PG.double()
    group_size = rewards_PG.shape[1]
    others_PG = (rewards_PG.sum(1, keepdim=True) - rewards_PG) / max(group_size - 1, 1)
    return (rewards_PG - others_PG).masked_fill(zero_variance(rewards_PG)[:, None], 0.0).float()


def batch_normalised(values_PG: Tensor) -> Tensor:
    """(x - mean) / std over all P times G values, 0 where they are all one."""
    values_PG = values_PG.double()
    centred_PG = values_PG - values_PG.mean()
    spread = float(values_PG.std()) if values_PG.numel() > 1 else 0.0
    return (centred_PG / spread if spread > _SAME else torch.zeros_like(centred_PG)).float()


def advantages(
    rewards_PG: Tensor,
    estimator: Estimator = "group",
    scale: Scale = "group",
    parts: Mapping[str, tuple[float, Tensor]] | None = None,
) -> Tensor:
    """Advantages (P, G) by estimator; `scale` is the group estimator's alone. ValueError on a reward not finite.

    group          R minus the group's mean, over a std (GRPO, Dr.GRPO, Lite PPO by `scale`)
    rloo           R minus the mean of the others of its group
    reinforce++    normalised over the whole batch, no group baseline (2501.03262): one completion a prompt would do
    reinforce++baseline   R minus the group's mean, then normalised over the batch (the same paper, for reasoning)
    gdpo           each reward part normalised in its group, weighted, summed, then normalised over the batch
                   (2601.05242): parts of other spreads keep their say. `parts`: name -> (weight, rewards_PG)
    """
    if not bool(rewards_PG.isfinite().all()):
        raise ValueError("a reward is NaN or inf")
    if estimator == "rloo":
        return leave_one_out(rewards_PG)
    if estimator == "reinforce++":
        return batch_normalised(rewards_PG)
    if estimator == "reinforce++baseline":
        return batch_normalised(group_advantages(rewards_PG, "none"))
    if estimator == "gdpo" and parts:
        summed_PG = sum(weight * group_advantages(part_PG).double() for weight, part_PG in parts.values())
        return batch_normalised(torch.as_tensor(summed_PG))
    return group_advantages(rewards_PG, scale)
