"""Three estimates of KL(pi_theta || pi_ref) from single tokens (Schulman 2020, "Approximating KL divergence").

With d = ln pi_ref - ln pi_theta of tokens that pi_theta sampled: k1 = -d (unbiased, may be negative, high variance),
k2 = d^2 / 2 (biased, its gradient is that of the true KL), k3 = e^d - d - 1 (unbiased, never negative; GRPO's). As a
*loss* k1 teaches nothing (its expected gradient is zero): `policy_loss` takes it out of the advantage. N tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3"]
MAX_LOG = 20.0  # e^20 = 4.9e8: a log-ratio beyond this is a broken policy, not a number worth an overflow


def k1(logprobs_N: Tensor, ref_logprobs_N: Tensor) -> Tensor:
    """ln pi_theta - ln pi_ref."""
    return logprobs_N - ref_logprobs_N


def k2(logprobs_N: Tensor, ref_logprobs_N: Tensor) -> Tensor:
    """d^2 / 2, with d cut at +-20 so that its square and gradient stay small enough for a float16 too."""
    return 0.5 * (ref_logprobs_N - logprobs_N).clamp(-MAX_LOG, MAX_LOG).square()


def k3(logprobs_N: Tensor, ref_logprobs_N: Tensor) -> Tensor:
    """e^d - d - 1 with d = ln pi_ref - ln pi_theta: an estimate of KL(pi_theta || pi_ref), >= 0 for every d.

    expm1 keeps small d exact; d is capped at 20 so that a far reference gives a large number, not inf. The gradient is
    1 - e^d.
    """
    d_N = (ref_logprobs_N - logprobs_N).clamp(max=MAX_LOG)
    return torch.expm1(d_N) - d_N


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}
