"""Weights for tokens that another policy sampled than the one that is trained: rho = pi_trainer / pi_rollout.

The two differ by rounding (a bf16 sampler), by staleness (rollouts one step old, replay) or both. TIS multiplies the
gradient by min(rho, cap) (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy training"); MIS
and IcePop drop what lies outside [floor, cap] instead. Per token the variance is low and the bias real; per sequence
(product of the tokens' ratios) it is the reverse; the geometric mean lies between.

N tokens of S sequences; `sequence_N` tells which sequence a token belongs to.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from doran.train.losses.kl import MAX_LOG

Level = Literal["token", "sequence", "geometric"]
Cut = Literal["truncate", "mask"]


def sequence_mean(x_N: Tensor, sequence_N: Tensor) -> Tensor:
    """Each token gets the mean over its sequence: exp of it is GSPO's (pi/pi_old)^(1/|o|)."""
    _, dense_N, count_S = sequence_N.unique(return_inverse=True, return_counts=True)
    sums_S = x_N.new_zeros(count_S.numel()).index_add(0, dense_N, x_N)
    return (sums_S / count_S)[dense_N]


def sequence_sum(x_N: Tensor, sequence_N: Tensor) -> Tensor:
    """Each token gets the sum over its sequence."""
    _, dense_N, count_S = sequence_N.unique(return_inverse=True, return_counts=True)
    return x_N.new_zeros(count_S.numel()).index_add(0, dense_N, x_N)[dense_N]


def importance_weights(
    trainer_logprobs_N: Tensor,
    rollout_logprobs_N: Tensor,
    sequence_N: Tensor,
    *,
    cap: float,
    level: Level = "token",
    cut: Cut = "truncate",
    floor: float = 0.0,
) -> Tensor:
    """rho per token, of its token or its whole sequence; above `cap` cut to it, or 0 (`mask`, which `floor` needs)."""
    log_rho_N = trainer_logprobs_N - rollout_logprobs_N
    if level == "sequence":
        log_rho_N = sequence_sum(log_rho_N, sequence_N)
    elif level == "geometric":
        log_rho_N = sequence_mean(log_rho_N, sequence_N)
    if cut == "truncate":
        return log_rho_N.exp().clamp(max=cap)
    rho_N = log_rho_N.clamp(max=MAX_LOG).exp()
    return torch.where((rho_N <= cap) & (rho_N >= floor), rho_N, torch.zeros_like(rho_N))
