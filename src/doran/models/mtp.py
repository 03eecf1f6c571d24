"""The multi-token-prediction module (DeepSeek-V3 s2.2). Embedding and head are the main model's; only the rest is here.

Order trap: the paper prints [hidden; embedding], the released eh_proj expects [embedding; hidden]. We follow the
weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from doran.arch.config import ModelConfig
from doran.layers.attention import Attend
from doran.layers.moe import RouterStats
from doran.layers.norm import RMSNorm
from doran.layers.rope import RopeTable
from doran.models.block import DecoderLayer


class SharedHead(nn.Module):
    """The block's own output norm; the head itself is the main model's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class MTPBlock(DecoderLayer):
    """One depth: join state and next token's embedding, one decoder layer, norm. Names lie flat, as in the
    checkpoint."""

    def __init__(self, config: ModelConfig, self_attn: nn.Module, mlp: nn.Module) -> None:
        super().__init__(config, self_attn, mlp)
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.shared_head = SharedHead(config)

    def predict(
        self, h_TD: Tensor, embedding_TD: Tensor, rope: RopeTable, attend: Attend, stats: RouterStats | None = None
    ) -> Tensor:
        """(T, D), (T, D) -> (T, D), after shared_head.norm."""
        h_TD = self.eh_proj(torch.cat((self.enorm(embedding_TD), self.hnorm(h_TD)), -1))
        return self.shared_head.norm(self(h_TD, rope, attend, stats))
