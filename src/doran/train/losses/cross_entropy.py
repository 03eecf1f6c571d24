"""Cross-entropy and token logprobs straight from hidden states, a block of rows at a time.

The (N, V) logits never exist whole: one block of `rows` of them does, in the autocast dtype for the matmul and in fp32
for the softmax. `linear_cross_entropy` forms its gradients while the block is at hand, so its backward costs no matmul.
`token_logprobs` (policy gradients need the logprobs before they know the loss) recomputes each block in backward.

N rows, D hidden_size, V vocab_size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IGNORE = -100
"""Target that takes no part in a loss (the value torch and transformers use)."""

Metrics = dict[str, Tensor]


def linear_cross_entropy(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    denominator: Tensor | float | None = None,
    z_loss: float = 0.0,
    rows: int = 4096,
) -> tuple[Tensor, Metrics]:
    """Mean of -log softmax(h W^T)[target], plus `z_loss` times the mean of logsumexp^2 (PaLM s5).

    Rows whose target is IGNORE cost nothing. `denominator` (default: the number of rows that count) lets micro-batches
    share one mean. Metrics: `nll` (sum, without z-loss), `tokens` (rows that counted). No row at all gives a loss of 0.
    """
    keep_N = targets_N != IGNORE
    if not bool(keep_N.all()):
        index_M = keep_N.nonzero().squeeze(1)
        h_ND, targets_N = h_ND[index_M], targets_N[index_M]
    count = targets_N.numel()
    scale = 1.0 / float(count if denominator is None else denominator) if count else 0.0
    loss, nll = _CrossEntropy.apply(h_ND, weight_VD, targets_N, scale, z_loss, rows, _matmul_dtype(h_ND))
    return loss, {"nll": nll, "tokens": torch.tensor(count)}


def token_logprobs(
    h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0, rows: int = 4096
) -> tuple[Tensor, Tensor]:
    """(logprobs_N, entropy_N) of `targets_N` under softmax(h W^T / temperature), in nats.

    Only the logprobs carry a gradient; the entropy is for the log.
    """
    return _TokenLogprobs.apply(h_ND, weight_VD, targets_N, 1.0 / temperature, rows, _matmul_dtype(h_ND))


def _matmul_dtype(h_ND: Tensor) -> torch.dtype:
    kind = h_ND.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else h_ND.dtype


class _CrossEntropy(torch.autograd.Function):
    """Loss and both gradients in one pass; backward only multiplies them by the incoming scalar."""

    @staticmethod
    def forward(
        ctx: Any,
        h_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        scale: float,
        z: float,
        rows: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        w_VD = weight_VD.detach().to(dtype)
        loss, nll = torch.zeros((), device=h_ND.device), torch.zeros((), device=h_ND.device)
        need_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_h_ND = torch.empty_like(h_ND) if need_grad else None
        grad_w_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if need_grad else None
        for start in range(0, targets_N.numel(), rows):
            h_nD, t_n1 = h_ND[start : start + rows].detach().to(dtype), targets_N[start : start + rows, None]
            logits_nV = (h_nD @ w_VD.T).float()
            lse_n1 = logits_nV.logsumexp(-1, keepdim=True)
            block_nll = (lse_n1 - logits_nV.gather(1, t_n1)).sum()
            nll += block_nll
            loss += block_nll + z * lse_n1.square().sum() if z else block_nll
            if grad_h_ND is None or grad_w_VD is None:
                continue
            p_nV = logits_nV.sub_(lse_n1).exp_()  # d nll/d logits = p - onehot;  d lse^2/d logits = 2 lse p
            if z:
                p_nV *= 1.0 + 2.0 * z * lse_n1
            p_nV.scatter_add_(1, t_n1, torch.full_like(lse_n1, -1.0))
            d_nV = p_nV.to(dtype)  # unscaled: |d| <= 1 keeps bf16's relative precision, `scale` comes in backward
            grad_h_ND[start : start + rows] = d_nV @ w_VD
            grad_w_VD += d_nV.T @ h_nD
        ctx.save_for_backward(grad_h_ND, grad_w_VD)
        ctx.scale, ctx.weight_dtype = scale, weight_VD.dtype
        ctx.mark_non_differentiable(nll)
        return loss * scale, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_h_ND, grad_w_VD = ctx.saved_tensors
        factor = grads[0] * ctx.scale
        return (
            grad_h_ND * factor.to(grad_h_ND.dtype),
            (grad_w_VD * factor).to(ctx.weight_dtype),
            None,
            None,
            None,
            None,
            None,
        )


class _TokenLogprobs(torch.autograd.Function):
    """Logprobs with a recomputing backward: d logprob/d logits = onehot - p."""

    @staticmethod
    def forward(
        ctx: Any, h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, beta: float, rows: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        w_VD = weight_VD.detach().to(dtype)
        logprobs_N = torch.empty(targets_N.numel(), device=h_ND.device)
        entropy_N, lse_N = torch.empty_like(logprobs_N), torch.empty_like(logprobs_N)
        for start in range(0, targets_N.numel(), rows):
            block = slice(start, start + rows)
            logits_nV = (h_ND[block].detach().to(dtype) @ w_VD.T).float().mul_(beta)
            lse_n = logits_nV.logsumexp(-1)
            logits_nV -= lse_n[:, None]
            lse_N[block], logprobs_N[block] = lse_n, logits_nV.gather(1, targets_N[block, None]).squeeze(1)
            entropy_N[block] = -(logits_nV.exp() * logits_nV).sum(-1)
        ctx.save_for_backward(h_ND, weight_VD, targets_N, lse_N)
        ctx.beta, ctx.rows, ctx.dtype = beta, rows, dtype
        ctx.mark_non_differentiable(entropy_N)
        return logprobs_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h_ND, weight_VD, targets_N, lse_N = ctx.saved_tensors
        g_N = grads[0]
        w_VD = weight_VD.to(ctx.dtype)
        grad_h_ND, grad_w_VD = torch.empty_like(h_ND), torch.zeros_like(weight_VD, dtype=torch.float32)
        for start in range(0, targets_N.numel(), ctx.rows):
            block = slice(start, start + ctx.rows)
            h_nD, g_n1 = h_ND[block].to(ctx.dtype), g_N[block, None] * ctx.beta
            p_nV = (h_nD @ w_VD.T).float().mul_(ctx.beta).sub_(lse_N[block, None]).exp_()
            d_nV = p_nV.mul_(-g_n1).scatter_add_(1, targets_N[block, None], g_n1).to(ctx.dtype)
            grad_h_ND[block] = d_nV @ w_VD
            grad_w_VD += d_nV.T @ h_nD
        return grad_h_ND, grad_w_VD.to(weight_VD.dtype), None, None, None, None
