"""The policy-gradient objectives, per token (DeepSeekMath 2402.03300 eq 3; R1 eq 1-3).

    J = sum_n w_n [ min(r_n A_n, clip(r_n, 1 - clip_low, 1 + clip_high) A_n) - beta KL_n ],    r = pi_theta / pi_old

The weights w_n carry the averaging, which is where the papers differ (`aggregation_weights`). clip_high > clip_low is
DAPO's clip-higher; ratio="sequence" is GSPO (2507.18071); objective="cispo" (2506.13585) and "sapo" (2511.20347)
replace the clip; `importance_N` corrects for a rollout policy that is not quite pi_old (TIS, MIS).

N completion tokens of S sequences, packed; `sequence_N` tells which sequence a token belongs to.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from doran.train.losses.importance import sequence_mean
from doran.train.losses.kl import ESTIMATORS, MAX_LOG, KlEstimator

Aggregation = Literal["sequence", "token", "constant"]
Objective = Literal["clip", "cispo", "sapo"]
Metrics = dict[str, Tensor]
SAPO_TAU = (1.0, 1.05)
"""Temperatures of SAPO's gate for A > 0 and A < 0 (2511.20347)."""


def aggregation_weights(
    lengths_S: Tensor,
    aggregation: Aggregation,
    *,
    num_sequences: int | None = None,
    num_tokens: int | None = None,
    max_length: int | None = None,
) -> Tensor:
    """Weight of each token of each sequence, (S,).

    `sequence`: 1/(S len), a mean of means (GRPO). `token`: 1/total tokens (DAPO). `constant`: 1/(S max_length)
    (Dr.GRPO, 2503.20783). The totals default to this call's sequences; give the mini-batch's for a part of it.
    """
    lengths_S = lengths_S.float()
    num_sequences = lengths_S.numel() if num_sequences is None else num_sequences
    if aggregation == "sequence":
        return 1.0 / (max(num_sequences, 1) * lengths_S.clamp(min=1))
    if aggregation == "token":
        total = float(lengths_S.sum()) if num_tokens is None else float(num_tokens)
        return torch.full_like(lengths_S, 1.0 / max(total, 1.0))
    if max_length is None:
        raise ValueError("aggregation 'constant' needs max_length")
    return torch.full_like(lengths_S, 1.0 / (max(num_sequences, 1) * max_length))


def surrogate(
    objective: Objective, ratio_N: Tensor, advantages_N: Tensor, logprobs_N: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """What is maximised for each token, before KL and correction.

    clip: min(r A, clip(r, 1 - clip_low, 1 + clip_high) A). cispo: sg(min(r, 1 + clip_high)) A ln pi, the weight is
    clipped and every token keeps its gradient. sapo: 4 / tau sigmoid(tau (r - 1)) A, a soft gate.
    """
    if objective == "cispo":
        return ratio_N.detach().clamp(max=1.0 + clip_high) * advantages_N * logprobs_N
    if objective == "sapo":
        tau_N = torch.where(advantages_N > 0, *SAPO_TAU)
        return 4.0 / tau_N * torch.sigmoid(tau_N * (ratio_N - 1.0)) * advantages_N
    clipped_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high)
    return torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)


def off_policy_mask(
    logprobs_N: Tensor, old_logprobs_N: Tensor, advantages_N: Tensor, sequence_N: Tensor, delta: float
) -> Tensor:
    """0 for sequences with A < 0 that the policy has left: mean ln(pi_old / pi_theta) > delta; else 1 (V3.2 s3.1)."""
    drift_N = sequence_mean((old_logprobs_N - logprobs_N).detach(), sequence_N)
    return 1.0 - ((advantages_N < 0) & (drift_N > delta)).float()


def policy_loss(
    logprobs_N: Tensor,
    old_logprobs_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    sequence_N: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    ratio: Literal["token", "sequence"] = "token",
    beta: float = 0.0,
    ref_logprobs_N: Tensor | None = None,
    unbiased_kl: bool = False,
    importance_N: Tensor | None = None,
    objective: Objective = "clip",
    ratio_cap: float | None = None,
    kl_estimator: KlEstimator = "k3",
    off_policy_delta: float | None = None,
) -> tuple[Tensor, Metrics]:
    """-J. `logprobs_N` carries the gradient; everything else is data.

    `unbiased_kl` multiplies KL_n by the ratio (DeepSeek-V3.2: k3 is unbiased only under pi_theta's own samples).
    kl_estimator k1 takes beta KL_n out of the advantage, as a reward, since its own gradient is zero on average.
    `ratio_cap` bounds the ratio also where A < 0 (the two-sided clip of INTELLECT-2, 2505.07291).
    Metrics are means over the N tokens: `ratio`, `clip_low` (ratio below the band with A < 0), `clip_high` (above it
    with A > 0), `clip_region` (either), `kl`.
    """
    log_ratio_N = logprobs_N - old_logprobs_N
    if ratio == "sequence":
        log_ratio_N = sequence_mean(log_ratio_N, sequence_N)
    ratio_N = log_ratio_N.clamp(-MAX_LOG, MAX_LOG).exp()
    if ratio_cap is not None:
        ratio_N = ratio_N.clamp(max=ratio_cap)
    kl_N = torch.zeros_like(logprobs_N)
    if ref_logprobs_N is not None:
        kl_N = ESTIMATORS[kl_estimator](logprobs_N, ref_logprobs_N)
    if beta and kl_estimator == "k1":
        advantages_N, beta = advantages_N - beta * kl_N.detach(), 0.0
    objective_N = surrogate(objective, ratio_N, advantages_N, logprobs_N, clip_low, clip_high)
    if off_policy_delta is not None:
        objective_N = objective_N * off_policy_mask(
            logprobs_N, old_logprobs_N, advantages_N, sequence_N, off_policy_delta
        )
    if importance_N is not None:
        objective_N = objective_N * importance_N
    if beta:
        objective_N = objective_N - beta * (ratio_N * kl_N if unbiased_kl else kl_N)
    low_N = (ratio_N < 1.0 - clip_low) & (advantages_N < 0)
    high_N = (ratio_N > 1.0 + clip_high) & (advantages_N > 0)
    metrics = {
        "ratio": ratio_N.detach().mean(),
        "clip_low": low_N.float().mean(),
        "clip_high": high_N.float().mean(),
        "clip_region": (low_N | high_N).float().mean(),
        "kl": kl_N.detach().mean(),
    }
    return -(weights_N * objective_N).sum(), metrics
