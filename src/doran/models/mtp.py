"""The multi-token-prediction module (DeepSeek-V3 s2.2). Embedding and head are the main model's; only the rest is here.

Order trap: the paper prints [hidden; embedding], the released eh_proj expects [embedding; hidden]. We follow the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from doran.arch.config import ModelConfig
from doran.layers.attention import Attend
from doran.layers.moe import MoE, RouterStats
from doran.layers.norm import RMSNorm
from doran.layers.rope import RopeTable


class SharedHead(nn.Module):
    """The block's own output norm; the head itself is the main model's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class MTPBlock(nn.Module):
    """One depth: join state and next token's embedding, one decoder layer, norm. Names lie flat, as in the checkpoint."""

    def __init__(self, config: ModelConfig, layer: nn.Module) -> None:
        super().__init__()
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        for name, part in layer.named_children():  # input_layernorm, self_attn, post_attention_layernorm, mlp
            self.add_module(name, part)
        self.shared_head = SharedHead(config)

    def forward(
        self, h_TD: Tensor, embedding_TD: Tensor, rope: RopeTable, attend: Attend, stats: RouterStats | None = None
    ) -> Tensor:
        """(T, D), (T, D) -> (T, D), after shared_head.norm."""
        h_TD = self.eh_proj(torch.cat((self.enorm(embedding_TD), self.hnorm(h_TD)), -1))
        h_TD = h_TD + self.self_attn(self.input_layernorm(h_TD), rope, attend)
        x_TD = self.post_attention_layernorm(h_TD)
        h_TD = h_TD + (self.mlp(x_TD, stats) if isinstance(self.mlp, MoE) else self.mlp(x_TD))
        return self.shared_head.norm(h_TD)
