"""Feed-forward layers: SwiGLU, DeepSeek's router, routed and shared experts. No token is ever dropped.

T tokens, D hidden, E routed experts, I their width, k experts a token, G groups, S sequences. The experts' weights are
two stacked parameters, `experts.gate_up_proj` (E, 2I, D) and `experts.down_proj` (E, D, I), as in transformers' memory;
files hold one tensor an expert and projection (formats/names.py). Router arithmetic is fp32, autocast or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doran.arch.config import ModelConfig
from doran.native import ops

ROUND_ROWS = (128, 16)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return self.down_proj(ops.swiglu_pair(self.gate_proj(x_TD), self.up_proj(x_TD)))


class RouterStats:
    """What one or more forwards did to the experts; pass it to the model to have it filled.

    `balance`: whether to compute the balance loss; it costs time, and without a weight it is worth nothing.
    `loads[layer]` (E,) int64 counts add up over forwards until `reset`, as the bias update needs them. `balance_loss`
    is the sequence-wise loss (DeepSeek-V3 eq 17-20) WITHOUT its factor alpha, summed over the MoE layers of the
    latest forward and the MTP calls after it: 1 a layer at perfect balance.
    """

    def __init__(self, balance: bool = True) -> None:
        self.balance = balance
        self.loads: dict[int, Tensor] = {}
        self.balance_losses: dict[int, Tensor] = {}
        self.cu_seqlens: Tensor | None = None

    @property
    def balance_loss(self) -> Tensor:
        """A scalar with gradient; 0 where no layer has experts or nobody asked."""
        return sum(self.balance_losses.values(), torch.zeros(()))

    def reset(self) -> None:
        """Forget everything."""
        self.__init__(self.balance)  # type: ignore[misc]

    def begin(self, cu_seqlens: Tensor | None) -> None:
        """A new forward starts; its sequences are these (None: all tokens are one)."""
        self.balance_losses, self.cu_seqlens = {}, cu_seqlens

    @contextmanager
    def counting(self, counts: bool) -> Iterator[None]:
        """Inside, with False, the loads stay as they are (0 for a layer that had none): the tokens are no real ones."""
        before = dict(self.loads)
        yield
        if not counts:
            self.loads = {i: before.get(i, torch.zeros_like(load_E)) for i, load_E in self.loads.items()}

    @contextmanager
    def again(self, cu_seqlens: Tensor | None) -> Iterator[None]:
        """Inside, a part of an earlier forward, whose sequences were these, is computed again and leaves no trace."""
        before = self.loads, self.balance_losses, self.cu_seqlens
        self.loads, self.balance_losses, self.cu_seqlens = dict(self.loads), dict(self.balance_losses), cu_seqlens
        try:
            yield
        finally:
            self.loads, self.balance_losses, self.cu_seqlens = before

    def add(self, layer: int, scores_TE: Tensor, experts_Tk: Tensor) -> None:
        """Note one layer's routing: its scores before the bias and the experts chosen."""
        count = torch.bincount(experts_Tk.flatten(), minlength=scores_TE.shape[1])
        self.loads[layer] = self.loads[layer] + count if layer in self.loads else count
        if self.balance:
            self.balance_losses[layer] = balance_loss(scores_TE, experts_Tk.shape[1], self.cu_seqlens)


def balance_loss(scores_TE: Tensor, top_k: int, cu_seqlens: Tensor | None = None) -> Tensor:
    """Mean over sequences of sum_i f_i P_i (DeepSeek-V3 eq 17-20, without alpha), a scalar.

    f_i = E/(k T) * #{t: i among the k best unbiased scores}, P_i = mean_t of s_it / sum_j s_jt. f carries no
    gradient, so with f of each token's own sequence at hand the loss is one weighted sum over tokens.
    """
    tokens, experts = scores_TE.shape
    bounds = torch.tensor([0, tokens]) if cu_seqlens is None else cu_seqlens
    sizes_S = bounds.diff()
    sequence_T = torch.arange(len(sizes_S)).repeat_interleave(sizes_S)
    best_Tk = scores_TE.detach().topk(top_k, dim=-1).indices
    flat = (sequence_T[:, None] * experts + best_Tk).flatten()
    counts_SE = torch.bincount(flat, minlength=len(sizes_S) * experts).view(-1, experts)
    weight_SE = counts_SE * (experts / top_k) / (sizes_S[:, None] ** 2 * len(sizes_S))
    p_TE = scores_TE / scores_TE.sum(-1, keepdim=True)
    return (p_TE * weight_SE.float()[sequence_T]).sum()


class Router(nn.Module):
    """Sigmoid scores, biased and group-limited choice, unbiased weights (DeepSeek-V3 eq 12-16)."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts, dtype=torch.float32))

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> weights (T, k) fp32 with gradient, experts (T, k) int64, scores (T, E) fp32."""
        with torch.autocast(x_TD.device.type, enabled=False):
            scores_TE = F.linear(x_TD.float(), self.weight.float()).sigmoid()
        experts_Tk = self.choose(scores_TE.detach())
        weights_Tk = scores_TE.gather(1, experts_Tk)
        if self.config.norm_topk_prob:
            weights_Tk = weights_Tk / (weights_Tk.sum(-1, keepdim=True) + 1e-20)
        return weights_Tk * self.config.routed_scaling_factor, experts_Tk, scores_TE

    @torch.no_grad()
    def choose(self, scores_TE: Tensor) -> Tensor:
        """The k experts with the best biased scores among the `topk_group` groups with the best pairs."""
        c = self.config
        biased_TE = scores_TE + self.e_score_correction_bias
        if c.topk_group < c.n_group:
            by_group_TGX = biased_TE.unflatten(-1, (c.n_group, -1))
            group_scores_TG = by_group_TGX.topk(2, dim=-1).values.sum(-1)
            kept = group_scores_TG.topk(c.topk_group, dim=-1).indices
            dropped_TG = torch.ones_like(group_scores_TG, dtype=torch.bool).scatter_(1, kept, False)
            fill = float("-inf") if c.masked_group_score == "-inf" else 0.0
            biased_TE = by_group_TGX.masked_fill(dropped_TG[..., None], fill).flatten(1)
        return biased_TE.topk(c.num_experts_per_tok, dim=-1).indices


