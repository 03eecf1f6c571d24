"""Advantages: how much better a completion was than its group. Pure functions on rewards, in float64.

P prompts, G completions of each.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Scale = Literal["group", "batch", "none"]
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
