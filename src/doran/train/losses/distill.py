"""What distillation minimises: KL to a teacher's stored top-k, exact reverse KL on the student's own samples.

Pure functions of scores. Not here: who samples, who scores, and when (train/distill.py).

N rows (learned tokens), V vocab_size, K stored tokens of each row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TINY = 1e-12


def topk_kl(logits_NV: Tensor, ids_NK: Tensor, teacher_logprobs_NK: Tensor) -> Tensor:
    """Forward KL(teacher || student) of each row, (N,), over K + 1 outcomes: the K stored tokens and the rest as one.

        sum_k p_k (log p_k - log q_k) + r (log r - log s),   r = 1 - sum_k p_k,   s = 1 - sum_k q_k

    p is the teacher, q the student (softmax of `logits_NV`). By the data-processing inequality it is at most the KL
    over the whole vocabulary, equal to it for K = V (Hinton 1503.02531 with a truncated teacher). log s is a logsumexp
    over the other logits, so neither value nor gradient is NaN where s is tiny; r = 0 adds nothing.
    """
    logits_NV = logits_NV.float()
    teacher_logprobs_NK = teacher_logprobs_NK.float()
    total_N = logits_NV.logsumexp(-1)
    q_NK = logits_NV.gather(-1, ids_NK) - total_N[:, None]
    p_NK = teacher_logprobs_NK.exp()
    kl_N = (p_NK * (teacher_logprobs_NK.clamp_min(math.log(TINY)) - q_NK)).sum(-1)
    if ids_NK.shape[-1] >= logits_NV.shape[-1]:
        return kl_N
    rest_N = (1.0 - p_NK.sum(-1)).clamp_min(0.0)
    other_N = logits_NV.scatter(-1, ids_NK, -torch.inf).logsumexp(-1) - total_N
    return kl_N + rest_N * (rest_N.clamp_min(TINY).log() - other_N)


def reverse_kl(logits_NV: Tensor, teacher_logits_NV: Tensor) -> Tensor:
    """KL(student || teacher) of each row over the whole vocabulary, (N,): sum_v q_v (log q_v - log p_v).

    On the student's own samples, without a gradient through the sampling, this is on-policy GKD with the reverse KL
    (Agarwal et al. 2306.13649, eq 3, lambda = 1; MiniLLM 2306.08543 argues for this direction).
    """
    q_NV = logits_NV.float().log_softmax(-1)
    p_NV = teacher_logits_NV.detach().float().log_softmax(-1)
    return (q_NV.exp() * (q_NV - p_NV)).sum(-1)


def on_policy_advantages(sampled_logprobs_N: Tensor, teacher_logprobs_N: Tensor) -> Tensor:
    """A_t = log p(y_t) - log q(y_t), (N,): minus the one-sample estimate of each token's reverse KL.

    Put through a policy gradient, its mean over y_t ~ q is the gradient of `reverse_kl` (on-policy distillation as in
    Qwen3 2505.09388 s4.5 and Lu et al. 2025). It needs of the teacher one number a token, not its distribution.
    """
    return (teacher_logprobs_N - sampled_logprobs_N).detach()


def on_policy_loss(logprobs_N: Tensor, sampled_logprobs_N: Tensor, advantages_N: Tensor, clip: float = 5.0) -> Tensor:
    """-w_t A_t of each token, (N,), with w_t = q(y_t) / q_old(y_t), at most `clip`: a bf16 sampler is not quite q."""
    return -(logprobs_N - sampled_logprobs_N.detach()).clamp_max(math.log(clip)).exp() * advantages_N.detach()
