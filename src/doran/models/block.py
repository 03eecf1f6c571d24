"""The block every family shares: pre-norm attention and feed-forward, each with its residual."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from doran.arch.config import ModelConfig
from doran.layers.attention import Attend
from doran.layers.moe import MoE, RouterStats
from doran.layers.norm import RMSNorm
from doran.layers.rope import RopeTable

MakeParts = Callable[[ModelConfig, int], tuple[nn.Module, nn.Module]]  # (config, layer) -> self_attn, mlp: a family


class DecoderLayer(nn.Module):
    """One layer; `self_attn` and `mlp` are what families differ in."""

    def __init__(self, config: ModelConfig, self_attn: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = self_attn
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = mlp

    def forward(self, h_TD: Tensor, rope: RopeTable, attend: Attend, stats: RouterStats | None = None) -> Tensor:
        """(T, D) -> (T, D)."""
        h_TD = h_TD + self.self_attn(self.input_layernorm(h_TD), rope, attend)
        x_TD = self.post_attention_layernorm(h_TD)
        return h_TD + (self.mlp(x_TD, stats) if isinstance(self.mlp, MoE) else self.mlp(x_TD))
