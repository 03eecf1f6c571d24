"""RMSNorm, always computed in fp32. No bias, no mean: nothing else is called a norm here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from doran.native import ops


class RMSNorm(nn.Module):
    """y = weight * x / rms(x), over the last axis. The result has x's dtype, or autocast's where autocast is on."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        # The next op is a matmul: handing it autocast's dtype saves it a cast for each of its uses.
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        return ops.rms_norm(x.to(dtype), self.weight, self.eps)
