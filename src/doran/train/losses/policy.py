"""The GRPO objective and its standard variants, per token (DeepSeekMath 2402.03300 eq 3; R1 eq 1-3).

    J = sum_n w_n [ min(r_n A_n, clip(r_n, 1 - clip_low, 1 + clip_high) A_n) - beta KL_n ],    r = pi_theta / pi_old

The weights w_n carry the averaging, which is where the papers differ (`aggregation_weights`). clip_high > clip_low is
DAPO's clip-higher; ratio="sequence" is GSPO (2507.18071); `importance_N` corrects for a rollout policy that is not
quite pi_old (TIS).

N completion tokens of S sequences, packed; `sequence_N` tells which sequence a token belongs to.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["sequence", "token", "constant"]
Metrics = dict[str, Tensor]
_MAX_LOG = 20.0  # e^20 = 4.9e8: a log-ratio beyond this is a broken policy, not a number worth an overflow


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


def k3(logprobs_N: Tensor, ref_logprobs_N: Tensor) -> Tensor:
    """e^d - d - 1 with d = ln pi_ref - ln pi_theta: an estimate of KL(pi_theta || pi_ref), >= 0 for every d.

    expm1 keeps small d exact; d is capped at 20 so that a far reference gives a large number, not inf. The gradient is
    1 - e^d.
    """
    d_N = (ref_logprobs_N - logprobs_N).clamp(max=_MAX_LOG)
    return torch.expm1(d_N) - d_N


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
) -> tuple[Tensor, Metrics]:
    """-J. `logprobs_N` carries the gradient; everything else is data.

    `unbiased_kl` multiplies KL_n by the ratio (DeepSeek-V3.2: k3 is unbiased only under pi_theta's own samples).
    Metrics are means over the N tokens: `ratio`, `clip_low` (ratio below the band with A < 0), `clip_high` (above it
    with A > 0), `clip_region` (either), `kl`.
    """
    log_ratio_N = logprobs_N - old_logprobs_N
    if ratio == "sequence":
        log_ratio_N = _sequence_mean(log_ratio_N, sequence_N)
    ratio_N = log_ratio_N.clamp(-_MAX_LOG, _MAX_LOG).exp()
    clipped_N = ratio_N.clamp(1.0 - clip_low, 1.0 + clip_high)
    objective_N = torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
    if importance_N is not None:
        objective_N = objective_N * importance_N
    kl_N = torch.zeros_like(logprobs_N) if ref_logprobs_N is None else k3(logprobs_N, ref_logprobs_N)
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


def _sequence_mean(x_N: Tensor, sequence_N: Tensor) -> Tensor:
    """Each token gets the mean over its sequence: exp of it is GSPO's (pi/pi_old)^(1/|o|)."""
    _, dense_N, count_S = sequence_N.unique(return_inverse=True, return_counts=True)
    sums_S = x_N.new_zeros(count_S.numel()).index_add(0, dense_N, x_N)
    return (sums_S / count_S)[dense_N]