def expert_layout(experts_Tk: Tensor, num_experts: int) -> tuple[Tensor, Tensor, list[int]]:
    """Where each of the T*k (token, expert) pairs goes when rows are grouped by expert.

    -> rows_P, the pair in each of the P rows; place_R, the row of each pair; the P rows' split over the experts. With
    many rows, an expert's are rounded up to one of ROUND_ROWS: matrix products then meet few different shapes, and the
    library that runs them keeps the code it made for each. Rows without a pair repeat pair 0; nothing reads them.
    """
    flat_R = experts_Tk.flatten()
    order_R = flat_R.argsort(stable=True)
    counts_E = torch.bincount(flat_R, minlength=num_experts)
    step = next((r for r in ROUND_ROWS if len(flat_R) >= r * num_experts), 1)
    sizes_E = (counts_E + step - 1) // step * step
    shift_E = (sizes_E - counts_E).cumsum(0) - (sizes_E - counts_E)
    place_sorted_R = torch.arange(len(flat_R), device=flat_R.device) + shift_E.repeat_interleave(counts_E)
    segments = sizes_E.tolist()
    rows_P = flat_R.new_zeros(sum(segments))
    rows_P[place_sorted_R] = order_R
    place_R = torch.empty_like(order_R)
    place_R[order_R] = place_sorted_R
    return rows_P, place_R, segments


def apply_experts(
    x_TD: Tensor, weights_Tk: Tensor, experts_Tk: Tensor, gate_up_EID: Tensor, down_EDI: Tensor
) -> Tensor:
    """Sum of the chosen experts' weighted outputs -> (T, D), T > 0; gate and up are 2I rows. Tokens are sorted by
    expert once; gathers only, so the result does not depend on threads."""
    rows_P, place_R, segments = expert_layout(experts_Tk, len(gate_up_EID))
    kind = x_TD.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x_TD.dtype
    x_PD = ops.expert_gather(x_TD.to(dtype), rows_P, place_R, experts_Tk.shape[1])
    gate_up, down = gate_up_EID.to(dtype).unbind(0), down_EDI.to(dtype).unbind(0)
    parts = [
        F.linear(ops.swiglu(F.linear(part, gate_up[e])), down[e])
        for e, part in enumerate(x_PD.split(segments))
        if segments[e]
    ]
    return ops.expert_combine(torch.cat(parts), place_R, weights_Tk)


class Experts(nn.Module):
    """The stacked weights of the routed experts and the work they do."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        e, i, d = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(e, 2 * i, d))
        self.down_proj = nn.Parameter(torch.empty(e, d, i))

    def forward(self, x_TD: Tensor, weights_Tk: Tensor, experts_Tk: Tensor) -> Tensor:
        """Sum of the chosen experts' weighted outputs -> (T, D)."""
        return apply_experts(x_TD, weights_Tk, experts_Tk, self.gate_up_proj, self.down_proj)

    def slow(self, x_TD: Tensor, weights_Tk: Tensor, experts_Tk: Tensor) -> Tensor:
        """The same, token by token: the reference for tests."""
        rows = []
        for x_D, weights, chosen in zip(x_TD, weights_Tk, experts_Tk.tolist(), strict=True):
            out = [F.linear(_silu_gate(F.linear(x_D, self.gate_up_proj[e])), self.down_proj[e]) for e in chosen]
            rows.append(sum(w * o for w, o in zip(weights, out, strict=True)))
        return torch.stack(rows)  # type: ignore[arg-type]


def _silu_gate(gate_up_P2I: Tensor) -> Tensor:
    gate, up = gate_up_P2I.chunk(2, dim=-1)
    return F.silu(gate) * up


class MoE(nn.Module):
    """Router, routed experts, and shared experts that see every token without a gate (DeepSeek-V3 eq 12)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_experts = (
            SwiGLU(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)
            if config.n_shared_experts
            else None
        )

    def forward(self, x_TD: Tensor, stats: RouterStats | None = None) -> Tensor:
        """(T, D) -> (T, D); notes its routing in `stats` if given."""
        weights_Tk, experts_Tk, scores_TE = self.gate(x_TD)
        if stats is not None:
            stats.add(self.layer, scores_TE, experts_Tk)
        y_TD = self.experts(x_TD, weights_Tk, experts_Tk)
        return y_TD if self.shared_experts is None else y_TD + self.shared_experts(x_TD)


@torch.no_grad()
def update_router_bias(model: nn.Module, stats: RouterStats, gamma: float) -> None:
    """Aux-loss-free balancing (DeepSeek-V3 s2.1.2): overloaded experts' bias goes down by gamma, the others' up."""
    for module in model.modules():
        if isinstance(module, MoE) and module.layer in stats.loads:
            load_E = stats.loads[module.layer].float()
            module.gate.e_score_correction_bias += gamma * torch.sign(load_E.mean() - load_E)
