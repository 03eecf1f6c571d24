"""Where quantised weights are multiplied: stand-ins for Linear, Embedding, SwiGLU and Experts with packed matrices.

For use without gradients. T rows, K inputs, N outputs, E experts, k of them chosen a token, R = T k pairs. What a
matrix means is formats/quant.py, the products are native/quant.cpp. Where the kernels are not built, models hold
dequantised weights in the ordinary modules instead (models/packed.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from doran.formats.quant import Stored, concatenate
from doran.native import ops, quant


def pack(*matrices: Stored) -> quant.Packed:
    """Matrices of one shape and kind in the kernels' layout."""
    first = matrices[0]
    return quant.pack(first.kind, [(m.codes, m.scale) for m in matrices], first.columns)


def interleave(gate: Stored, up: Stored) -> Stored:
    """Sixteen rows of gate, sixteen of up, and so on (2I, K): one tile of the native decoder then holds both."""
    order = torch.arange(2 * len(gate.codes)).view(2, -1, quant.PANEL).transpose(0, 1).reshape(-1)
    return concatenate([gate, up]).rows(order)


def apart(gate_up_N: Tensor) -> tuple[Tensor, Tensor]:
    """The product with interleaved rows (N, 2I) as gate and up, (N, I) each."""
    pairs = gate_up_N.view(len(gate_up_N), -1, 2, quant.PANEL)
    return pairs[:, :, 0].flatten(1), pairs[:, :, 1].flatten(1)


class QuantLinear(nn.Module):
    """y = x W^T + b with a packed W. `stored` is kept where others need the rows in another order (MLA)."""

    def __init__(self, weight: quant.Packed, bias: Tensor | None = None, stored: Stored | None = None) -> None:
        super().__init__()
        self.packed, self.stored = weight, stored
        self.in_features, self.out_features = weight.columns, weight.rows
        self.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N), in x's dtype."""
        rows = x.detach().reshape(-1, self.in_features)
        return quant.matmul(rows, self.packed, self.bias).view(*x.shape[:-1], self.out_features)


class QuantEmbedding(nn.Module):
    """Rows of a quantised table, expanded as they are looked up."""

    def __init__(self, table: Stored, dtype: torch.dtype) -> None:
        super().__init__()
        self.table, self.dtype = table, dtype

    def forward(self, tokens: Tensor) -> Tensor:
        """(T,) -> (T, K)."""
        return self.table.rows(tokens).dequantize().to(self.dtype)


class QuantSwiGLU(nn.Module):
    """layers/moe.py's SwiGLU without biases; gate and up are interleaved in one matrix."""

    def __init__(self, gate_up: quant.Packed, down: quant.Packed) -> None:
        super().__init__()
        self.gate_up, self.down = gate_up, down

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return quant.matmul(ops.swiglu_pair(*apart(quant.matmul(x_TD, self.gate_up))), self.down)


class QuantExperts(nn.Module):
    """The routed experts (layers/moe.py) with packed weights: only the chosen experts' bytes are read."""

    def __init__(self, gate_up: quant.Packed, down: quant.Packed) -> None:
        super().__init__()
        self.gate_up, self.down = gate_up, down

    def forward(self, x_TD: Tensor, weights_Tk: Tensor, experts_Tk: Tensor) -> Tensor:
        """Sum of the chosen experts' weighted outputs -> (T, D)."""
        flat_R = experts_Tk.flatten()
        order_R = flat_R.argsort(stable=True)
        offsets = torch.zeros(len(self.gate_up.data) + 1, dtype=torch.int64)
        offsets[1:] = torch.bincount(flat_R, minlength=len(self.gate_up.data)).cumsum(0)
        place_R = torch.empty_like(order_R)
        place_R[order_R] = torch.arange(len(order_R))
        x_RD = ops.expert_gather(x_TD, order_R, place_R, experts_Tk.shape[1])
        hidden = ops.swiglu_pair(*apart(quant.matmul(x_RD, self.gate_up, offsets=offsets)))
        return ops.expert_combine(quant.matmul(hidden, self.down, offsets=offsets), place_R, weights_Tk)
