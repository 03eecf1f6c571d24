"""Cross-entropy and token logprobs straight from hidden states, a block of rows at a time.

The (N, V) logits never exist whole: one block of `rows` of them does (arch.count.logit_rows: 2048, fewer where V is
large), in the autocast dtype; the softmax over them is fp32 (native/ops). `linear_cross_entropy` forms its gradients
while the block is at hand, so its backward costs no matmul. `token_logprobs` (a policy gradient needs the logprobs
before it knows the loss) keeps small logits and computes large ones again.

N rows, D hidden_size, V vocab_size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from doran.arch.count import logit_rows
from doran.data.packing import IGNORE
from doran.native import ops

KEEP_LOGITS = 1 << 26
"""`token_logprobs` keeps up to so many logits (128 MiB in bf16) for backward rather than compute them twice."""

Metrics = dict[str, Tensor]


def linear_cross_entropy(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    denominator: Tensor | float | None = None,
    z_loss: float = 0.0,
    rows: int | None = None,
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
    rows = rows or logit_rows(len(weight_VD))
    loss, nll = _CrossEntropy.apply(h_ND, weight_VD, targets_N, scale, z_loss, rows, _matmul_dtype(h_ND))
    return loss, {"nll": nll, "tokens": torch.tensor(count)}


def token_logprobs(
    h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, temperature: float = 1.0, rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """(logprobs_N, entropy_N) of `targets_N` under softmax(h W^T / temperature), in nats.

    Only the logprobs carry a gradient; the entropy is for the log. `rows` forces blocks of that many rows.
    """
    if rows is None and targets_N.numel() * len(weight_VD) <= KEEP_LOGITS:
        logprobs_N, entropy_N = ops.token_logprobs(F.linear(h_ND, weight_VD), targets_N, temperature)
        return logprobs_N, entropy_N.detach()
    rows = rows or logit_rows(len(weight_VD))
    return _TokenLogprobs.apply(h_ND, weight_VD, targets_N, temperature, rows, _matmul_dtype(h_ND))


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
        grad_h_ND, grad_w_VD = torch.empty_like(h_ND), torch.zeros_like(weight_VD, dtype=torch.float32)
        for start in range(0, targets_N.numel(), rows):
            h_nD, targets_n = h_ND[start : start + rows].detach().to(dtype), targets_N[start : start + rows]
            nll_n, lse_n, d_nV = _block(h_nD, w_VD, targets_n)
            nll += nll_n.sum()
            loss += nll_n.sum() + z * lse_n.square().sum()
            if z:  # d lse^2/d logits = 2 lse p, and p = d + onehot
                extra_n1 = (2.0 * z * lse_n)[:, None].to(d_nV.dtype)
                d_nV = (d_nV * (1.0 + extra_n1)).scatter_add_(1, targets_n[:, None], extra_n1)
            grad_h_ND[start : start + rows] = d_nV @ w_VD  # unscaled: `scale` comes in backward, in fp32
            grad_w_VD += d_nV.T @ h_nD
        ctx.save_for_backward(grad_h_ND, grad_w_VD)
        ctx.scale, ctx.weight_dtype = scale, weight_VD.dtype
        ctx.mark_non_differentiable(nll)
        return loss * scale, nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_h_ND, grad_w_VD = ctx.saved_tensors
        factor = grads[0] * ctx.scale
        grad_h_ND = grad_h_ND * factor.to(grad_h_ND.dtype)
        return grad_h_ND, (grad_w_VD * factor).to(ctx.weight_dtype), None, None, None, None, None


def _block(h_nD: Tensor, w_VD: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(nll_n, logsumexp_n, d nll/d logits = p - onehot) of one block of rows."""
    with torch.enable_grad():
        logits_nV = (h_nD @ w_VD.T).requires_grad_()
        logprobs_n, _ = ops.token_logprobs(logits_nV, targets_n)
        (d_nV,) = torch.autograd.grad(-logprobs_n.sum(), logits_nV)
    chosen_n = logits_nV.detach().gather(1, targets_n[:, None]).squeeze(1).float()
    return -logprobs_n.detach(), chosen_n - logprobs_n.detach(), d_nV


class _TokenLogprobs(torch.autograd.Function):
    """Logprobs in blocks, which backward computes again."""

    @staticmethod
    def forward(
        ctx: Any,
        h_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        temperature: float,
        rows: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        w_VD = weight_VD.to(dtype)
        blocks = [
            ops.token_logprobs(h_nD.to(dtype) @ w_VD.T, targets_n, temperature)
            for h_nD, targets_n in zip(h_ND.split(rows), targets_N.split(rows))
        ]
        logprobs_N, entropy_N = (torch.cat(parts) for parts in zip(*blocks))
        ctx.save_for_backward(h_ND, weight_VD, targets_N)
        ctx.temperature, ctx.rows, ctx.dtype = temperature, rows, dtype
        ctx.mark_non_differentiable(entropy_N)
        return logprobs_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        h_ND, weight_VD, targets_N = ctx.saved_tensors
        w_VD = weight_VD.to(ctx.dtype)
        grad_h_ND, grad_w_VD = torch.empty_like(h_ND), torch.zeros_like(weight_VD, dtype=torch.float32)
        for start in range(0, targets_N.numel(), ctx.rows):
            block = slice(start, start + ctx.rows)
            h_nD = h_ND[block].to(ctx.dtype)
            with torch.enable_grad():
                logits_nV = (h_nD @ w_VD.T).requires_grad_()
                logprobs_n, _ = ops.token_logprobs(logits_nV, targets_N[block], ctx.temperature)
                (d_nV,) = torch.autograd.grad(logprobs_n, logits_nV, grads[0][block])
            grad_h_ND[block] = d_nV @ w_VD
            grad_w_VD += d_nV.T @ h_nD
        return grad_h_ND, grad_w_VD.to(weight_VD.dtype), None, None, None, None
