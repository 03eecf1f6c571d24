"""AdamW whose moments take a byte each, in blocks (Dettmers et al. 2110.02861), with another code than theirs.

A block of 256 neighbours shares one fp32 scale, its largest magnitude; the codes follow a power law, so that small
values beside a large one keep their order of magnitude:

    m = scale sign(c) (|c| / 127)^2,  c in -127..127        v = scale (c / 255)^4,  c in 0..255

A positive v never becomes 0: it stands under the root of a denominator. The update itself uses the moments before they
are rounded, in fp32. Small tensors (norms, biases) stay in fp32. Not here: sharding, stochastic rounding.

P values of a chunk, B blocks of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 256
SMALLEST = 4096  # values; tensors with fewer keep fp32 moments
CHUNK = 1 << 18  # values updated at a time: temporaries stay in the cache, whatever the tensor's size
FLOOR = 1e-30  # a block of zeros has this scale


def quantise_signed(x_P: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 codes_P, fp32 scales_B) of first moments."""
    x_BK = _blocks(x_P)
    scale_B = x_BK.abs().amax(1).clamp_min_(FLOOR)
    unit_BK = x_BK / scale_B[:, None]
    codes_BK = unit_BK.abs().sqrt_().mul_(127).round_().copysign_(unit_BK)
    return codes_BK.flatten()[: len(x_P)].to(torch.int8), scale_B


def dequantise_signed(codes_P: Tensor, scale_B: Tensor) -> Tensor:
    """What the codes stand for, fp32 (P,)."""
    root_BK = _blocks(codes_P.float().div_(127))
    return (root_BK * root_BK.abs()).mul_(scale_B[:, None]).flatten()[: len(codes_P)]


def quantise_positive(x_P: Tensor) -> tuple[Tensor, Tensor]:
    """(uint8 codes_P, fp32 scales_B) of second moments; code 0 is kept for exact zeros."""
    x_BK = _blocks(x_P)
    scale_B = x_BK.amax(1).clamp_min_(FLOOR)
    codes_BK = (x_BK / scale_B[:, None]).sqrt_().sqrt_().mul_(255).round_()
    codes_BK.clamp_min_((x_BK > 0).to(codes_BK.dtype))
    return codes_BK.flatten()[: len(x_P)].to(torch.uint8), scale_B


def dequantise_positive(codes_P: Tensor, scale_B: Tensor) -> Tensor:
    """What the codes stand for, fp32 (P,)."""
    return _blocks(codes_P.float().div_(255)).square().square().mul_(scale_B[:, None]).flatten()[: len(codes_P)]


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 1711.05101) as torch's, with the state above: 2.03 bytes a parameter, not 8."""

    def __init__(
        self, params: Iterable[dict[str, Any]] | Iterable[nn.Parameter], lr: float, betas: tuple[float, float],
        eps: float, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state.update(_fresh(p))
        state["step"] += 1
        values_P, grad_P = p.view(-1), grad.reshape(-1)
        coarse = "m_scale" in state
        for start in range(0, p.numel(), CHUNK):
            part = slice(start, start + CHUNK)
            blocks = slice(start // BLOCK, -(-(start + CHUNK) // BLOCK))
            m_P, v_P = state["m"][part], state["v"][part]
            if coarse:
                m_P = dequantise_signed(m_P, state["m_scale"][blocks])
                v_P = dequantise_positive(v_P, state["v_scale"][blocks])
            _adamw(values_P[part], grad_P[part].float(), m_P, v_P, float(state["step"]), group)
            if coarse:
                state["m"][part], state["m_scale"][blocks] = quantise_signed(m_P)
                state["v"][part], state["v_scale"][blocks] = quantise_positive(v_P)


def _adamw(p_P: Tensor, g_P: Tensor, m_P: Tensor, v_P: Tensor, step: float, group: dict[str, Any]) -> None:
    """Move p, m and v in place."""
    (beta1, beta2), lr = group["betas"], group["lr"]
    m_P.lerp_(g_P, 1 - beta1)
    v_P.mul_(beta2).addcmul_(g_P, g_P, value=1 - beta2)
    below_P = v_P.sqrt().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
    p_P.mul_(1 - lr * group["weight_decay"])
    p_P.addcdiv_(m_P.to(p_P.dtype), below_P.to(p_P.dtype), value=-lr / (1 - beta1**step))


def _fresh(p: Tensor) -> dict[str, Tensor]:
    """The state before the first step."""
    size, step = p.numel(), torch.zeros((), dtype=torch.float32)
    if size < SMALLEST:
        return {"step": step, "m": p.new_zeros(size, dtype=torch.float32), "v": p.new_zeros(size, dtype=torch.float32)}
    blocks = -(-size // BLOCK)
    scales = {name: p.new_full((blocks,), FLOOR, dtype=torch.float32) for name in ("m_scale", "v_scale")}
    codes = {"m": p.new_zeros(size, dtype=torch.int8), "v": p.new_zeros(size, dtype=torch.uint8)}
    return {"step": step, **codes, **scales}


def _blocks(x_P: Tensor) -> Tensor:
    """(B, BLOCK), the last block filled up with zeros."""
    return F.pad(x_P, (0, -len(x_P) % BLOCK)).view(-1, BLOCK)
