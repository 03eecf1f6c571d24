"""Routed experts divided over the processes: tokens travel to their experts and the results travel back.

Process r of W holds experts r E/W to (r + 1) E/W - 1. What they compute is layers/moe.py's; here is only the way there:
pairs sorted by expert, so that what goes to one process lies together, sent by all-to-all, its own backward.

T tokens of this process, k experts a token, R = T k pairs, S pairs that arrive here, D hidden, E experts of width I.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from doran.layers.moe import Experts, apply_experts
from doran.native import ops
from doran.parallel.parts import own


class Exchange(torch.autograd.Function):
    """Rows to other processes: `sent[r]` of x go to process r, `got[r]` come from it. The gradient goes back."""

    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, sent: list[int], got: list[int]) -> Tensor:
        ctx.sizes = sent, got
        return _exchanged(x_RD, sent, got)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        sent, got = ctx.sizes
        return _exchanged(grads[0], got, sent), None, None


def _exchanged(x: Tensor, sent: list[int], got: list[int]) -> Tensor:
    out = x.new_empty((sum(got), *x.shape[1:]))
    dist.all_to_all_single(out, x.contiguous(), got, sent)
    return out


class DividedExperts(nn.Module):
    """Stands in the place of `Experts`, under the same names; a process holds E / W of them."""

    def __init__(self, experts: Experts, mesh: DeviceMesh) -> None:
        super().__init__()
        self.size = mesh.size()
        self.num_experts = len(experts.gate_up_proj)
        cut = lambda t: nn.Parameter(distribute_tensor(t.data, mesh, [Shard(0)], src_data_rank=None))  # noqa: E731
        self.gate_up_proj, self.down_proj = cut(experts.gate_up_proj), cut(experts.down_proj)

    def forward(self, x_TD: Tensor, weights_Tk: Tensor, experts_Tk: Tensor) -> Tensor:
        """As Experts.forward, (T, D)."""
        flat_R = experts_Tk.flatten()
        order_R = flat_R.argsort(stable=True)
        place_R = torch.empty_like(order_R)
        place_R[order_R] = torch.arange(len(order_R), device=order_R.device)
        counts_WE = torch.bincount(flat_R, minlength=self.num_experts).view(self.size, -1)
        heard_WE = torch.empty_like(counts_WE)  # row r: how many pairs process r has for each of the experts here
        dist.all_to_all_single(heard_WE, counts_WE)
        sent, got = counts_WE.sum(1).tolist(), heard_WE.sum(1).tolist()
        kind = x_TD.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_TD.dtype
        x_RD = ops.expert_gather(x_TD.to(dtype), order_R, place_R, experts_Tk.shape[1])
        y_SD = self.work(Exchange.apply(x_RD, sent, got), heard_WE)
        return ops.expert_combine(Exchange.apply(y_SD, got, sent), place_R, weights_Tk)

    def work(self, x_SD: Tensor, heard_WE: Tensor) -> Tensor:
        """What the experts here make of the rows that arrived, in their order."""
        gate_up_EID, down_EDI = own(self.gate_up_proj), own(self.down_proj)
        if not len(x_SD):  # nobody needs them: a gradient of zeros all the same, since the optimizer decays them
            return x_SD + 0.0 * (gate_up_EID.sum() + down_EDI.sum()).to(x_SD.dtype)
        expert_E = torch.arange(heard_WE.shape[1], device=x_SD.device)
        expert_S = expert_E.repeat(self.size).repeat_interleave(heard_WE.flatten())
        ones_S1 = torch.ones(len(x_SD), 1, device=x_SD.device)
        return apply_experts(x_SD, ones_S1, expert_S[:, None], gate_up_EID, down_EDI)
