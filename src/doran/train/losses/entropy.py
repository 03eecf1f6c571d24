"""Entropy of the policy with a gradient, and a coefficient that follows a target (Skywork-OR1, 2505.22312 s4).

A bonus coef * H keeps a policy from closing its alternatives; with a fixed coefficient it often does harm, so the
coefficient is moved towards what holds H at a target, and is not applied while H lies above it.

N tokens, D hidden_size, V vocab_size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from doran.arch.count import logit_rows


def entropies(h_ND: Tensor, weight_VD: Tensor, *, temperature: float = 1.0, rows: int | None = None) -> Tensor:
    """Entropy in nats of softmax(h W^T / temperature) of each row, with gradient; logits live for `rows` rows."""
    rows = rows or logit_rows(len(weight_VD), 1024, 1 << 24)  # several fp32 copies of a block live at a time

    def block(h_nD: Tensor, w_VD: Tensor) -> Tensor:
        logp_nV = (F.linear(h_nD, w_VD).float() / temperature).log_softmax(-1)
        return -(logp_nV.exp() * logp_nV).sum(-1)

    parts = [checkpoint(block, h_nD, weight_VD, use_reentrant=False) for h_nD in h_ND.split(rows)]
    return torch.cat([part for part in parts if isinstance(part, Tensor)])


def adapted_coefficient(coefficient: float, entropy: float, target: float, step: float) -> float:
    """The coefficient of the next update: up by `step` where the entropy is below its target, else down to 0."""
    return max(0.0, coefficient + step if entropy < target else coefficient - step)
